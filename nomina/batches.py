"""Questions as tensors: token ids, choices, batches of about equal cost, shared prompts.

A batch is made of rows. A row holds one question, or several that have the same prompt before the
sentence (`prefix_ids`): the prompt once, then each sentence with its target, with positions as if
each stood alone behind the prompt. What a token may see is then its own sentence and the prompt;
`objective` makes a mask of that.

Batches are numbered, and a stream of them can be taken up behind any number. Knows nothing of how
questions are drawn (`mixture`) or what is done with a batch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset

from nomina.errors import RecipeError
from nomina.formats import Sentence, gold_spans
from nomina.grounding import Grounding
from nomina.mixture import Mixture, Question
from nomina.models import LanguageModel

# What a token costs in attention for each token of its row, as a share of what it costs elsewhere:
# 18 layers of gemma-3-270m with 4 heads of 256 (74,000 operations) against 2 for each of its 100
# million weights outside the embeddings. In a packed row it is paid for hidden tokens too.
_ATTENTION = 4e-4
PREFIX, PADDING = 0, -1  # segments of a packed row; its sentences are 1, 2, 3 ...


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
        return len(self.prefix_ids) + self.own_length

    @property
    def own_length(self) -> int:
        """Tokens without the shared part of the prompt."""
        return len(self.prompt_ids) + len(self.target_ids)


Row = Sequence[Encoded]  # questions with the same prefix; one, unless they are packed


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


# --------------------------------------------------------------------------------------------------
# Rows


def row_length(row: Row) -> int:
    """Tokens of a row: the prefix once, and what each question has of its own."""
    return len(row[0].prefix_ids) + sum(item.own_length for item in row)


def pack(items: Iterable[Encoded], max_length: int) -> list[Row]:
    """Put questions with equal prefixes into rows of at most so many tokens.

    Longest first, each into the first row that has room and where it costs less than alone: what
    it saves of the prompt must outweigh the attention over tokens that it does not see. A question
    without a prefix has nothing to share and stays alone.

    Args:
        items: Questions in any order.
        max_length: Of a row; a longer question has one of its own.
    """
    rows: list[list[Encoded]] = []
    open_rows: dict[tuple[int, ...], list[tuple[int, list[Encoded]]]] = {}
    for item in sorted(items, key=len, reverse=True):
        mine = open_rows.setdefault(tuple(item.prefix_ids), []) if item.prefix_ids else []
        for number, (length, row) in enumerate(mine):
            if length + item.own_length <= max_length and _gain(item, length) > 0:
                row.append(item)
                mine[number] = length + item.own_length, row
                break
        else:
            rows.append([item])
            mine.append((len(item), rows[-1]))
    return list(rows)


def _gain(item: Encoded, row_tokens: int) -> float:
    """Tokens' worth of work that a question saves behind the prompt of a row."""
    own, alone = item.own_length, len(item)
    together = row_tokens + own
    return alone - own + _ATTENTION * (alone**2 + row_tokens**2 - together**2)


def by_tokens(rows: Iterable[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Cut sorted rows into groups whose number times longest length stays within a budget."""
    group: list[Row] = []
    longest = 0
    for row in rows:
        longest = max(longest, row_length(row))
        if group and longest * (len(group) + 1) > max_tokens:
            yield group
            group, longest = [], row_length(row)
        group.append(row)
    if group:
        yield group


# --------------------------------------------------------------------------------------------------
# Tensors


def collate(
    items: Sequence[Encoded | Row], pad_id: int, start_id: int | None = None
) -> dict[str, Any]:
    """Pad rows on the right and lay out their choices.

    Args:
        items: Questions, or rows of them.
        pad_id: What to pad with; the loss never sees it.
        start_id: What a decoder starts with, if prompts go to an encoder; rows then hold one
            question each.

    Returns:
        `input_ids` (batch, length); for encoder-decoder models `encoder_ids` and `encoder_mask`;
        if a row is packed `positions` and `segments` (batch, length); `num_tokens` () without
        padding and `num_questions` (); `target_mask` (batch, length), true where the *next* id is
        part of the target; and for the choices `choice_index` (n), flat positions of the hidden
        states they are made from, `choice_ids` (n, k) and `choice_mask` (n, k), the right one
        first.
    """
    rows = [[item] if isinstance(item, Encoded) else item for item in items]
    lines = [_lay_out(row, start_id) for row in rows]
    length = max(len(line.ids) for line in lines)
    width = max(
        (len(allowed) for row in rows for i in row for _, allowed, _ in i.choices), default=1
    )
    index, ids, sizes = [], [], []
    target_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        for item, start in zip(row, line.starts, strict=True):
            target_mask[number, start - 1 : start - 1 + len(item.target_ids)] = True
            for position, allowed, choice in item.choices:
                index.append(number * length + start + position - 1)
                others = [x for i, x in enumerate(allowed) if i != choice]
                ids.append([allowed[choice], *others, *[pad_id] * (width - len(allowed))])
                sizes.append(len(allowed))
    batch: dict[str, Any] = {
        "input_ids": _pad([line.ids for line in lines], pad_id),
        "target_mask": target_mask,
        "choice_index": torch.tensor(index, dtype=torch.long),
        "choice_ids": torch.tensor(ids, dtype=torch.long).reshape(-1, width),
        "choice_mask": torch.arange(width) < torch.tensor(sizes).reshape(-1, 1),
        "num_tokens": torch.tensor(sum(len(line.ids) for line in lines)),
        "num_questions": torch.tensor(sum(map(len, rows))),
    }
    if any(len(row) > 1 for row in rows):
        batch["positions"] = _pad([line.positions for line in lines], 0)
        batch["segments"] = _pad([line.segments for line in lines], PADDING)
    if start_id is not None:
        prompts = [row[0].prefix_ids + row[0].prompt_ids for row in rows]
        batch["encoder_ids"] = _pad(prompts, pad_id)
        lengths = torch.tensor([len(prompt) for prompt in prompts]).unsqueeze(1)
        batch["encoder_mask"] = torch.arange(batch["encoder_ids"].shape[1]) < lengths
        batch["num_tokens"] += int(lengths.sum())
    return batch


class _Line(NamedTuple):
    """A row laid out: ids, positions and segments of its tokens, where each target starts."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    starts: list[int]


def _lay_out(row: Row, start_id: int | None) -> _Line:
    if start_id is not None:
        (item,) = row
        ids = [start_id, *item.target_ids]
        return _Line(ids, list(range(len(ids))), [1] * len(ids), [1])
    prefix = row[0].prefix_ids
    line = _Line(list(prefix), list(range(len(prefix))), [PREFIX] * len(prefix), [])
    for number, item in enumerate(row, 1):
        line.starts.append(len(line.ids) + len(item.prompt_ids))
        line.ids.extend(item.prompt_ids + item.target_ids)
        line.positions.extend(range(len(prefix), len(item)))
        line.segments.extend([number] * item.own_length)
    return line


def _pad(rows: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad_id] * (length - len(row))] for row in rows])


# --------------------------------------------------------------------------------------------------
# Streams


class Place(NamedTuple):
    """Where a batch stands in a stream.

    Attributes:
        number: Batches before it, of all processes.
        buffer: Buffer of questions that it was made from.
        at: Its place among the batches of that buffer.
    """

    number: int = 0
    buffer: int = 0
    at: int = 0


class Batches(IterableDataset[dict[str, Any]]):
    """Endless batches of about equal cost: questions sorted by length, cut by a token budget.

    All processes draw the same stream and take turns, so that two processes see in one step what
    one process sees in two passes. Each batch carries its `place`.

    Args:
        model: Tokenises.
        mixture: Draws the questions.
        max_tokens: Rows times padded length of a batch.
        seed: Of the draw.
        max_length: Longer questions are left out and counted in `num_too_long`; packed rows are
            filled up to it.
        buffer: Questions sorted together.
        is_packed: Whether questions with equal prompts share one.
        rank: Number of this process.
        size: Number of processes.
        after: Start behind this place; `None` for the beginning.
        num_too_long: What was counted up to there.
    """

    def __init__(
        self,
        model: LanguageModel,
        mixture: Mixture,
        max_tokens: int,
        seed: int = 0,
        max_length: int = 512,
        buffer: int = 256,
        is_packed: bool = False,
        rank: int = 0,
        size: int = 1,
        after: Place | None = None,
        num_too_long: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.mixture = mixture
        self.max_tokens = max_tokens
        self.seed = seed
        self.max_length = max_length
        self.buffer = buffer
        self.is_packed = is_packed and not model.is_encoder_decoder
        self.rank = rank
        self.size = size
        self.after = after
        self.counted = num_too_long
        self.num_too_long = 0
        self.num_drawn = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        place = self.after or Place()
        first = place.number + self.size if self.after else 0
        number = place.number - place.at
        questions = self.mixture.questions(self.seed, place.buffer * self.buffer)
        pad_id = self.model.tokenizer.pad_token_id or 0
        for buffer in itertools.count(place.buffer):
            rows = self._rows(itertools.islice(questions, self.buffer))
            if self.after and buffer == place.buffer:  # counted before the run was stopped
                self.num_drawn, self.num_too_long = (buffer + 1) * self.buffer, self.counted
            groups = list(by_tokens(sorted(rows, key=row_length), self.max_tokens))
            random.Random(f"{self.seed}/buffer {buffer}").shuffle(groups)
            for index, group in enumerate(groups):
                if number >= first and number % self.size == self.rank:
                    batch = collate(group, pad_id, self.model.start_id)
                    batch["place"] = torch.tensor([number, buffer, index])
                    yield batch
                number += 1

    def _rows(self, questions: Iterable[Question]) -> list[Row]:
        items = [encode(self.model, question) for question in questions]
        fitting = [item for item in items if len(item) <= self.max_length]
        self.num_drawn += len(items)
        self.num_too_long += len(items) - len(fitting)
        if self.num_too_long == self.num_drawn:
            raise RecipeError(
                f"all of {self.num_drawn} questions are longer than max_length = "
                f"{self.max_length} tokens; the shortest has {min(map(len, items))}. Raise it."
            )
        return pack(fitting, self.max_length) if self.is_packed else [[item] for item in fitting]
