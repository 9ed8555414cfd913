"""Beam search over tags: the most probable of several completions, branching at choices only.

Hypotheses are walks of a grounding. All of them copy the same text, so they are compared where
they have got to the same word (word-synchronous search, Stern, Fried and Klein 2017): at each word,
hypotheses take their choices there, the best few going on at every choice, and what has arrived at
the next word is cut down to the best few. With one beam that is the greedy rule.

A hypothesis scores the sum of its choices' log probabilities, each among what is allowed: the log
probability of the whole walk under the grounded model. Whole walks are about the same words and
need no correction for length. Unfinished ones in the `inline` format have not paid for the label of
an entity still open, so the beam leans towards entities that close late while they are open; it is
put right when they close, and in the `gner` format, where the label comes first, it leans the other
way. The path of the best walk is given back, and scores of entities are read from it as always.

`decode_beams_plain` runs the model anew for every hypothesis at every choice. `BeamEngine` runs the
same search on what it has read and estimates the rest, reads in one pass what was estimated (a tree
of continuations behind the prompt, each token once, seeing its own ancestors only), and repeats
until a search needed no estimate.

Knows token ids, forks and models; nothing of words or labels. Sentences are decoded one by one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from transformers import AttentionInterface

from nomina.drafting import Memory
from nomina.engine import EngineConfig, Path, Request, Usage, reading
from nomina.errors import ModelError
from nomina.families import Visits, attend, no_mask, start_id, window_of
from nomina.grounding import Fork, Grounding
from nomina.models import LanguageModel


class Step:
    """The end of a walk: a fork, and how one got there.

    Attributes:
        fork: The fork.
        parent: The step before, none at the start.
        choice: The choice taken at the parent's fork.
        ids: Ids written since the parent's fork.
        log_probs: Log probabilities of the fork's choices, once they have been read.
        num_ids: Ids written since the start.
        at: Where a reader has put the ids; the reader's own business.
    """

    __slots__ = ("_next", "at", "choice", "fork", "ids", "log_probs", "num_ids", "parent")

    def __init__(self, fork: Fork, parent: Step | None = None, choice: int = -1) -> None:
        self.fork = fork
        self.parent = parent
        self.choice = choice
        taken = () if parent is None else (parent.fork.allowed[choice],)
        self.ids: tuple[int, ...] = (*taken, *fork.forced)
        self.num_ids: int = len(self.ids) + (parent.num_ids if parent else 0)
        self.log_probs: list[float] | None = None
        self.at: Any = None
        self._next: dict[int, Step] = {}

    @property
    def word(self) -> float:
        """Index of the word that the fork is about; infinite at the end."""
        return self.fork.state.word if self.fork.allowed else math.inf

    def take(self, choice: int) -> Step:
        """Return the step behind a choice, always the same one."""
        step = self._next.get(choice)
        if step is None:
            step = self._next[choice] = Step(self.fork.take(choice), self, choice)
        return step

    def line(self) -> list[Step]:
        """Return all steps from the start to this one."""
        out, step = [self], self.parent
        while step is not None:
            out.append(step)
            step = step.parent
        return out[::-1]

    def written(self) -> list[int]:
        """Return all ids from the start."""
        return [token for step in self.line() for token in step.ids]

    def path(self) -> Path:
        """Return the walk as the engine gives it; all its choices must have been read."""
        out: Path = []
        for step in self.line()[1:]:
            parent = step.parent
            assert parent is not None, "only the first step has no parent"
            assert parent.log_probs is not None, "a choice that was not read"
            out.append((parent.fork, step.choice, parent.log_probs[step.choice]))
        return out


class Hypothesis(NamedTuple):
    """A walk so far and the sum of its log probabilities."""

    score: float
    step: Step


Ask = Callable[[Sequence[Step]], Sequence[Sequence[float]]]


def search(start: Step, num_beams: int, ask: Ask) -> Step:
    """Find the best walk.

    Args:
        start: Where walks begin.
        num_beams: Hypotheses kept.
        ask: Returns the log probabilities of the choices at each of some steps.

    Returns:
        The end of the best walk found.
    """

    def best(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
        # As good as sorting: the earlier of two equals wins.
        return heapq.nlargest(num_beams, hypotheses, key=lambda hypothesis: hypothesis.score)

    beam = [Hypothesis(0.0, start)]
    while (word := min(hypothesis.step.word for hypothesis in beam)) < math.inf:
        front = [hypothesis for hypothesis in beam if hypothesis.step.word == word]
        arrived = [hypothesis for hypothesis in beam if hypothesis.step.word > word]
        while front:
            found = ask([hypothesis.step for hypothesis in front])
            successors = (
                Hypothesis(score + log_prob, step.take(choice))
                for (score, step), log_probs in zip(front, found, strict=True)
                for choice, log_prob in enumerate(log_probs)
            )
            kept = best(successors)
            front = [hypothesis for hypothesis in kept if hypothesis.step.word == word]
            arrived += [hypothesis for hypothesis in kept if hypothesis.step.word > word]
        beam = best(arrived)
    return beam[0].step


def fork_log_probs(
    model: LanguageModel, hidden: torch.Tensor, forks: Sequence[Fork]
) -> list[list[float]]:
    """Return the log probabilities of each fork's choices; hidden has shape (forks, width)."""
    found: list[list[float]] = [[]] * len(forks)
    for rows, log_probs in model.choice_log_probs(hidden, [fork.allowed for fork in forks]):
        for row, of_fork in zip(rows, log_probs.tolist(), strict=True):
            found[row] = of_fork[: len(forks[row].allowed)]
    return found


@torch.inference_mode()
def decode_beams_plain(model: LanguageModel, request: Request, num_beams: int) -> Path:
    """Search in the plainest way: the model reads everything anew for every hypothesis."""
    prompt = [*request.prefix_ids, *request.sentence_ids]
    encoded = _encode(model, prompt) if model.is_encoder_decoder else None
    before = prompt if encoded is None else [start_id(model.module)]

    def ask(steps: Sequence[Step]) -> list[list[float]]:
        for step in steps:
            ids = torch.tensor([[*before, *step.written()]], device=model.device)
            hidden = model.hidden(ids, encoded=encoded)[:, -1]  # (1, width)
            (step.log_probs,) = fork_log_probs(model, hidden, [step.fork])
        return [step.log_probs or [] for step in steps]

    return search(Step(request.grounding.start()), num_beams, ask).path()


def _encode(model: LanguageModel, prompt: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([list(prompt)], device=model.device)
    states = model.module.get_encoder()(input_ids=ids).last_hidden_state
    return states, torch.ones_like(ids)


# --------------------------------------------------------------------------------------------------
# Readers: run the model over steps


class StepReader(Protocol):
    """Runs a model over steps of one sentence."""

    def open(self, request: Request) -> None:
        """Begin a sentence."""

    def read(self, steps: Sequence[Step]) -> tuple[torch.Tensor, int]:
        """Run the model over steps whose parents have been read, or come before them.

        Returns:
            The last hidden state of each step, shape (steps, width), and how many tokens it took.
        """


class LineReader:
    """Reads with an encoder-decoder model: the decoder over whole lines, padded.

    The decoder's position biases come from places in its input, so that a tree cannot be read at
    once; several steps on one line can.
    """

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._model = model
        self._config = config

    def open(self, request: Request) -> None:
        """Encode the prompt."""
        self._encoded = _encode(self._model, [*request.prefix_ids, *request.sentence_ids])

    def read(self, steps: Sequence[Step]) -> tuple[torch.Tensor, int]:
        """Run the decoder over the longest lines."""
        wanted = {id(step): number for number, step in enumerate(steps)}
        inner = {id(step.parent) for step in steps}
        ends = [step for step in steps if id(step) not in inner]
        out: list[torch.Tensor | None] = [None] * len(steps)
        num_tokens = 0
        states, mask = self._encoded
        longest = max(step.num_ids for step in ends) + 1
        size = max(1, self._config.max_pass_tokens // longest)
        for at in range(0, len(ends), size):
            group = ends[at : at + size]
            rows = [[start_id(self._model.module), *step.written()] for step in group]
            num_tokens += sum(map(len, rows))
            length = max(map(len, rows))
            ids = torch.tensor(
                [row + [0] * (length - len(row)) for row in rows], device=self._model.device
            )
            encoded = states.expand(len(rows), -1, -1), mask.expand(len(rows), -1)
            hidden = self._model.hidden(ids, encoded=encoded)  # (rows, length, width)
            for row, end in enumerate(group):
                for step in end.line():
                    if (number := wanted.get(id(step))) is not None:
                        out[number] = hidden[row, step.num_ids]
        return torch.stack([state for state in out if state is not None]), num_tokens


class TreeStore:
    """Keys and values of a prompt and of the tree of continuations behind it.

    Attributes:
        num_tokens: Tokens of both that are kept.
        positions: Position of each in its own line. Shape (capacity,).
        sees: Which tokens each sees, as far as its line goes. Shape (capacity, capacity).
    """

    def __init__(self, device: torch.device) -> None:
        self.num_tokens = 0
        self._device = device
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self.positions = torch.zeros(0, dtype=torch.long, device=device)
        self.sees = torch.zeros(0, 0, dtype=torch.bool, device=device)

    def extend(self, parents: Sequence[int]) -> None:
        """Make room for tokens, each behind an earlier one, -1 for the first of all."""
        first = self.num_tokens
        self._reserve(first + len(parents))
        for at, parent in enumerate(parents, first):
            if parent >= 0:
                self.sees[at] = self.sees[parent]
                self.positions[at] = self.positions[parent] + 1
            else:
                self.sees[at] = False
                self.positions[at] = 0
            self.sees[at, at] = True
        self.num_tokens += len(parents)

    @property
    def is_line(self) -> bool:
        """Whether all tokens are on the line of the last one."""
        last = self.num_tokens - 1
        return last < 0 or int(self.positions[last]) == last

    def extend_line(self, count: int) -> None:
        """Do the same, of a line alone, for tokens that each stand behind the one before."""
        first = self.num_tokens
        self._reserve(first + count)
        stop = first + count
        self.sees[first:stop, :stop] = torch.ones(
            count, stop, dtype=torch.bool, device=self._device
        ).tril(first)
        self.sees[first:stop, stop:] = False
        self.positions[first:stop] = torch.arange(first, stop, device=self._device)
        self.num_tokens = stop

    def _reserve(self, size: int) -> None:
        old = len(self.positions)
        if size <= old:
            return
        size = max(256, 2 * size)
        for store in (self._keys, self._values):
            for layer, rows in store.items():
                store[layer] = torch.cat([rows, rows.new_zeros(size - old, *rows.shape[1:])])
        grow = size - old
        self.positions = torch.nn.functional.pad(self.positions, (0, grow))
        self.sees = torch.nn.functional.pad(self.sees, (0, grow, 0, grow))

    def write(
        self, layer: int, first: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values of the tokens from `first` on; return those of all tokens."""
        if layer not in self._keys:
            room = len(self.positions)
            self._keys[layer] = keys.new_zeros(room, *keys.shape[1:])
            self._values[layer] = values.new_zeros(room, *values.shape[1:])
        self._keys[layer][first : self.num_tokens] = keys
        self._values[layer][first : self.num_tokens] = values
        return self._keys[layer][: self.num_tokens], self._values[layer][: self.num_tokens]


class TreePass:
    """The tokens of a store that are being read: those from `first` on."""

    def __init__(self, store: TreeStore, first: int, visits: Visits) -> None:
        self.store = store
        self.visits = visits
        self.first = first
        self._masks: dict[tuple[int | None, int], torch.Tensor] = {}

    def mask(self, window: int | None, groups: int) -> torch.Tensor:
        """Return the mask for grouped queries, shape (1, groups * queries, keys)."""
        key = window, groups
        if key not in self._masks:
            store, first, stop = self.store, self.first, self.store.num_tokens
            allowed = store.sees[first:stop, :stop]  # (queries, keys)
            if window:
                positions = store.positions[:stop]
                allowed = allowed & (positions[first:].unsqueeze(1) - positions < window)
            self._masks[key] = allowed.repeat(groups, 1).unsqueeze(0)
        return self._masks[key]


_tree: TreePass | None = None  # what is being read; attention layers have no other way to know it


def tree_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of tokens of a tree, each over its own ancestors.

    Query heads that share a key head are folded into the queries, as in `engine.packed_attention`.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, width).
        key: Shape (1, key heads, tokens, width).
        value: Shape (1, key heads, tokens, width).
        attention_mask: Ignored; the tree says who sees whom.
        scaling: Of the scores.
        sliding_window: How far back a query sees.
        rest: See `families.attend`.

    Returns:
        Shape (1, tokens, heads, width), and no weights.

    Raises:
        ModelError: If the layer does what trees cannot do.
    """
    tree = _tree
    assert tree is not None, "tree attention outside of the reading of a tree"
    tree.visits.enter(module)
    keys, values = tree.store.write(
        module.layer_idx, tree.first, key[0].transpose(0, 1), value[0].transpose(0, 1)
    )
    num_heads, length, width = query.shape[1:]
    key_heads = keys.shape[1]
    groups = num_heads // key_heads
    folded = query[0].reshape(key_heads, groups * length, width)
    seen = attend(
        module,
        folded.unsqueeze(0),
        keys.transpose(0, 1).unsqueeze(0),  # (1, key heads, keys, width)
        values.transpose(0, 1).unsqueeze(0),
        tree.mask(window_of(module, sliding_window), groups).unsqueeze(0),
        scaling,
        rest,
    )
    return seen.reshape(1, num_heads, length, -1).transpose(1, 2), None


TREE = "nomina_tree"
AttentionInterface.register(TREE, tree_attention)


class TreeReader:
    """Reads with a decoder-only model: every token of a tree once, keys and values kept."""

    def __init__(self, model: LanguageModel, config: EngineConfig) -> None:
        self._model = model
        self._store = TreeStore(model.device)
        self._prefix: tuple[int, ...] = ()
        self._prompt: list[int] = []

    def open(self, request: Request) -> None:
        """Forget the sentence before, but keep a shared prefix."""
        prefix = request.prefix_ids
        if prefix != self._prefix:
            self._store.num_tokens = 0
            self._prefix = ()  # until it has been read
            if prefix:
                self._store.extend_line(len(prefix))
                self._run(prefix, 0)
            self._prefix = prefix
        self._store.num_tokens = len(prefix)
        self._prompt = list(request.sentence_ids)

    def read(self, steps: Sequence[Step]) -> tuple[torch.Tensor, int]:
        """Run the model over all steps at once; with the start, over the prompt first."""
        store, ids, parents = self._store, list[int](), list[int]()
        first = store.num_tokens
        ends = []
        for step in steps:
            new = [*self._prompt, *step.ids] if step.parent is None else step.ids
            last = first - 1 if step.parent is None else step.parent.at
            for token in new:
                ids.append(token)
                parents.append(last)
                last = first + len(ids) - 1
            step.at = last
            ends.append(last - first)
        follows = all(parent == at for at, parent in enumerate(parents, first - 1))
        if follows and store.is_line:
            store.extend_line(len(ids))
        else:
            store.extend(parents)
        hidden = self._run(ids, first)  # (tokens, width)
        return hidden[torch.tensor(ends, device=hidden.device)], len(ids)

    def _run(self, ids: Sequence[int], first: int) -> torch.Tensor:
        global _tree
        store, model = self._store, self._model
        config = model.module.config
        before = config._attn_implementation
        _tree = tree = TreePass(store, first, Visits(config))
        config._attn_implementation = TREE
        try:
            hidden = model.hidden(
                torch.tensor([list(ids)], device=model.device),
                attention_mask=no_mask(config),
                position_ids=store.positions[first : store.num_tokens].unsqueeze(0),
            )
        finally:
            config._attn_implementation = before
            _tree = None
        tree.visits.check()
        return hidden[0]  # (tokens, width)


# --------------------------------------------------------------------------------------------------


class BeamEngine:
    """Decodes a stream of requests with beam search.

    Args:
        model: The model.
        config: How much is read at once.
        num_beams: Hypotheses kept, at least 1; with 1 it finds what `Engine` finds.

    Raises:
        ModelError: If `num_beams` is less than 1.
    """

    def __init__(
        self, model: LanguageModel, config: EngineConfig | None = None, num_beams: int = 4
    ) -> None:
        if num_beams < 1:
            raise ModelError(f"num_beams must be at least 1, was: {num_beams}")
        self.model = model
        self.config = config or EngineConfig()
        self.num_beams = num_beams
        self.usage = Usage()
        kind = LineReader if model.is_encoder_decoder else TreeReader
        self._reader: StepReader = kind(model, self.config)

    def decode(self, requests: Iterable[Request]) -> Iterator[Path]:
        """Yield the path of the best walk of each request, in order, one by one."""
        for request in requests:
            yield self._decode(request)

    def decode_as_done(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Path]]:
        """Yield (number of the request, path); None in the stream is its end.

        As in `Engine.decode_as_done`: nothing is ever under way when the stream is asked.
        """
        for number, request in enumerate(requests):
            if request is None:
                return
            yield number, self._decode(request)

    @reading()
    def _decode(self, request: Request) -> Path:
        start = Step(request.grounding.start())
        self.usage.requests += 1
        if not start.fork.allowed:
            return []
        self._reader.open(request)
        known = _Estimates(request.grounding)
        num_beams = 1  # the likely walk first: what it shows makes better estimates
        while True:
            missing: list[Step] = []
            asked: set[int] = set()

            def ask(
                steps: Sequence[Step], missing: list[Step] = missing, asked: set[int] = asked
            ) -> list[list[float]]:
                for step in steps:
                    if step.log_probs is None and id(step) not in asked:
                        asked.add(id(step))
                        missing.append(step)
                return [step.log_probs or known.log_probs(step.fork) for step in steps]

            best = search(start, num_beams, ask)
            if not missing and num_beams == self.num_beams:
                self.usage.floor_tokens += len(request.sentence_ids) + best.num_ids - 1
                return best.path()
            num_beams = self.num_beams
            if missing:
                self._read(missing, known)

    def _read(self, steps: Sequence[Step], known: _Estimates) -> None:
        hidden, num_tokens = self._reader.read(steps)  # (steps, width)
        found = fork_log_probs(self.model, hidden, [step.fork for step in steps])
        self.usage.passes += 1
        self.usage.reads += 1
        self.usage.tokens += num_tokens
        for step, log_probs in zip(steps, found, strict=True):
            step.log_probs = log_probs
            known.learn(step.fork, log_probs)


class _Estimates:
    """What the model will probably say at forks that it has not read behind the same walk."""

    def __init__(self, grounding: Grounding) -> None:
        self._memory = Memory(grounding)
        self._by_key: dict[Any, list[float]] = {}

    def learn(self, fork: Fork, log_probs: list[float]) -> None:
        """Note what the model said at a fork."""
        self._by_key[fork.key] = log_probs
        self._memory.learn(fork, max(range(len(log_probs)), key=log_probs.__getitem__))

    def log_probs(self, fork: Fork) -> list[float]:
        """Return log probabilities: those of the same question elsewhere, else the guess wins."""
        found = self._by_key.get(fork.key)
        if found is None:
            guess = self._memory.guess(fork)
            sure = min(max(guess.odds, 0.01), 0.99)
            rest = math.log((1 - sure) / (len(fork.allowed) - 1))
            found = [rest] * len(fork.allowed)
            found[guess.move] = math.log(sure)
        return found
