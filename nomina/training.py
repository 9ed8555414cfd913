"""Training: recipes, questions as batches, an adapter at the end.

Two objectives. `decisions` asks what grounded decoding will ask: at every choice the likelihood of
the right one *among the allowed ids*, so that no capacity goes into copying and no softmax into the
262 thousand ids that cannot come. `tokens` is GNER's: the likelihood of the whole completion over
the whole vocabulary.

Knows nothing of how questions are drawn (`mixture`) or of the command line.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from nomina.base import quiet_libraries
from nomina.corpora import default_sets, read_corpus, read_index
from nomina.errors import NominaError, RecipeError
from nomina.formats import Sentence, get_format, gold_spans
from nomina.grounding import Grounding
from nomina.mixture import Cards, Mixture, MixtureConfig, Question, label_cards_path
from nomina.models import (
    LanguageModel,
    ModelConfig,
    choice_logits,
    decoder_of,
    load_model,
    write_config,
)

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


@dataclass(frozen=True)
class Encoded:
    """A question as token ids.

    Attributes:
        prefix_ids: The part of the prompt before the sentence.
        prompt_ids: The rest of the prompt.
        target_ids: What should be written.
        choices: Position in `target_ids`, ids allowed there, and which of them is right.
    """

    prefix_ids: list[int]
    prompt_ids: list[int]
    target_ids: list[int]
    choices: list[tuple[int, tuple[int, ...], int]]

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.prompt_ids) + len(self.target_ids)


def encode(model: LanguageModel, question: Question) -> Encoded:
    """Turn a question into token ids and choices."""
    example = question.example
    sentence = Sentence.of(example.text, example.offsets)
    labels = question.labels.names
    prompt = model.format.prompt(
        sentence, question.labels, question.definitions, question.demonstrations
    )
    grounding = Grounding(model.format, sentence, labels, model.lexicon)
    fork = grounding.start()
    ids = list(fork.forced)
    choices = []
    for fork, choice in grounding.walk(gold_spans(labels, example.spans)):
        choices.append((len(ids), fork.allowed, choice))
        ids.append(fork.allowed[choice])
        ids.extend(fork.take(choice).forced)
    return Encoded(model.prefix_ids(prompt), model.sentence_ids(prompt), ids, choices)


def collate(items: Sequence[Encoded], pad_id: int, is_encoder_decoder: bool) -> dict[str, Any]:
    """Pad items on the right and lay out their choices.

    Returns:
        `input_ids` (batch, length); for encoder-decoder models `encoder_ids` and `encoder_mask`;
        `lengths` (batch, 2) of prefix and whole prompt; `target_mask` (batch, length), true where
        the *next* id is part of the target; and for the choices `choice_index` (n), flat positions
        of the hidden states they are made from, `choice_ids` (n, k) and `choice_mask` (n, k),
        the right one first.
    """
    rows, starts, encoder_rows = [], [], []
    for item in items:
        prompt = item.prefix_ids + item.prompt_ids
        if is_encoder_decoder:
            encoder_rows.append(prompt)
            rows.append([pad_id, *item.target_ids])  # T5 starts with the padding id
            starts.append(1)
        else:
            rows.append(prompt + item.target_ids)
            starts.append(len(prompt))
    length = max(len(row) for row in rows)
    width = max((len(a) for item in items for _, a, _ in item.choices), default=1)
    index, ids, sizes = [], [], []
    for number, (item, start) in enumerate(zip(items, starts, strict=True)):
        for position, allowed, choice in item.choices:
            index.append(number * length + start + position - 1)
            others = [x for i, x in enumerate(allowed) if i != choice]
            ids.append([allowed[choice], *others, *[pad_id] * (width - len(allowed))])
            sizes.append(len(allowed))
    batch: dict[str, Any] = {
        "input_ids": _pad(rows, pad_id),
        "lengths": torch.tensor(
            [[len(x.prefix_ids), s] for x, s in zip(items, starts, strict=True)]
        ),
        "choice_index": torch.tensor(index, dtype=torch.long),
        "choice_ids": torch.tensor(ids, dtype=torch.long).reshape(-1, width),
    }
    positions = torch.arange(length)
    ends = torch.tensor([len(row) for row in rows])
    first = batch["lengths"][:, 1:]
    batch["target_mask"] = (positions >= first - 1) & (positions < ends.unsqueeze(1) - 1)
    batch["choice_mask"] = torch.arange(width) < torch.tensor(sizes).unsqueeze(1)
    if is_encoder_decoder:
        batch["encoder_ids"] = _pad(encoder_rows, pad_id)
        lengths = torch.tensor([len(row) for row in encoder_rows]).unsqueeze(1)
        batch["encoder_mask"] = torch.arange(batch["encoder_ids"].shape[1]) < lengths
    return batch


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])


class Objective(torch.nn.Module):
    """The model with its loss, as one module, so that data parallelism sees one forward pass.

    Args:
        module: A Hugging Face model, with or without adapters.
        kind: "decisions" or "tokens".
    """

    def __init__(self, module: Any, kind: str = "decisions") -> None:
        super().__init__()
        self.module = module
        self.kind = kind

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss, and the number of choices with the right one on top."""
        hidden = self._hidden(batch)  # (batch, length, width)
        hidden = hidden.flatten(0, 1)  # (batch * length, width)
        if self.kind == "tokens":
            return {"loss": self._token_loss(hidden, batch)}
        chosen = hidden[batch["choice_index"]]  # (choices, width)
        logits = choice_logits(self.module, chosen, batch["choice_ids"])  # (choices, k)
        logits = logits.masked_fill(~batch["choice_mask"], float("-inf"))
        loss = (torch.logsumexp(logits, -1) - logits[:, 0]).mean()
        right = (logits.argmax(-1) == 0).float().mean()
        return {"loss": loss, "accuracy": right.detach()}

    def _hidden(self, batch: dict[str, torch.Tensor]) -> Any:
        decoder = decoder_of(self.module)
        ids = batch["input_ids"]
        if "encoder_ids" in batch:
            base = self.module
            base = base.get_base_model() if hasattr(base, "get_base_model") else base
            mask = batch["encoder_mask"]
            encoded = base.get_encoder()(input_ids=batch["encoder_ids"], attention_mask=mask)
            return decoder(
                input_ids=ids,
                encoder_hidden_states=encoded.last_hidden_state,
                encoder_attention_mask=mask,
                use_cache=False,
            ).last_hidden_state
        return decoder(input_ids=ids, use_cache=False).last_hidden_state

    def _token_loss(self, hidden: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = batch["target_mask"].flatten()
        index = mask.nonzero().squeeze(-1)
        wanted = batch["input_ids"].flatten()[index + 1]
        base = self.module
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        head = base.get_output_embeddings()
        total = hidden.new_zeros((), dtype=torch.float32)
        for part in torch.split(index, 2048):  # bounds the (positions, vocabulary) logits
            rows = hidden[part]
            if base.config.is_encoder_decoder and base.config.tie_word_embeddings:
                rows = rows * base.config.d_model**-0.5
            logits = head(rows).float()
            total = total + torch.nn.functional.cross_entropy(
                logits, batch["input_ids"].flatten()[part + 1], reduction="sum"
            )
        return total / max(len(wanted), 1)


# --------------------------------------------------------------------------------------------------
# Batches


class Batches(IterableDataset[dict[str, Any]]):
    """Endless batches of about equal cost: questions sorted by length, cut by a token budget.

    Args:
        model: Tokenises.
        mixture: Draws the questions.
        max_tokens: Rows times padded length of a batch.
        seed: Of the draw; each worker and rank goes on from its own.
        max_length: Longer questions are left out and counted in `num_too_long`.
        buffer: Questions sorted together.
    """

    def __init__(
        self,
        model: LanguageModel,
        mixture: Mixture,
        max_tokens: int,
        seed: int = 0,
        max_length: int = 512,
        buffer: int = 1024,
    ) -> None:
        super().__init__()
        self.model = model
        self.mixture = mixture
        self.max_tokens = max_tokens
        self.seed = seed
        self.max_length = max_length
        self.buffer = buffer
        self.num_too_long = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        seed = self.seed * 1009 + (worker.id if worker else 0)
        rng = random.Random(seed)
        questions = self.mixture.questions(seed)
        pad_id = self.model.tokenizer.pad_token_id or 0
        while True:
            items: list[Encoded] = []
            while len(items) < self.buffer:
                item = encode(self.model, next(questions))
                if len(item) > self.max_length:
                    self.num_too_long += 1
                else:
                    items.append(item)
            items.sort(key=len)
            groups = list(by_tokens(items, self.max_tokens))
            rng.shuffle(groups)
            for group in groups:
                yield collate(group, pad_id, self.model.is_encoder_decoder)


def by_tokens(items: Iterable[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    """Cut sorted items into groups whose rows times longest length stay within a budget."""
    group: list[Encoded] = []
    longest = 0
    for item in items:
        longest = max(longest, len(item))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group, longest = [], len(item)
        group.append(item)
    if group:
        yield group


# --------------------------------------------------------------------------------------------------
# Recipes


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on; a TOML file with these keys.

    Attributes:
        output: Folder of the trained adapter.
        base: Model to start from: a base, or an adapter that is trained further.
        start: Adapter folder whose weights are taken over at the start; empty for none.
        format: Format to train.
        corpora: Names of sets in `NOMINA_DATA`. Defaults to all English ones marked
            `default_model`.
        mixture: Settings of `MixtureConfig`.
        rank: Rank of the LoRA adapter (Hu et al. 2021), on all projections of every layer.
        learning_rate: Highest rate; warmed up over `warmup_steps`, then linear to 3 %.
        warmup_steps: Steps of the warm-up.
        steps: Optimiser steps.
        batch_tokens: Tokens of a forward pass, padding included.
        accumulate: Passes of each process for a step.
        max_length: Longer questions are left out and counted.
        objective: "decisions" or "tokens".
        seed: Of weights and questions.
        save_every: Steps between checkpoints.
    """

    output: str
    base: str = "gemma-3-270m"
    start: str = ""
    format: str = "inline"
    corpora: tuple[str, ...] = ()
    mixture: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 32
    learning_rate: float = 6e-4
    warmup_steps: int = 20
    steps: int = 400
    batch_tokens: int = 1300
    accumulate: int = 2
    max_length: int = 400
    objective: str = "decisions"
    seed: int = 100
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.objective not in ("decisions", "tokens"):
            raise RecipeError(f"objective must be decisions or tokens, was: {self.objective!r}")
        for name in ("rank", "steps", "batch_tokens", "accumulate", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be 1 or more, was: {getattr(self, name)}")
        get_format(self.format)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            RecipeError: If the file is missing or malformed, or has an unknown key or a value out
                of range; names the file.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{path} cannot be read: {error}") from error
        known = {item.name for item in dataclasses.fields(Recipe)}
        if unknown := sorted(set(values) - known):
            raise RecipeError(f"{path}: unknown keys {unknown}; known are {sorted(known)}")
        values["corpora"] = tuple(values.get("corpora", ()))
        try:
            return Recipe(**values)
        except (TypeError, NominaError) as error:
            raise RecipeError(f"{path}: {error}") from error


def default_mixture(names: Sequence[str], settings: Mapping[str, Any]) -> Mixture:
    """Read corpora of `NOMINA_DATA` and mix them.

    Args:
        names: Names of sets; those of no label set of their own (`open_types`, `task_sets`) are
            annotated with open types. Defaults to the English ones marked `default_model`.
        settings: Of `MixtureConfig`.

    Raises:
        DataError: If a set is missing.
        RecipeError: If a setting is unknown or out of range.
    """
    index = read_index()
    names = names or [n for n in default_sets() if index[n]["language"].startswith("en")]
    try:
        config = MixtureConfig(**settings)
    except TypeError as error:
        raise RecipeError(f"mixture: {error}") from error
    corpora, label_sets = {}, {}
    for name in names:
        corpus = read_corpus(name)
        corpora[name] = corpus.examples
        if name not in ("open_types", "task_sets"):
            label_sets[name] = corpus.labels
    path = label_cards_path()
    return Mixture(corpora, label_sets, Cards.read(path) if path else None, config)


@dataclass(frozen=True)
class Progress:
    """How far a training run is.

    Attributes:
        step: Optimiser steps done.
        loss: Mean loss since the last report.
        tokens: Tokens seen by all processes, without padding.
        questions: Questions seen.
        seconds: Since the start of this process.
        num_too_long: Questions that this process drew and left out for their length.
    """

    step: int
    loss: float
    tokens: int
    questions: int
    seconds: float
    num_too_long: int = 0


def train(recipe: Recipe, report: Callable[[Progress], None] | None = None) -> Path:
    """Train an adapter by a recipe; goes on from the last checkpoint if there is one.

    Run under `torchrun` it averages the gradients of all processes (gloo on CPUs); single-threaded
    processes, one a core, are faster there than one process with many threads, because small
    batches stay in the cache and nobody waits for anybody.

    Args:
        recipe: What to do.
        report: Called after each step of the first process.

    Returns:
        The folder of the adapter.

    Raises:
        RecipeError: If the recipe does not fit the data.
        ModelError: If the base cannot be loaded.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    mixture = default_mixture(recipe.corpora, recipe.mixture)
    model = load_model(recipe.base)
    model.format = get_format(recipe.format)
    with quiet_libraries():
        module = get_peft_model(
            model.module,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.rank,
                target_modules="all-linear",
                task_type="SEQ_2_SEQ_LM" if model.is_encoder_decoder else "CAUSAL_LM",
            ),
        )
    weights = [p for p in module.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.to(model.module.dtype)
    output = Path(recipe.output)
    checkpoint = output.with_name(output.name + ".checkpoint")
    if recipe.start:
        state = load_file(Path(recipe.start) / "adapter_model.safetensors")
        set_peft_model_state_dict(module, state)
    # The optimiser works on float32 copies; steps too small for bfloat16 add up there.
    masters = [weight.detach().float().clone().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(
        masters, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)
    )
    first = _resume(checkpoint, masters, optimizer)
    for weight, master in zip(weights, masters, strict=True):
        weight.data.copy_(master.data)
        if size > 1:
            torch.distributed.broadcast(weight.data, 0)
    objective = Objective(module, recipe.objective).train()
    # Each resumption draws questions of its own: the sequence is not replayed.
    seed = recipe.seed + rank + 1000 * first
    source = Batches(model, mixture, recipe.batch_tokens, seed, recipe.max_length, 256)
    batches = iter(source)
    began, tokens, questions = time.monotonic(), 0, 0
    for step in range(first, recipe.steps):
        rate = recipe.learning_rate * (1 - 0.97 * step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / recipe.warmup_steps, 1.0)
        losses = []
        for _ in range(recipe.accumulate):
            batch = {key: value.to(model.device) for key, value in next(batches).items()}
            loss = objective(**batch)["loss"]
            (loss / recipe.accumulate).backward()
            losses.append(loss.item())
            tokens += size * int((batch["input_ids"] != 0).sum())
            questions += size * len(batch["input_ids"])
        _step(weights, masters, optimizer, size)
        if rank == 0:
            if report is not None:
                loss_mean = sum(losses) / len(losses)
                seconds = time.monotonic() - began
                skipped = source.num_too_long
                report(Progress(step + 1, loss_mean, tokens, questions, seconds, skipped))
            if (step + 1) % recipe.save_every == 0:
                _save_checkpoint(checkpoint, step + 1, masters, optimizer)
    if rank == 0:
        partial = output.with_name(output.name + ".partial")
        module.save_pretrained(partial)
        write_config(partial, ModelConfig(format=recipe.format, base=recipe.base))
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return output


def _step(
    weights: Sequence[torch.Tensor],
    masters: Sequence[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    size: int,
) -> None:
    parts = [
        torch.zeros_like(m).flatten() if w.grad is None else w.grad.float().flatten()
        for w, m in zip(weights, masters, strict=True)
    ]
    flat = torch.cat(parts)
    if size > 1:
        torch.distributed.all_reduce(flat)
        flat /= size
    flat *= min(1.0, 1.0 / (float(flat.norm()) + 1e-6))  # clipped to a norm of 1
    at = 0
    for weight, master in zip(weights, masters, strict=True):
        master.grad = flat[at : at + master.numel()].view_as(master)
        weight.grad = None
        at += master.numel()
    optimizer.step()
    for weight, master in zip(weights, masters, strict=True):
        weight.data.copy_(master.data)


def _save_checkpoint(
    folder: Path, step: int, masters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Save what is needed to go on, whole or not at all; safetensors, no pickles."""
    from safetensors.torch import save_file

    tensors = {"step": torch.tensor(step)}
    for number, master in enumerate(masters):
        state = optimizer.state[master]
        tensors[f"{number}.weight"] = master.detach()
        tensors[f"{number}.mean"] = state["exp_avg"]
        tensors[f"{number}.square"] = state["exp_avg_sq"]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.tmp"
    save_file(tensors, temporary)
    temporary.replace(folder / "state.safetensors")


def _resume(folder: Path, masters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
    from safetensors.torch import load_file

    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
    tensors = load_file(path)
    step = int(tensors["step"])
    for number, master in enumerate(masters):
        master.data.copy_(tensors[f"{number}.weight"])
        optimizer.state[master] = {
            "step": torch.tensor(float(step)),
            "exp_avg": tensors[f"{number}.mean"],
            "exp_avg_sq": tensors[f"{number}.square"],
        }
    return step
