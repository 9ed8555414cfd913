"""Fit the heads that guess what a model will choose (`nomina.heads`), for speed alone.

Reads prompts of annotated sentences once, keeps the last hidden states behind every word, and fits
small heads to the annotated choices. Some labels of each corpus are asked for that are not there.

    NOMINA_DATA=... python tools/heads.py nomina/adapters/default
    python tools/heads.py my-adapter --corpora my.jsonl --sentences 500
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track

import nomina
from nomina.corpora import read_corpus
from nomina.entities import Example, LabelSet
from nomina.errors import NominaError
from nomina.formats import Sentence
from nomina.grounding import Fork, Grounding
from nomina.heads import PHASES, Heads, places, word_ends
from nomina.models import LanguageModel

SHARES = {"runs/written.jsonl": 0.45, "open_types": 0.25, "task_sets": 0.2, "fewnerd_part": 0.1}


class Choice(NamedTuple):
    """A fork of an annotated walk, and the choice that leads on."""

    phase: int
    word: int
    start: int
    fork: Fork
    choice: int


Row = tuple[torch.Tensor, list[Choice]]  # states of the words and of the prompt's last token


@torch.inference_mode()
def read_prompt(model: LanguageModel, example: Example, names: Sequence[str]) -> Row | None:
    """Return states of the words and of the last token, and the forks of the annotated walk."""
    sentence = Sentence.of(example.text, example.offsets)
    prompt = model.format.prompt(sentence, LabelSet.of(names), False)
    grounding = Grounding(model.format, sentence, tuple(names), model.lexicon)
    prefix, rest = model.prefix_ids(prompt), model.sentence_ids(prompt)
    if len(prefix) + len(rest) > 700:
        return None
    hidden = model.hidden(torch.tensor([prefix + rest], device=model.device))[0]
    ends = [len(prefix) + end for end in word_ends(grounding)]
    states = hidden[[*ends, len(prefix) + len(rest) - 1]].float().cpu()
    gold = {span.start: (span.end, names.index(span.label)) for span in example.spans}
    forks = [
        Choice(PHASES.index(fork.state.phase), fork.state.word, fork.state.start, fork, choice)
        for fork, choice in grounding.walk(gold)
        if fork.state.phase == "label" or fork.state.word < len(sentence.words)
    ]
    return states.bfloat16(), forks


def collect(model: LanguageModel, shares: Mapping[str, float], count: int, seed: int) -> list[Row]:
    """Read sentences of corpora; each is asked for its labels and some that it does not have."""
    rng, console = random.Random(seed), Console(stderr=True)
    found: list[Row] = []
    for name, share in shares.items():
        corpus = read_corpus(name)
        examples = corpus.examples
        some = rng.sample(examples, min(len(examples), round(count * share)))
        for example in track(some, f"reading {name}", console=console):
            own = sorted({span.label for span in example.spans})
            rest = [label for label in corpus.labels.names if label not in own]
            names = own + rng.sample(rest, min(len(rest), rng.randint(0, 8)))
            rng.shuffle(names)
            try:
                row = read_prompt(model, example, names) if names else None
            except NominaError as error:  # labels that the vocabulary cannot tell apart
                print(f"left out: {error}", file=sys.stderr)
                continue
            found += [row] if row else []
    rng.shuffle(found)
    return found


def lay_out(
    rows: Sequence[Row], phase: int
) -> tuple[torch.Tensor, list[tuple[int, ...]], torch.Tensor]:
    """Return where the states of three words stand, the ids to choose from, and the choices."""
    words: list[list[int]] = []
    allowed: list[tuple[int, ...]] = []
    moves: list[int] = []
    offset = 0
    for states, forks in rows:
        for number, at, start, fork, choice in forks:
            if number != phase:
                continue
            words.append([offset + place for place in places(PHASES[phase], at, start)])
            allowed.append(fork.allowed)
            moves.append(choice if PHASES[phase] == "label" else fork.moves[choice][0])
        offset += len(states)
    where = torch.tensor(words, dtype=torch.long).view(-1, 3).T  # (3, forks)
    return where, allowed, torch.tensor(moves, dtype=torch.long)


def fit_phase(
    model: LanguageModel,
    train: Sequence[Row],
    test: Sequence[Row],
    phase: int,
    rank: int,
    epochs: int,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Fit one head; return its weights and how often it is right on sentences held out."""
    states = [torch.cat([x for x, _ in part]) for part in (train, test)]
    mean, spread = states[0].float().mean(0), states[0].float().std(0) + 1e-3
    width, is_label = states[0].shape[1], PHASES[phase] == "label"
    mix = torch.nn.Parameter(torch.randn(3, width, rank) / (3 * width) ** 0.5)
    shift = torch.nn.Parameter(torch.zeros(rank))
    out = torch.nn.Parameter(torch.randn(rank, width if is_label else 1) / rank**0.5 / 30)
    bias = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([mix, shift, out, bias], lr=rate, weight_decay=0.1)
    where, allowed, moves = lay_out(train, phase)
    if not len(moves):  # one label alone is never chosen
        return mix.data * 0, shift.data, out.data * 0, bias.data, math.nan
    chunks = range(0, len(moves), 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * len(chunks))

    def logits(which: int, at: torch.Tensor, choices: Any) -> torch.Tensor:
        three = (states[which][at].float() - mean) / spread  # (3, n, width)
        features = torch.nn.functional.gelu(torch.einsum("pnw,pwr->nr", three, mix) + shift)
        if not is_label:
            return torch.stack([torch.zeros(len(features)), features @ out[:, 0] + bias[0]], -1)
        longest = max(map(len, choices))
        ids = torch.tensor([[*x, *[0] * (longest - len(x))] for x in choices])
        is_real = torch.arange(longest) < torch.tensor([[len(x)] for x in choices])
        return model.choice_logits(features @ out, ids).masked_fill(~is_real, -1e9)

    for _ in track(range(epochs), f"fitting {PHASES[phase]!r}", console=Console(stderr=True)):
        order = torch.randperm(len(moves))
        for start in chunks:
            some = order[start : start + 64]
            picked = [allowed[k] for k in some] if is_label else None
            loss = torch.nn.functional.cross_entropy(logits(0, where[:, some], picked), moves[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    where, allowed, moves = lay_out(test, phase)
    right = math.nan
    if len(moves):
        with torch.no_grad():
            guessed = logits(1, where, allowed).argmax(-1)
        right = float((guessed == moves).float().mean())
    # Fold what the states were made even with into the weights.
    folded = mix.data / spread[:, None]
    shift = shift.data - torch.einsum("w,pwr->r", mean, folded)
    return folded, shift, out.data, bias.data, right


def main() -> None:
    """Fit the heads of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model, where they are written")
    parser.add_argument("--corpora", nargs="+", help="names or files; our mixture if none")
    parser.add_argument("--sentences", type=int, default=4500)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = nomina.load(options.model).model
    if not model.format.is_piecewise or model.is_encoder_decoder:
        sys.exit(f"{options.model}: heads are for decoders that write the `inline` format")
    names = options.corpora
    shares = dict.fromkeys(names, 1 / len(names)) if names else SHARES
    rows = collect(model, shares, options.sentences, options.seed)
    if len(rows) < 20:
        sys.exit(f"{len(rows)} sentences are too few: 20 at least")
    model.module.to("cpu").requires_grad_(False)
    cut = len(rows) // 20
    parts = [
        fit_phase(model, rows[cut:], rows[:cut], phase, options.rank, options.epochs, options.rate)
        for phase in range(3)
    ]
    mix, shift, outs, biases, right = zip(*parts, strict=True)
    Heads(
        torch.stack(mix),
        torch.stack(shift),
        torch.stack([outs[0][:, 0], outs[1][:, 0]]),
        torch.cat(biases[:2]),
        outs[2],
    ).save(options.model)
    for phase, share in zip(PHASES, right, strict=True):
        print(f"{phase}: right at {100 * share:.1f} % of the forks of {cut} sentences held out")


if __name__ == "__main__":
    main()
