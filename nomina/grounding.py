"""Which tokens may come next so that a completion copies the text, and nothing else.

A format says what may be written next as strings; here they become token ids, and the strings that
compete in one place become a trie. What is left of a completion then is a walk along `Fork`s: a run
of forced tokens that need no model, then a choice among a few ids, and so on to the end. Every walk
is a well-formed copy of the sentence with labels of the set, whatever the model prefers, because
nothing else can be reached; positions are counted, never searched, so a token that cannot spell a
character exactly does no harm to offsets.

Knows token ids and formats, no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nomina.entities import Span
from nomina.errors import GroundingError
from nomina.formats import DONE, Format, GoldSpans, Guess, Sentence, State


class Node:
    """A place in the trie of the strings that compete in one state.

    Attributes:
        forced: Ids that follow without a choice.
        allowed: Ids to choose from after them; empty at a leaf.
        children: One node for each allowed id.
        moves: For each allowed id the moves that it leaves open.
        move: Index of the move that a leaf stands for; -1 inside the trie.
        depth: Ids of the move that stand before this choice.
    """

    __slots__ = ("allowed", "children", "depth", "forced", "move", "moves")

    def __init__(self, forced: tuple[int, ...], depth: int, move: int = -1) -> None:
        self.forced = forced
        self.depth = depth
        self.move = move
        self.allowed: tuple[int, ...] = ()
        self.moves: tuple[list[int], ...] = ()
        self.children: tuple[Node, ...] = ()


class Lexicon:
    """Strings as token ids, and sets of strings as tries, remembered across sentences.

    Args:
        encode: Token ids of a string as it stands inside a completion.
        eos_id: The id that ends a completion; what an empty string stands for.
        unknown_id: Stands for strings that the vocabulary drops altogether.
        max_entries: Bound on each cache; it is emptied when full.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        eos_id: int,
        unknown_id: int | None = None,
        max_entries: int = 200_000,
    ) -> None:
        self._encode = encode
        self._eos_id = eos_id
        self._unknown_id = eos_id if unknown_id is None else unknown_id
        self._max_entries = max_entries
        self._ids: dict[str, tuple[int, ...]] = {"": (eos_id,)}
        self._tries: dict[tuple[str, ...], Node] = {}
        self._num_texts = 0  # in all tries: one holds as many as there are labels

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a string, never none."""
        ids = self._ids.get(text)
        if ids is None:
            if len(self._ids) >= self._max_entries:
                self._ids = {"": (self._eos_id,)}
            ids = tuple(self._encode(text)) or (self._unknown_id,)
            self._ids[text] = ids
        return ids

    def can_spell(self, text: str) -> bool:
        """Tell whether the vocabulary has ids of its own for every part of a string."""
        return self._unknown_id not in self.ids(text)

    def trie(self, texts: tuple[str, ...]) -> Node:
        """Return the trie of strings that compete.

        Raises:
            GroundingError: If the vocabulary spells two of them alike, or one as the beginning of
                another, so that a model could not choose between them.
        """
        root = self._tries.get(texts)
        if root is None:
            self._num_texts += len(texts)
            if self._num_texts > self._max_entries:
                self._tries, self._num_texts = {}, len(texts)
            ids = [self.ids(text) for text in texts]
            root = self._tries[texts] = _grow(ids, list(range(len(ids))), 0, texts)
        return root


def _grow(ids: list[tuple[int, ...]], moves: list[int], depth: int, texts: Sequence[str]) -> Node:
    first = ids[moves[0]]
    if len(moves) == 1:
        return Node(first[depth:], len(first), moves[0])
    end = depth
    shortest = min(len(ids[move]) for move in moves)
    while end < shortest and all(ids[move][end] == first[end] for move in moves):
        end += 1
    if end == shortest:
        short = next(move for move in moves if len(ids[move]) == shortest)
        other = next(move for move in moves if move != short)
        raise GroundingError(
            f"this model's vocabulary cannot tell {texts[short]!r} from {texts[other]!r}. "
            "Rename one of the labels, or use another format or model."
        )
    groups: dict[int, list[int]] = {}
    for move in moves:
        groups.setdefault(ids[move][end], []).append(move)
    node = Node(first[depth:end], end)
    node.allowed = tuple(groups)
    node.moves = tuple(groups.values())
    node.children = tuple(_grow(ids, group, end + 1, texts) for group in groups.values())
    return node


class Fork:
    """A choice in a completion: what is forced before it, what may follow, where that leads.

    Attributes:
        forced: Ids written since the last choice, without asking the model.
        allowed: Ids to choose from; empty at the end of the completion.
        state: The format's state in which the choice is made.
        steps: Moves completed on the way here: (state before, move).
        key: The same for forks that ask the same question behind different writings.
    """

    __slots__ = ("_grounding", "_next", "_node", "allowed", "forced", "key", "state", "steps")

    def __init__(self, grounding: Grounding, state: State, node: Node) -> None:
        forced, steps = node.forced, []
        while not node.allowed:
            steps.append((state, node.move))
            state = grounding.form.advance(state, node.move, grounding.sentence)
            if state == DONE or grounding.is_past(state):
                break
            node = grounding.trie(state)
            forced += node.forced
        self.forced: tuple[int, ...] = forced
        self.allowed: tuple[int, ...] = node.allowed
        self.state = state
        self.steps: list[tuple[State, int]] = steps
        self.key = (state, node)
        self._grounding = grounding
        self._node = node
        self._next: list[Fork | None] = [None] * len(node.allowed)

    @property
    def moves(self) -> tuple[Sequence[int], ...]:
        """For each allowed id the moves of the state that it leaves open."""
        return self._node.moves

    def take(self, choice: int) -> Fork:
        """Return the fork behind the choice of `allowed[choice]`."""
        fork = self._next[choice]
        if fork is None:
            fork = Fork(self._grounding, self.state, self._node.children[choice])
            self._next[choice] = fork
        return fork

    def gold_choice(self, gold: GoldSpans) -> int:
        """Return the choice that leads to the gold spans."""
        grounding = self._grounding
        move = grounding.form.gold_move(self.state, grounding.sentence, gold)
        texts = grounding.form.moves(self.state, grounding.sentence, grounding.labels)
        return self.allowed.index(grounding.lexicon.ids(texts[move])[self._node.depth])


class ScoredSpan(NamedTuple):
    """An entity in words with its label's index and probability."""

    start: int
    end: int
    label: int
    score: float


class Grounding:
    """All completions of one sentence, as a walk from `start()` along `Fork.take`.

    Args:
        form: The format.
        sentence: The words to copy.
        labels: Names of the labels.
        lexicon: Token ids of strings; share one among the sentences of a model.
        num_decided: Words to decide, from the first; all of them by default. A walk ends behind
            them and behind the entities that begin among them. What a model would choose later
            has no part in what it chose before, so these entities are the same, and cost less.
    """

    def __init__(
        self,
        form: Format,
        sentence: Sentence,
        labels: tuple[str, ...],
        lexicon: Lexicon,
        num_decided: int | None = None,
    ) -> None:
        self.form = form
        self.sentence = sentence
        self.labels = labels
        self.lexicon = lexicon
        self.num_decided = len(sentence.words) if num_decided is None else num_decided
        self._start: Fork | None = None

    def trie(self, state: State) -> Node:
        """Return the trie of what may be written in a state."""
        return self.lexicon.trie(self.form.moves(state, self.sentence, self.labels))

    def is_past(self, state: State) -> bool:
        """Tell whether nothing is left to decide in a state, though words may be left to write."""
        if not self.num_decided <= state.word < len(self.sentence.words):
            return False
        return not 0 <= state.start < self.num_decided

    def start(self) -> Fork:
        """Return the first fork."""
        if self._start is None:
            state = self.form.start()
            self._start = Fork(self, state, self.trie(state))
        return self._start

    def likely(self, fork: Fork, seen: dict[State, int]) -> Guess:
        """Guess a choice that the model has not made yet from moves that it has, by state.

        Only speed depends on it: a wrong guess costs a reading, never a result.
        """
        guess = self.form.likely(fork.state, self.sentence, seen)
        for choice, moves in enumerate(fork.moves):
            if guess.move in moves:
                return guess._replace(move=choice)
        return guess._replace(move=0)

    def walk(self, gold: GoldSpans) -> list[tuple[Fork, int]]:
        """Return the forks and choices that lead to the gold spans."""
        fork, path = self.start(), []
        while fork.allowed:
            choice = fork.gold_choice(gold)
            path.append((fork, choice))
            fork = fork.take(choice)
        return path

    def read(self, path: Sequence[tuple[Fork, int, float]]) -> list[ScoredSpan]:
        """Read a walk as entities.

        Args:
            path: Each fork, the choice taken, and its log probability among the allowed ids.

        Returns:
            The entities in order. A score is the product of the probabilities of the choices that
            made the entity: to start it, its label, each of its words, its end.
        """
        spans: list[ScoredSpan] = []
        log_scores: dict[int, float] = {}
        pending = 0.0
        fork = self.start()
        edges = [(fork, 0.0)] + [(f.take(choice), log_prob) for f, choice, log_prob in path]
        for fork, log_prob in edges:
            pending += log_prob
            for state, move in fork.steps:
                after = self.form.advance(state, move, self.sentence)
                for start in {state.start, after.start} - {-1}:
                    log_scores[start] = log_scores.get(start, 0.0) + pending
                pending = 0.0
                closed = self.form.closes(state, move, after)
                if closed is not None:
                    start, end, label = closed
                    spans.append(ScoredSpan(start, end, label, math.exp(log_scores[start])))
        return spans


def to_spans(scored: Sequence[ScoredSpan], labels: Sequence[str]) -> list[Span]:
    """Drop the scores and name the labels."""
    return [Span(start, end, labels[label]) for start, end, label, _ in scored]
