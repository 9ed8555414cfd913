"""Training: questions to batches to an adapter, on Hugging Face's Trainer and PEFT.

Two objectives. `decisions` asks what grounded decoding will ask: at every choice the likelihood of
the right one *among the allowed ids*, so that no capacity goes into copying and no softmax into the
262 thousand ids that cannot come. `tokens` is GNER's: the likelihood of the whole completion over
the whole vocabulary.

Knows nothing of how questions are drawn (`mixture`) or of files on the command line.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from nomina.formats import Sentence, gold_spans
from nomina.grounding import Grounding
from nomina.mixture import Mixture, Question
from nomina.models import LanguageModel, choice_logits, decoder_of


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
