"""Fits the heads that guess what a model will choose (`nomina.heads`), for speed alone.

The prompts of questions are read once; from the last hidden states behind every word small heads
learn the annotated choices; the model learns nothing. Knows nothing of corpora, recipes or files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nomina.errors import NominaError, RecipeError
from nomina.formats import Sentence, gold_spans
from nomina.grounding import Fork, Grounding
from nomina.heads import PHASES, Heads, places, word_ends
from nomina.mixture import Question
from nomina.models import LanguageModel
from nomina.recipes import FEWEST_FOR_HEADS

_HELD_OUT = 20  # one in so many
_LONGEST = 700  # tokens of a prompt; longer ones are left out
_BATCH = 64  # choices

Show = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Fitted:
    """Heads, and how good they are.

    Attributes:
        heads: The heads.
        num_sentences: Sentences that they were fitted on.
        num_held_out: Sentences that `right` was counted on.
        num_left_out: Questions that could not be used: too long, or with labels that the vocabulary
            cannot tell apart.
        right: Share of the choices of each phase that they guess; NaN if there were none.
    """

    heads: Heads
    num_sentences: int
    num_held_out: int
    num_left_out: int
    right: dict[str, float]


class _Choice(NamedTuple):
    """A fork of an annotated walk, and the choice that leads on."""

    phase: int
    word: int
    start: int
    fork: Fork
    choice: int


_Row = tuple[torch.Tensor, list[_Choice]]  # states of the words and of the prompt's last token


def check_heads(model: LanguageModel) -> None:
    """Raise `RecipeError` if heads cannot be fitted to a model of this kind."""
    if model.is_encoder_decoder or not model.format.is_piecewise:
        raise RecipeError(
            "heads are for decoder-only models that write the 'inline' format; this one is "
            f"{'an encoder-decoder' if model.is_encoder_decoder else 'a decoder'} and writes "
            f"{model.format.name!r}. Leave `heads` out."
        )


def fit_heads(
    model: LanguageModel,
    questions: Iterable[Question],
    count: int,
    rank: int = 32,
    epochs: int = 4,
    rate: float = 2e-3,
    seed: int = 0,
    show: Show | None = None,
) -> Fitted:
    """Fit heads to a model.

    Args:
        model: Reads the prompts. It stays as it is, but for its weights not wanting gradients.
        questions: Are asked of it; may be endless.
        count: How many of them are used, one in twenty to count how often the heads are right.
        rank: Features of each head.
        epochs: Passes over all choices.
        rate: Highest learning rate (AdamW, one cycle).
        seed: Of the weights and the order of the choices.
        show: Told how far it is.

    Raises:
        RecipeError: If the model is of another kind, or too few questions can be used.
    """
    check_heads(model)
    model.module.requires_grad_(False)
    tell = show or (lambda text, done, total: None)
    rows: list[_Row] = []
    for number, question in zip(range(count), questions, strict=False):
        tell("reading sentences for draft heads", number, count)
        row = _read(model, question)
        rows += [row] if row else []
    if len(rows) < FEWEST_FOR_HEADS:
        raise RecipeError(
            f"draft heads need {FEWEST_FOR_HEADS} sentences that can be read, had {len(rows)} of "
            f"{count}. Raise `heads`, or leave it out."
        )
    torch.manual_seed(seed)
    cut = max(len(rows) // _HELD_OUT, 1)
    train, test = rows[cut:], rows[:cut]
    fits = []
    for phase, name in enumerate(PHASES):

        def told(done: int, total: int, name: str = name) -> None:
            tell(f"fitting draft heads ({name})", done, total)

        fits.append(_fit_phase(model, train, test, phase, rank, epochs, rate, told))
    heads = Heads(
        torch.stack([fit.mix for fit in fits]),
        torch.stack([fit.shift for fit in fits]),
        torch.stack([fit.out[:, 0] for fit in fits[:2]]),
        torch.cat([fit.bias for fit in fits[:2]]),
        fits[2].out,
    )
    right = {name: fit.right for name, fit in zip(PHASES, fits, strict=True)}
    return Fitted(heads, len(train), len(test), count - len(rows), right)


@torch.inference_mode()
def _read(model: LanguageModel, question: Question) -> _Row | None:
    """Return states of the words and of the last token, and the forks of the annotated walk."""
    example, labels = question.example, question.labels.names
    if not labels:
        return None
    sentence = Sentence.of(example.text, example.offsets)
    try:
        prompt = model.format.prompt(
            sentence, question.labels, question.definitions, question.demonstrations
        )
        grounding = Grounding(model.format, sentence, labels, model.lexicon)
        walk = list(grounding.walk(gold_spans(labels, example.spans)))
    except NominaError:  # labels that the vocabulary cannot tell apart
        return None
    prefix, rest = model.prefix_ids(prompt), model.sentence_ids(prompt)
    if len(prefix) + len(rest) > _LONGEST:
        return None
    hidden = model.hidden(torch.tensor([[*prefix, *rest]], device=model.device))[0]
    ends = [len(prefix) + end for end in word_ends(grounding)]
    states = hidden[[*ends, len(prefix) + len(rest) - 1]].bfloat16().cpu()
    forks = [
        _Choice(PHASES.index(fork.state.phase), fork.state.word, fork.state.start, fork, choice)
        for fork, choice in walk
        if fork.state.phase == "label" or fork.state.word < len(sentence.words)
    ]
    return states, forks


def _lay_out(
    rows: Sequence[_Row], phase: int
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


class _Fit(NamedTuple):
    """One head: (3, width, rank), (rank,), (rank, 1 or width), (1,), and how often it is right."""

    mix: torch.Tensor
    shift: torch.Tensor
    out: torch.Tensor
    bias: torch.Tensor
    right: float


def _fit_phase(
    model: LanguageModel,
    train: Sequence[_Row],
    test: Sequence[_Row],
    phase: int,
    rank: int,
    epochs: int,
    rate: float,
    told: Callable[[int, int], None],
) -> _Fit:
    states = [torch.cat([x for x, _ in part]) for part in (train, test)]
    mean, spread = states[0].float().mean(0), states[0].float().std(0) + 1e-3
    width, is_label = states[0].shape[1], PHASES[phase] == "label"
    mix = torch.nn.Parameter(torch.randn(3, width, rank) / (3 * width) ** 0.5)
    shift = torch.nn.Parameter(torch.zeros(rank))
    out = torch.nn.Parameter(torch.randn(rank, width if is_label else 1) / rank**0.5 / 30)
    bias = torch.nn.Parameter(torch.zeros(1))
    where, allowed, moves = _lay_out(train, phase)
    if not len(moves):  # one label alone is never chosen
        return _Fit(mix.data * 0, shift.data, out.data * 0, bias.data, math.nan)
    optimizer = torch.optim.AdamW([mix, shift, out, bias], lr=rate, weight_decay=0.1)
    starts = range(0, len(moves), _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * len(starts))

    def logits(which: int, at: torch.Tensor, choices: Any) -> torch.Tensor:
        three = (states[which][at].float() - mean) / spread  # (3, n, width)
        features = torch.nn.functional.gelu(torch.einsum("pnw,pwr->nr", three, mix) + shift)
        if not is_label:
            return torch.stack([torch.zeros(len(features)), features @ out[:, 0] + bias[0]], -1)
        longest = max(map(len, choices))
        ids = torch.tensor([[*x, *[0] * (longest - len(x))] for x in choices])
        is_real = torch.arange(longest) < torch.tensor([[len(x)] for x in choices])
        made = model.choice_logits((features @ out).to(model.device), ids.to(model.device))
        return made.cpu().masked_fill(~is_real, -1e9)

    for epoch in range(epochs):
        order = torch.randperm(len(moves))
        for number, start in enumerate(starts):
            told(epoch * len(starts) + number, epochs * len(starts))
            some = order[start : start + _BATCH]
            picked = [allowed[k] for k in some] if is_label else None
            made = logits(0, where[:, some], picked)
            loss: Any = torch.nn.functional.cross_entropy(made, moves[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    right = math.nan
    where, allowed, moves = _lay_out(test, phase)
    if len(moves):
        with torch.no_grad():
            guessed = logits(1, where, allowed).argmax(-1)
        right = float((guessed == moves).float().mean())
    # Fold what the states were made even with into the weights.
    folded = mix.data / spread[:, None]
    moved = shift.data - torch.einsum("w,pwr->r", mean, folded)
    return _Fit(folded, moved, out.data, bias.data, right)
