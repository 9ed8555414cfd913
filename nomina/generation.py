"""Free decoding: what `transformers.generate` writes with greedy search, from a few readings.

A drafter guesses the rest of the completion, the model reads the guess once, everything up to the
model's first other choice is kept and that choice put behind it, and so on: speculative decoding
(Leviathan et al. 2023) without a second model. Ids are those of `generate(do_sample=False)`, slips
and loops included, whatever the drafts are worth: always in float32 (up to exact ties), where
another order of summation cannot move a choice.

The head is run over drafts from the left and only as far as they hold, because with a large
vocabulary it costs more than the rest of a small model. Causal models read many sentences in one
pass, packed, and share prefixes; encoder-decoder models read one by one, with a cache in the
decoder.

Knows token ids, drafts and models; nothing of words or labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from nomina.decoders import CachedDecoder
from nomina.drafting import DraftConfig, Drafter
from nomina.engine import (
    EngineConfig,
    Intake,
    PackedReader,
    Readers,
    Request,
    Usage,
    choose,
    reading,
)
from nomina.errors import ModelError
from nomina.models import LanguageModel

# What GNER's own evaluation allows (its scripts say `max_new_tokens 640`).
DEFAULT_NEW_TOKENS = 640
_HEAD_ROWS = 32  # positions that the head is run over at a time


class Completion(NamedTuple):
    """What a model wrote.

    Attributes:
        ids: The ids, with the one that ended it.
        log_probs: Of each id, among the whole vocabulary.
        is_finished: Whether the model ended it, and not the limit.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    is_finished: bool


@dataclass
class _Row:
    """A completion under way.

    Attributes:
        number: Of the request.
        given: Ids to be read before the completion begins, that no prefix holds.
        start: Position of the first of them.
        drafter: Guesses the rest.
        limit: Ids that may be written.
        num_read: Positions read as they are, prefix included.
    """

    number: int
    given: list[int]
    start: int
    drafter: Drafter
    limit: int
    num_read: int
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    is_done: bool = False

    @property
    def num_sure(self) -> int:
        """Positions that are sure: prompt and what is written."""
        return self.start + len(self.given) + len(self.ids)

    def todo(self) -> list[int]:
        """Return the ids to read: what is sure and not read yet, then the draft."""
        return [*[*self.given, *self.ids][self.num_read - self.start :], *self.draft]


class Reader(Protocol):
    """Runs a model over tokens of rows, keeping keys and values by slot."""

    def open(self, slot: int, request: Request) -> tuple[int, list[int]]:
        """Begin a request; return the position of what is still to be read, and its ids."""

    def read(self, rows: Sequence[tuple[int, int, list[int]]]) -> torch.Tensor:
        """Run the model over (slot, first position, ids) of rows; shape (tokens, width)."""


class CausalReader:
    """Reads with a decoder-only model, many rows packed."""

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._reader = PackedReader(model, config)

    def open(self, slot: int, request: Request) -> tuple[int, list[int]]:
        """Put the shared prefix into the slot."""
        self._reader.open(slot, request)
        return len(request.prefix_ids), list(request.sentence_ids)

    def read(self, rows: Sequence[tuple[int, int, list[int]]]) -> torch.Tensor:
        """Run the model over all rows at once."""
        return self._reader.run(rows)


class DecoderReader:
    """Reads with an encoder-decoder model, row by row."""

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._decoder = CachedDecoder(model)

    def open(self, slot: int, request: Request) -> tuple[int, list[int]]:
        """Encode the prompt; what is to be read is the decoder's start."""
        self._decoder.open(slot, [*request.prefix_ids, *request.sentence_ids])
        return 0, [self._decoder.start_id]

    def read(self, rows: Sequence[tuple[int, int, list[int]]]) -> torch.Tensor:
        """Run the decoder over each row."""
        return self._decoder.read(rows)


class Generator:
    """Writes completions freely for a stream of requests.

    Args:
        model: The model.
        config: How much is read at once.
        max_new_tokens: Ids that a completion may have. Defaults to 640, as in GNER's evaluation,
            or twice what the sentence should take, whichever is more.
        draft_config: How far drafts look ahead.

    Raises:
        ModelError: If the model's generation settings ask for more than greedy search.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: EngineConfig | None = None,
        max_new_tokens: int | None = None,
        draft_config: DraftConfig | None = None,
    ) -> None:
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ModelError(f"max_new_tokens must be at least 1, was: {max_new_tokens}")
        check_greedy(model)
        self.model = model
        self.config = config or EngineConfig()
        self.usage = Usage()
        self._max_new_tokens = max_new_tokens
        self._draft_config = draft_config
        kind = DecoderReader if model.is_encoder_decoder else CausalReader
        self._readers: Readers[Reader] = Readers(lambda: kind(model, self.config))
        self._ends = end_ids(model)

    def decode(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the completion of each request, in order, as soon as all before it are done.

        Requests are taken from the stream only when there is room for them; their groundings serve
        as drafts and bind nothing.
        """
        return (completion for _, completion in self._decode(requests, is_ordered=True))

    def decode_as_done(
        self, requests: Iterable[Request | None]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number of the request, completion) of each as soon as it is done.

        None in the stream says that there is nothing now; see `Engine.decode_as_done`.
        """
        return self._decode(requests, is_ordered=False)

    def _decode(
        self, requests: Iterable[Request | None], is_ordered: bool
    ) -> Iterator[tuple[int, Completion]]:
        with self._readers.taken() as reader:
            yield from self._decode_with(reader, requests, is_ordered)

    def _decode_with(
        self, reader: Reader, requests: Iterable[Request | None], is_ordered: bool
    ) -> Iterator[tuple[int, Completion]]:
        intake = Intake(requests)
        slots = list(range(self.config.max_rows))[::-1]
        active: dict[int, _Row] = {}
        done: dict[int, Completion] = {}
        waiting: Request | None = None
        num_taken = num_given = 0
        while True:
            most_ahead = 4 * self.config.max_rows
            while slots and num_taken - num_given < most_ahead:
                waiting = waiting or intake.take(is_idle=not active)
                if waiting is None:
                    break
                if not waiting.prefix_ids and not waiting.sentence_ids:  # it asks nothing
                    done[num_taken] = Completion((), (), True)
                    num_taken, waiting = num_taken + 1, None
                    continue
                if active and not self._fits(active, waiting):
                    break
                slot = slots.pop()
                active[slot] = self._open(reader, slot, num_taken, waiting)
                num_taken, waiting = num_taken + 1, None
            if active:
                self._pass(reader, active)
            for slot in [slot for slot, row in active.items() if row.is_done]:
                row = active.pop(slot)
                slots.append(slot)
                is_finished = row.ids[-1] in self._ends
                done[row.number] = Completion(tuple(row.ids), tuple(row.log_probs), is_finished)
                self.usage.requests += 1
                self.usage.floor_tokens += len(row.given) + len(row.ids) - 1
            while done and (num_given in done or not is_ordered):
                number = num_given if is_ordered else next(iter(done))
                yield number, done.pop(number)
                num_given += 1
            if intake.is_ended and not active and waiting is None:
                return

    def _fits(self, active: dict[int, _Row], request: Request) -> bool:
        sizes = [row.num_sure + len(row.draft) for row in active.values()]
        sizes.append(2 * len(request.sentence_ids) + len(request.prefix_ids))
        return max(sizes) * len(sizes) <= self.config.max_cache_tokens

    def _open(self, reader: Reader, slot: int, number: int, request: Request) -> _Row:
        with reading():
            start, given = reader.open(slot, request)
        prompt_ids = [*request.prefix_ids, *request.sentence_ids]
        drafter = Drafter(request.grounding, prompt_ids, self._draft_config)
        limit = self._max_new_tokens
        if limit is None:
            limit = max(DEFAULT_NEW_TOKENS, 2 * drafter.expected_length())
        return _Row(number, given, start, drafter, limit, start)

    def _pass(self, reader: Reader, active: dict[int, _Row]) -> None:
        budget = self.config.max_pass_tokens
        batch: list[tuple[int, _Row]] = []
        for slot, row in active.items():
            row.draft = row.drafter.draft(row.limit - len(row.ids) - 1)
            while row.draft and row.draft[-1] in self._ends:
                row.draft.pop()  # nothing is asked behind the end
            cost = len(row.todo())
            if not batch or cost <= budget:
                batch.append((slot, row))
                budget -= cost
        todo = [(slot, row.num_read, row.todo()) for slot, row in batch]
        self.usage.passes += 1
        self.usage.reads += len(batch)
        self.usage.tokens += sum(len(ids) for _, _, ids in todo)
        with reading():
            hidden = reader.read(todo)  # (tokens, width)
            states = []
            offset = 0
            for (_, row), (_, start, ids) in zip(batch, todo, strict=True):
                first = offset + row.num_sure - 1 - start
                offset += len(ids)
                states.append(hidden[first:offset])  # (draft + 1, width)
            chosen = self._verify([row.draft for _, row in batch], states)
            self._learn([row for _, row in batch], states, [len(ids) for ids, _ in chosen])
        # Rows come to the front by turns, so that a tight budget starves none.
        for slot, _ in batch:
            active[slot] = active.pop(slot)
        for (_, row), (ids, log_probs) in zip(batch, chosen, strict=True):
            row.num_read = row.num_sure + len(ids) - 1
            row.ids += ids
            row.log_probs += log_probs
            row.is_done = ids[-1] in self._ends or len(row.ids) >= row.limit
            row.drafter.write(ids, len(ids) > len(row.draft))

    def _verify(
        self, drafts: Sequence[list[int]], states: Sequence[torch.Tensor]
    ) -> list[tuple[list[int], list[float]]]:
        """Return the model's choices, with log probabilities, up to the first that differs."""
        out: list[tuple[list[int], list[float]]] = [([], []) for _ in drafts]
        going, at = list(range(len(drafts))), 0
        while going:
            # Few positions a row where many rows are read: the first one often ends it.
            step = max(4, _HEAD_ROWS // len(going))
            parts = [states[number][at : at + step] for number in going]
            logits = self.model.vocabulary_logits(torch.cat(parts))  # (positions, vocab)
            best, tokens = logits.max(-1)
            log_probs = best - logits.logsumexp(-1)
            self.model.check_numbers(log_probs, parts[0].dtype)
            choices = iter(zip(tokens.tolist(), log_probs.tolist(), strict=True))
            left = []
            for number, part in zip(going, parts, strict=True):
                found = [next(choices) for _ in range(len(part))]
                ids, scores = out[number]
                draft = drafts[number]
                for token, log_prob in found:
                    ids.append(token)
                    scores.append(log_prob)
                    if token in self._ends or draft[len(ids) - 1 : len(ids)] != [token]:
                        break
                else:
                    left.append(number)
            going, at = left, at + step
        return out

    def _learn(
        self, rows: Sequence[_Row], states: Sequence[torch.Tensor], num_sure: Sequence[int]
    ) -> None:
        """Tell drafters what the model would choose at the forks behind its first other choice."""
        forks, found, owners = [], [], []
        for row, state, num in zip(rows, states, num_sure, strict=True):
            for at, fork in row.drafter.open:
                if num <= at < len(state):
                    forks.append(fork)
                    found.append(state[at])
                    owners.append(row)
        if forks:
            chosen, _ = choose(self.model, torch.stack(found), forks)
            for row, fork, choice in zip(owners, forks, chosen, strict=True):
                row.drafter.learn(fork, choice)


def end_ids(model: LanguageModel) -> frozenset[int]:
    """Return the ids at which `generate` stops."""
    settings: Any = model.module.generation_config
    found = settings.eos_token_id if settings is not None else model.tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)


# What makes `generate(do_sample=False)` something else than the most likely id at each step, and
# the values that do not.
_MORE_THAN_GREEDY: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "guidance_scale": (None, 1),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "penalty_alpha": (None, 0),
    **dict.fromkeys(
        (
            *("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id"),
            *("suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty"),
            *("watermarking_config", "stop_strings", "dola_layers"),
        ),
        (None, [], {}),
    ),
}


def check_greedy(model: LanguageModel) -> None:
    """Check that `generate(do_sample=False)` is plain greedy search for a model.

    Raises:
        ModelError: If its generation settings change the model's choices; names them.
    """
    settings = model.module.generation_config
    odd = {
        name: value
        for name, neutral in _MORE_THAN_GREEDY.items()
        if (value := getattr(settings, name, None)) not in neutral
    }
    if odd:
        given = ", ".join(f"{name}={value!r}" for name, value in odd.items())
        raise ModelError(
            f"free decoding is plain greedy search, but {model.name or 'the model'} asks for "
            f"{given} in its generation_config.json. Take these settings out of "
            "`model.module.generation_config`, or decode grounded."
        )
