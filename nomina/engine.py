"""Decoding: from prompts and groundings to choices with log probabilities.

The plain rule asks the model once for each choice: `decode_plain`. The engine gets the same answers
from a few readings (speculative decoding, Leviathan et al. 2023, with a grounding for a draft
model, and guesses mended in parallel as in Jacobi decoding, Santilli et al. 2023):

1. draft the completion, at first by rules, then by what heads guess (`nomina.heads`), if the model
   has some;
2. run the model once over it and read its choice at every fork;
3. keep what agrees up to the first difference, take the model's choice there, and draft the rest
   anew from what it chose at later forks;
4. go on until nothing differs.

Many sentences are read in one pass, packed without padding; a sentence leaves when it is done and
the next one takes its place. The part of the prompt that sentences share is computed once.

Knows token ids, forks and models; nothing of words or labels.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from transformers import AttentionInterface, DynamicCache

from nomina.decoders import CachedDecoder
from nomina.errors import ModelError
from nomina.families import (
    Visits,
    attend,
    check_length,
    favours_products,
    no_mask,
    start_id,
    window_of,
)
from nomina.formats import Guess, State
from nomina.grounding import Fork, Grounding
from nomina.heads import Foresight, foresee
from nomina.models import LanguageModel

Path = list[tuple[Fork, int, float]]
R = TypeVar("R")


class Request(NamedTuple):
    """A prompt and what may be written after it.

    Attributes:
        prefix_ids: Part of the prompt that many requests share.
        sentence_ids: The rest of the prompt.
        grounding: All completions that may be written.
    """

    prefix_ids: tuple[int, ...]
    sentence_ids: tuple[int, ...]
    grounding: Grounding


@dataclass(frozen=True)
class EngineConfig:
    """How much is read at once.

    Attributes:
        max_pass_tokens: Tokens read in one pass, at most (a longer sentence is read alone).
        max_rows: Sentences under way at once.
        max_cache_tokens: Ceiling of the memory for keys and values, in tokens of all rows.
        max_prefixes: Label sets whose prompts are kept.
        pass_tokens: What a reading costs besides its tokens, in tokens: drafts go further where
            readings are dear (a GPU) than where tokens are (a CPU).
    """

    max_pass_tokens: int = 1024
    max_rows: int = 24
    max_cache_tokens: int = 32_768
    max_prefixes: int = 8
    pass_tokens: int = 100

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "pass_tokens" else 1
            if value < least:
                raise ModelError(f"`EngineConfig.{name}` must be {least} or more, was: {value}")


@dataclass
class Usage:
    """What decoding cost.

    Attributes:
        requests: Sentences decoded.
        passes: Readings of the model, each over many sentences.
        reads: Readings of a sentence, summed over sentences.
        tokens: Tokens read, prompts included.
        floor_tokens: Tokens of prompts (without shared prefixes) and final completions: what one
            teacher-forced reading would cost.
    """

    requests: int = 0
    passes: int = 0
    reads: int = 0
    tokens: int = 0
    floor_tokens: int = 0


# --------------------------------------------------------------------------------------------------
# Drafts


class Odds:
    """How often guesses come true, by their kind; learnt while decoding."""

    PRIOR = 8.0  # what the first estimate weighs, in guesses

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def of(self, guess: Guess) -> float:
        """Return the probability that a guess is right."""
        right, total = self._counts.get(guess.kind, (0, 0))
        return (right + self.PRIOR * guess.odds) / (total + self.PRIOR)

    def learn(self, guess: Guess, is_right: bool) -> None:
        """Count a guess that was checked."""
        right, total = self._counts.get(guess.kind, (0, 0))
        self._counts[guess.kind] = right + is_right, total + 1


class OpenChoice(NamedTuple):
    """A choice not yet sure: the index of its id in the completion, its fork, the guess."""

    at: int
    fork: Fork
    guess: Guess


class Draft:
    """A guess at a completion, checked and mended reading by reading.

    Attributes:
        request: What is asked.
        path: Choices that are sure: fork, choice, log probability.
        ids: The completion as far as it is guessed.
        open: The choices not yet sure, in order, as far as they are guessed.
        length: About how many ids the completion has.
        num_reads: Readings so far.
        foresight: What heads guess, once the prompt has been read and if the model has some.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.foresight: Foresight | None = None
        self.path: Path = []
        self.num_reads = 0
        self._guesses: dict[Any, Guess] = {}  # by the fork's key
        self._seen: dict[State, int] = {}  # moves by state, for guesses at other forks
        fork = request.grounding.start()
        self._sure_ids = list(fork.forced)
        self._next = fork
        self.write()
        self.length = len(self.ids)

    @property
    def is_done(self) -> bool:
        """Whether every choice is sure."""
        return not self._next.allowed

    def write(self, certainty: float = 0.0, odds: Odds | None = None) -> None:
        """Guess on from what is sure, as far as all guesses are right with a probability.

        What is read behind a wrong guess is read again, so it does not pay to guess much further
        than one can; and what is not guessed now costs another reading.

        Args:
            certainty: The probability; 0 for the whole completion.
            odds: How often guesses come true.
        """
        ids, fork = list(self._sure_ids), self._next
        self.open: list[OpenChoice] = []
        likely = self.request.grounding.likely
        all_right = 1.0
        while fork.allowed:
            guess = self._guesses.get(fork.key)
            if guess is None:
                guess = likely(fork, self._seen)
                if self.foresight is not None:
                    guess = self.foresight.better(fork, guess)
            self.open.append(OpenChoice(len(ids), fork, guess))
            if odds is not None:
                all_right *= odds.of(guess)
                if all_right < certainty:
                    break  # the choice is read, but nothing behind it
            ids.append(fork.allowed[guess.move])
            fork = fork.take(guess.move)
            ids.extend(fork.forced)
        self.ids = ids

    def check(self, chosen: Sequence[int], log_probs: Sequence[float], odds: Odds) -> int:
        """Take over the model's choices up to and with the first that differs from the guess.

        Args:
            chosen: The model's choice at each open fork.
            log_probs: Their log probabilities among the allowed ids.
            odds: Learns how the guesses did.

        Returns:
            How many ids of the completion are sure and were read as they are.
        """
        self.num_reads += 1
        agree = True
        num_read = 0
        for item, choice, log_prob in zip(self.open, chosen, log_probs, strict=True):
            fork = item.fork
            # What was chosen behind a wrong guess is a good guess still, the better the surer.
            sureness = round(math.exp(log_prob), 1)
            self._guesses[fork.key] = Guess(
                choice, f"read, {fork.state.phase}, {sureness}", sureness
            )
            self._seen.pop(fork.state, None)  # the last seen is the last one
            self._seen[fork.state] = fork.moves[choice][0]
            if agree:
                self.path.append((fork, choice, log_prob))
                self._sure_ids = [*self.ids[: item.at], fork.allowed[choice]]
                self._next = fork.take(choice)
                self._sure_ids.extend(self._next.forced)
                num_read = item.at
                agree = choice == item.guess.move
                odds.learn(item.guess, agree)
        return num_read


# --------------------------------------------------------------------------------------------------
# Readers: run the model over prompts and drafts


class Reading(NamedTuple):
    """What a reader returns for one draft: the choice at each open fork and its log probability."""

    chosen: list[int]
    log_probs: list[float]


class Reader(Protocol):
    """Reads drafts with a model and keeps what it can between readings."""

    def read(self, drafts: Sequence[Draft], slots: Sequence[int]) -> list[Reading]:
        """Run the model once over the unread part of each draft."""

    def accept(self, slot: int, num_ids: int) -> None:
        """Forget what was read behind the first `num_ids` ids of the completion."""

    def open(self, slot: int, request: Request) -> None:
        """Begin a new request in a slot."""

    def close(self, slot: int) -> None:
        """Forget what a slot holds, if it holds anything."""

    def cost(self, draft: Draft, slot: int) -> int:
        """Return how many tokens a reading of the draft takes."""


def choose(
    model: LanguageModel, hidden: torch.Tensor, forks: Sequence[Fork]
) -> tuple[list[int], list[float]]:
    """Choose at each fork; hidden has shape (choices, width)."""
    chosen, best = [0] * len(forks), [0.0] * len(forks)
    for rows, log_probs in model.choice_log_probs(hidden, [fork.allowed for fork in forks]):
        highest = log_probs.max(-1)
        found = zip(rows, highest.indices.tolist(), highest.values.tolist(), strict=True)
        for row, choice, log_prob in found:
            chosen[row], best[row] = choice, log_prob
    return chosen, best


def _split(
    drafts: Sequence[Draft], chosen: Sequence[int], log_probs: Sequence[float]
) -> list[Reading]:
    readings, at = [], 0
    for draft in drafts:
        to = at + len(draft.open)
        readings.append(Reading(list(chosen[at:to]), list(log_probs[at:to])))
        at = to
    return readings


class EncoderDecoderReader:
    """Reads with an encoder-decoder model: each prompt once, and the decoder's tokens once."""

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._model = model
        self._decoder = CachedDecoder(model)
        self._num_read: dict[int, int] = {}

    def open(self, slot: int, request: Request) -> None:
        """Encode the prompt."""
        self._decoder.open(slot, [*request.prefix_ids, *request.sentence_ids])
        self._num_read[slot] = 0

    def close(self, slot: int) -> None:
        """Forget the prompt."""
        self._decoder.close(slot)

    def accept(self, slot: int, num_ids: int) -> None:
        """Read again from the first id that was not read as it is now."""
        self._num_read[slot] = 1 + num_ids

    def _todo(self, draft: Draft, slot: int) -> tuple[int, list[int]]:
        """Return the position of the first token to read, and the tokens."""
        start = self._num_read[slot]
        return start, [self._decoder.start_id, *draft.ids[: draft.open[-1].at]][start:]

    def cost(self, draft: Draft, slot: int) -> int:
        """Return the number of the decoder's tokens to read."""
        return len(self._todo(draft, slot)[1])

    def read(self, drafts: Sequence[Draft], slots: Sequence[int]) -> list[Reading]:
        """Run the decoder over the unread tokens of each draft."""
        rows = [(slot, *self._todo(draft, slot)) for draft, slot in zip(drafts, slots, strict=True)]
        hidden = self._decoder.read(rows)  # (tokens, width)
        index, offset = [], 0
        for draft, (_, start, ids) in zip(drafts, rows, strict=True):
            index += [offset + item.at - start for item in draft.open]
            offset += len(ids)
        hidden = hidden[torch.tensor(index, device=hidden.device)]  # (choices, width)
        forks = [item.fork for draft in drafts for item in draft.open]
        return _split(drafts, *choose(self._model, hidden, forks))


# --- decoder-only models: packed tokens over a store of keys and values


class KeyStore:
    """Keys and values of all rows under way, by layer: row `slot`, position `p` is at [slot, p].

    A position is overwritten when it is read again, and no query sees positions behind its own, so
    nothing has to be cropped. Both have shape (slots, length, heads, width), however keys lie in
    memory. Slots that are free are not taken along when the store grows.

    Args:
        num_slots: How many there may be.
        grows_by_slots: Whether there are only as many as were used, to the next power of two. On
            CPUs there are all from the start: those that were never used take no memory.
    """

    def __init__(self, num_slots: int, grows_by_slots: bool = False) -> None:
        self.num_slots = num_slots
        self.grows_by_slots = grows_by_slots
        self.length = 0
        self._num_made = 0 if grows_by_slots else num_slots
        self._used: set[int] = set()
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def free(self, slot: int) -> None:
        """Take note that the contents of a slot are not needed any more."""
        self._used.discard(slot)

    def reserve(self, slots: Iterable[int], length: int) -> None:
        """Make room for positions of slots below a length; their contents are kept from now on."""
        self._used.update(slots)
        num_made = max(self._num_made, min(1 << max(self._used).bit_length(), self.num_slots))
        if length <= self.length and num_made == self._num_made:
            return
        length = max(self.length, -(-length // 64) * 64)
        before = self._num_made
        self._num_made = num_made
        # All or nothing: memory may run out between two layers, and the store must stay as it was.
        try:
            keys = {x: self._grow(self._key_room, old, length) for x, old in self._keys.items()}
            values = {x: self._grow(self._room, old, length) for x, old in self._values.items()}
        except BaseException:
            self._num_made = before
            raise
        self._keys, self._values = keys, values
        self.length = length

    def _grow(
        self, room: Callable[[torch.Tensor, int], torch.Tensor], old: torch.Tensor, length: int
    ) -> torch.Tensor:
        new = room(old, length)
        for slot in self._used:
            if slot < len(old):
                new[slot, : self.length] = old[slot]
        return new

    def _room(self, like: torch.Tensor, length: int) -> torch.Tensor:
        return _zeros(like, (self._num_made, length, *like.shape[-2:]))

    def _key_room(self, like: torch.Tensor, length: int) -> torch.Tensor:
        if not favours_products(like):
            return self._room(like, length)
        # A step in memory is a step in position: products take keys as they lie.
        room = _zeros(like, (self._num_made, *like.shape[-2:], length))
        return room.permute(0, 3, 1, 2)

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, pack: Pack
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what was computed for packed tokens, shape (tokens, heads, width); return all."""
        self._add(layer, keys, values)
        self._keys[layer][pack.slots, pack.positions] = keys
        self._values[layer][pack.slots, pack.positions] = values
        return self._keys[layer], self._values[layer]

    def _add(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if layer not in self._keys:
            self._keys[layer] = self._key_room(keys, self.length)
            self._values[layer] = self._room(values, self.length)

    def take(self, slot: int, length: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Copy the first positions of a row, of every layer."""
        return {
            layer: (keys[slot, :length].clone(), self._values[layer][slot, :length].clone())
            for layer, keys in self._keys.items()
        }

    def put(self, slot: int, kept: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write the first positions of a row."""
        for layer, (keys, values) in kept.items():
            self._add(layer, keys, values)
            self._keys[layer][slot, : len(keys)] = keys
            self._values[layer][slot, : len(values)] = values


def _zeros(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return zeros, on CPUs in pages of their own.

    Untouched pages take no memory: where prompts are long, few of the slots are ever used.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < mmap.PAGESIZE:
        return like.new_zeros(shape)
    private: dict[str, Any] = {}
    if hasattr(mmap, "MAP_PRIVATE"):  # not on Windows, where nothing is shared by default
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    try:
        pages = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes of keys and values: {error}") from error
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class Part(NamedTuple):
    """Rows of a pack that attend together.

    Attributes:
        slots: Rows of the store; a slice of it, where that needs no copy of keys and values.
        tokens: Packed token of each row's queries, padded. Shape (rows, queries).
        positions: Of those tokens. Shape (rows, queries).
        num_keys: Positions below this are looked at.
        packed: Which of the flattened `tokens` are not padding, and the packed tokens they are.
    """

    slots: slice | torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor
    num_keys: int
    packed: tuple[torch.Tensor, torch.Tensor]

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return what is added to scores: each query sees itself and what is before it.

        Shape (rows, queries, keys); minus infinity for what is not seen.
        """
        keys = torch.arange(self.num_keys, device=self.positions.device)
        distance = self.positions.unsqueeze(-1) - keys  # (rows, queries, keys)
        hidden = distance < 0
        if window:
            hidden |= distance >= window
        return torch.zeros_like(distance, dtype=dtype).masked_fill_(hidden, float("-inf"))


def _part(
    chosen: torch.Tensor, slots: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor,
    offsets: torch.Tensor, device: torch.device,
) -> Part:  # fmt: skip
    """Lay out some rows of a pack."""
    rows, first = slots[chosen], int(slots[chosen].min())
    num_rows = int(rows.max()) + 1 - first
    where: slice | torch.Tensor = rows.to(device)
    place = torch.arange(len(chosen))
    if num_rows <= 2 * len(chosen):  # a few idle rows cost less than copying the others
        where, place = slice(first, first + num_rows), rows - first
    else:
        num_rows = len(chosen)
    size = int(lengths[chosen].max())
    column = torch.arange(size)
    inside = torch.minimum(column.expand(len(chosen), size), lengths[chosen].unsqueeze(1) - 1)
    tokens = torch.zeros(num_rows, size, dtype=torch.long)
    positions = torch.zeros_like(tokens)  # of an idle row: sees its first key, and is not used
    is_query = torch.zeros_like(tokens, dtype=torch.bool)
    tokens[place] = offsets[chosen].unsqueeze(1) + inside
    positions[place] = starts[chosen].unsqueeze(1) + inside
    is_query[place] = column < lengths[chosen].unsqueeze(1)
    flat = is_query.flatten().nonzero().squeeze(1)
    packed = flat.to(device), tokens.flatten()[flat].to(device)
    num_keys = int(positions.max()) + 1
    return Part(where, tokens.to(device), positions.to(device), num_keys, packed)


class Pack:
    """Tokens of many rows laid end to end, and where each belongs.

    Args:
        rows: For each row its slot, the position of its first token, and its number of tokens.
        store: Where keys and values are.
        device: Of the model.
        visits: Of its layers.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int, int]],
        store: KeyStore,
        device: torch.device,
        visits: Visits,
    ) -> None:
        self.store = store
        self.visits = visits
        lengths = torch.tensor([length for _, _, length in rows])
        offsets = lengths.cumsum(0) - lengths
        slots = torch.tensor([slot for slot, _, _ in rows])
        starts = torch.tensor([start for _, start, _ in rows])
        inside = torch.arange(int(lengths.sum())) - offsets.repeat_interleave(lengths)
        self.positions = (starts.repeat_interleave(lengths) + inside).to(device)  # (tokens,)
        self.slots = slots.repeat_interleave(lengths).to(device)  # (tokens,)
        self._masks: dict[tuple[int, int | None, int], torch.Tensor] = {}
        # New rows bring whole sentences, old ones a few tokens: apart they need little padding.
        order = torch.argsort(lengths, descending=True)
        longest = int(lengths[order[0]])
        cut = int((lengths[order] * 2 > longest).sum())
        self.parts = [
            _part(chosen, slots, starts, lengths, offsets, device)
            for chosen in (order[:cut], order[cut:])
            if len(chosen)
        ]

    def mask(
        self, number: int, window: int | None, groups: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return the mask of a part for grouped queries, shape (rows, 1, groups * queries, keys).

        Layers of a kind share it.
        """
        key = (number, window, groups)
        if key not in self._masks:
            mask = self.parts[number].mask(window, dtype)
            self._masks[key] = mask.repeat(1, groups, 1).unsqueeze(1)
        return self._masks[key]


_pack: Pack | None = None  # the pack being read; attention layers have no other way to know it


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed tokens, each row over its own keys and values.

    Query heads that share a key head are folded into the queries, so keys are never repeated.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, width).
        key: Shape (1, key heads, tokens, width).
        value: Shape (1, key heads, tokens, width).
        attention_mask: Ignored; the pack says who sees whom.
        scaling: Of the scores.
        sliding_window: How far back a query sees.
        rest: See `families.attend`.

    Returns:
        Shape (1, tokens, heads, width), and no weights.

    Raises:
        ModelError: If the layer does what packed rows cannot do.
    """
    pack = _pack
    assert pack is not None, "packed attention outside of a packed reading"
    pack.visits.enter(module)
    window = window_of(module, sliding_window)
    keys, values = pack.store.write(
        module.layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1), pack
    )
    query = query[0].transpose(0, 1)  # (tokens, heads, width)
    num_heads, width = query.shape[1:]
    key_heads = keys.shape[2]
    groups = num_heads // key_heads
    output = query.new_empty(*query.shape[:2], values.shape[-1])
    for number, part in enumerate(pack.parts):
        rows, length = part.tokens.shape
        q = query[part.tokens.flatten()].view(rows, length, key_heads, groups, width)
        q = q.permute(0, 2, 3, 1, 4).reshape(rows, key_heads, groups * length, width)
        k = keys[part.slots, : part.num_keys].transpose(1, 2)  # (rows, key heads, keys, width)
        v = values[part.slots, : part.num_keys].transpose(1, 2)
        mask = pack.mask(number, window, groups, query.dtype)
        seen = attend(module, q, k, v, mask, scaling, rest)
        seen = seen.view(rows, key_heads, groups, length, -1).permute(0, 3, 1, 2, 4)
        padded, packed = part.packed
        output[packed] = seen.reshape(rows * length, num_heads, -1)[padded]
    return output.unsqueeze(0), None


PACKED = "nomina_packed"
AttentionInterface.register(PACKED, packed_attention)


class PackedReader:
    """Reads with a decoder-only model: tokens of all rows packed, keys and values kept."""

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._model = model
        self._config = config
        self._store = KeyStore(config.max_rows, model.device.type != "cpu")
        self._requests: dict[int, Request] = {}
        self._num_read: dict[int, int] = {}
        self._prefixes: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def open(self, slot: int, request: Request) -> None:
        """Put the keys and values of the shared prefix into the slot."""
        prefix = request.prefix_ids
        length = len(prefix) + len(request.sentence_ids) + 64
        if not self._requests and self._store.length > max(4 * length, _SMALL):
            # What a long text needed is given back.
            self._store = KeyStore(self._store.num_slots, self._store.grows_by_slots)
        self._store.reserve([slot], length)
        self._requests[slot] = request
        self._num_read[slot] = len(prefix)
        if not prefix:
            return
        kept = self._prefixes.get(prefix)
        if kept is None:
            step = self._config.max_pass_tokens
            for at in range(0, len(prefix), step):
                self.run([(slot, at, list(prefix[at : at + step]))])
            kept = self._prefixes[prefix] = self._store.take(slot, len(prefix))
            while len(self._prefixes) > self._config.max_prefixes:
                self._prefixes.popitem(last=False)
        else:
            self._prefixes.move_to_end(prefix)
            self._store.put(slot, kept)

    def close(self, slot: int) -> None:
        """Forget the request; its room may be given back."""
        self._requests.pop(slot, None)
        self._store.free(slot)

    def accept(self, slot: int, num_ids: int) -> None:
        """Read again from the first id that was not read as it is now."""
        request = self._requests[slot]
        self._num_read[slot] = len(request.prefix_ids) + len(request.sentence_ids) + num_ids

    def _todo(self, draft: Draft, slot: int) -> tuple[int, list[int]]:
        """Return the position of the first token to read, and the tokens."""
        request, start = self._requests[slot], self._num_read[slot]
        first = len(request.prefix_ids) + len(request.sentence_ids)
        ids = draft.ids[: draft.open[-1].at]
        if start < first:
            return start, [*request.sentence_ids[start - len(request.prefix_ids) :], *ids]
        return start, ids[start - first :]

    def cost(self, draft: Draft, slot: int) -> int:
        """Return the number of tokens to read."""
        return len(self._todo(draft, slot)[1])

    def read(self, drafts: Sequence[Draft], slots: Sequence[int]) -> list[Reading]:
        """Run the model over the unread tokens of all drafts at once."""
        rows = [(slot, *self._todo(draft, slot)) for draft, slot in zip(drafts, slots, strict=True)]
        hidden = self.run(rows)  # (tokens, width)
        self._foresee(drafts, rows, hidden)
        index, offset = [], 0
        for draft, (slot, start, ids) in zip(drafts, rows, strict=True):
            request = self._requests[slot]
            first = len(request.prefix_ids) + len(request.sentence_ids)
            index += [offset + first + item.at - 1 - start for item in draft.open]
            offset += len(ids)
        hidden = hidden[torch.tensor(index, device=hidden.device)]  # (choices, width)
        forks = [item.fork for draft in drafts for item in draft.open]
        return _split(drafts, *choose(self._model, hidden, forks))

    def _foresee(
        self,
        drafts: Sequence[Draft],
        rows: Sequence[tuple[int, int, list[int]]],
        hidden: torch.Tensor,
    ) -> None:
        """Let heads guess from the states of sentences that were read for the first time."""
        if self._model.heads is None:
            return
        new, states, offset = [], [], 0
        for draft, (_, start, ids) in zip(drafts, rows, strict=True):
            request = draft.request
            if start == len(request.prefix_ids):
                new.append(draft)
                states.append(hidden[offset : offset + len(request.sentence_ids)])
            offset += len(ids)
        if not new:
            return
        groundings = [draft.request.grounding for draft in new]
        found = foresee(self._model.heads, groundings, states, self._logits)
        for draft, foresight in zip(new, found, strict=True):
            draft.foresight = foresight

    def _logits(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of some ids, on the CPU, where heads guess."""
        device = self._model.device
        return self._model.choice_logits(hidden.to(device), ids.to(device)).cpu()

    def run(self, rows: Sequence[tuple[int, int, list[int]]]) -> torch.Tensor:
        """Run the model over tokens of many rows at once, writing their keys and values.

        Args:
            rows: For each row its slot, the position of its first token, and its tokens.

        Returns:
            Last hidden states of all tokens, end to end. Shape (tokens, width).
        """
        global _pack
        device = self._model.device
        longest = max(start + len(ids) for _, start, ids in rows)
        check_length(self._model.module.config, longest)
        self._store.reserve([slot for slot, _, _ in rows], longest)
        shape = [(slot, start, len(ids)) for slot, start, ids in rows]
        pack = Pack(shape, self._store, device, Visits(self._model.module.config))
        ids = torch.tensor([[token for _, _, ids in rows for token in ids]], device=device)
        config = self._model.module.config
        before = config._attn_implementation
        _pack = pack
        config._attn_implementation = PACKED
        try:
            hidden = self._model.hidden(
                ids,
                attention_mask=no_mask(config),
                position_ids=pack.positions.unsqueeze(0),
            )
        finally:
            config._attn_implementation = before
            _pack = None
        pack.visits.check()
        return hidden[0]  # (tokens, width)


# --------------------------------------------------------------------------------------------------


_END: Any = object()


class Intake:
    """Takes requests from a stream that may have nothing to give now.

    Attributes:
        is_ended: Whether there will be no more.
    """

    def __init__(self, requests: Iterable[Request | None]) -> None:
        self._requests = iter(requests)
        self.is_ended = False

    def take(self, is_idle: bool) -> Request | None:
        """Return the next request, or None: nothing now, which is the end if all else is done."""
        if self.is_ended:
            return None
        with torch.inference_mode(False):  # the stream runs code of others
            request = next(self._requests, _END)
        if request is None or request is _END:
            self.is_ended = request is _END or is_idle
            return None
        taken: Request = request
        return taken


_turn = threading.RLock()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Run a model without gradients, one thread at a time.

    Layers learn what they read from globals and from their config.
    """
    with _turn, torch.inference_mode():
        yield


class Readers(Generic[R]):
    """Readers for streams that are read by turns: slots are numbered within a stream.

    The one that was given back last is kept, with the prefixes it has read.

    Args:
        make: Makes a reader.
    """

    def __init__(self, make: Callable[[], R]) -> None:
        self._make = make
        self._idle: R | None = make()

    @contextlib.contextmanager
    def taken(self) -> Iterator[R]:
        """Hand out a reader that no other stream has."""
        with _turn:
            reader, self._idle = self._idle or self._make(), None
        try:
            yield reader
        except GeneratorExit:
            self._idle = reader
            raise
        self._idle = reader  # one that failed, by memory that ran out, may hold half a reading


class Engine:
    """Decodes streams of requests; several may be under way, in turns or in threads.

    Args:
        model: The model.
        config: How much is read at once.
    """

    def __init__(self, model: LanguageModel, config: EngineConfig | None = None) -> None:
        self.model = model
        self.config = config or EngineConfig()
        kind = EncoderDecoderReader if model.is_encoder_decoder else PackedReader
        self._readers: Readers[Reader] = Readers(lambda: kind(model, self.config))
        self.odds = Odds()
        self.usage = Usage()

    def _certainty(self, num_rows: int) -> float:
        """Return how probable a draft should be when so many rows share the cost of a reading.

        A token read in vain costs 1; one that is right saves its part of another reading.
        """
        saved = self.config.pass_tokens / (num_rows * _STEP)
        return 1 / (1 + saved)

    def decode(self, requests: Iterable[Request]) -> Iterator[Path]:
        """Yield the path of each request, in order, as soon as it and all before it are done.

        Requests are taken from the stream only when there is room for them.
        """
        return (path for _, path in self._decode(requests, is_ordered=True))

    def decode_as_done(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Path]]:
        """Yield (number of the request, path) of each request as soon as it is done.

        The stream may say None for "nothing now, ask again after the next reading"; with nothing
        under way that is its end.
        """
        return self._decode(requests, is_ordered=False)

    def _decode(
        self, requests: Iterable[Request | None], is_ordered: bool
    ) -> Iterator[tuple[int, Path]]:
        with self._readers.taken() as reader:
            yield from self._decode_with(reader, requests, is_ordered)

    def _decode_with(
        self, reader: Reader, requests: Iterable[Request | None], is_ordered: bool
    ) -> Iterator[tuple[int, Path]]:
        intake = Intake(requests)
        slots = list(range(self.config.max_rows))  # a heap: rows lie together in the store
        for slot in slots:
            reader.close(slot)  # of a stream that nobody read to its end
        active: dict[int, tuple[int, Draft]] = {}  # slot -> number of the request, draft
        done: dict[int, Path] = {}
        num_taken = num_given = 0
        waiting: Draft | None = None
        while True:
            budget = self.config.max_pass_tokens
            batch: list[tuple[int, int, Draft]] = []
            for slot, (number, draft) in active.items():
                cost = reader.cost(draft, slot)
                if not batch or cost <= budget:
                    batch.append((slot, number, draft))
                    budget -= cost
            # Only look ahead a few rows past the one that is owed, so that results keep flowing.
            most_ahead = 4 * self.config.max_rows
            while slots and num_taken - num_given < most_ahead:
                if waiting is None:
                    request = intake.take(is_idle=not active)
                    if request is None:
                        break
                    waiting = Draft(request)
                if waiting.is_done:
                    done[num_taken] = waiting.path
                    num_taken, waiting = num_taken + 1, None
                    self.usage.requests += 1
                    continue
                waiting.write(self._certainty(len(batch) + 1), self.odds)
                size = len(waiting.request.sentence_ids) + len(waiting.ids)
                if batch and (size > budget or not self._fits(active, waiting)):
                    break
                slot = heapq.heappop(slots)
                with reading():
                    reader.open(slot, waiting.request)
                active[slot] = (num_taken, waiting)
                batch.append((slot, num_taken, waiting))
                budget -= size
                num_taken, waiting = num_taken + 1, None
            if batch:
                self._pass(reader, batch, active, slots, done)
            while done and (num_given in done or not is_ordered):
                number = num_given if is_ordered else next(iter(done))
                yield number, done.pop(number)
                num_given += 1
            if intake.is_ended and not active and not done and waiting is None:
                return

    def _fits(self, active: dict[int, tuple[int, Draft]], draft: Draft) -> bool:
        sizes = [_size(item) for _, item in active.values()] + [_size(draft)]
        return max(sizes) * len(sizes) <= self.config.max_cache_tokens

    def _pass(
        self,
        reader: Reader,
        batch: Sequence[tuple[int, int, Draft]],
        active: dict[int, tuple[int, Draft]],
        slots: list[int],
        done: dict[int, Path],
    ) -> None:
        drafts = [draft for _, _, draft in batch]
        certainty = self._certainty(len(active))
        usage = self.usage
        usage.passes += 1
        usage.reads += len(batch)
        usage.tokens += sum(reader.cost(draft, slot) for slot, _, draft in batch)
        with reading():
            readings = reader.read(drafts, [slot for slot, _, _ in batch])
        for (slot, number, draft), found in zip(batch, readings, strict=True):
            num_read = draft.check(*found, self.odds)
            reader.accept(slot, num_read)
            draft.write(certainty, self.odds)
            if draft.is_done:
                done[number] = draft.path
                del active[slot]
                reader.close(slot)
                heapq.heappush(slots, slot)
                usage.requests += 1
                usage.floor_tokens += len(draft.request.sentence_ids) + num_read


_SMALL = 1024  # positions of a row that a store may keep, needed or not
_STEP = 8  # tokens that a reading is taken to make sure of


def _size(draft: Draft) -> int:
    request = draft.request
    return len(request.prefix_ids) + len(request.sentence_ids) + draft.length


@torch.inference_mode()
def decode_plain(model: LanguageModel, request: Request) -> Path:
    """Decode one step at a time: the rule in its plainest form, which the engine must equal.

    Runs the model over the ids that are sure, asks it for the next choice among the allowed ids,
    takes the most likely, writes the ids that are forced after it, and so on.
    """
    device = model.device
    prompt = [*request.prefix_ids, *request.sentence_ids]
    encoded = None
    cache: Any = None
    if model.is_encoder_decoder:
        ids = torch.tensor([prompt], device=device)
        output = model.module.get_encoder()(input_ids=ids).last_hidden_state
        encoded = (output, torch.ones_like(ids))
        ids_to_read = [start_id(model.module)]
    else:
        cache = DynamicCache(config=model.module.config)
        ids_to_read = prompt
    fork = request.grounding.start()
    ids_to_read += fork.forced
    num_read, path = 0, []
    while fork.allowed:
        ids = torch.tensor([ids_to_read], device=device)
        if encoded is None:
            positions = torch.arange(num_read, num_read + ids.shape[1], device=device)
            hidden = model.hidden(ids, position_ids=positions.unsqueeze(0), cache=cache)
            num_read += ids.shape[1]
            ids_to_read = []
        else:
            hidden = model.hidden(ids, encoded=encoded)
        (choice,), (log_prob,) = choose(model, hidden[:, -1], [fork])
        path.append((fork, choice, log_prob))
        ids_to_read.append(fork.allowed[choice])
        fork = fork.take(choice)
        ids_to_read.extend(fork.forced)
    return path
