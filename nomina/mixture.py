"""From corpora to training questions: which labels to ask for, in which words, over which text.

A corpus is a list of annotated sentences; a model that must answer *any* labels has to be asked in
many ways. For each training example this room draws a passage, asks for the types in it and for
types that are surely absent, in random order, under other names and broader kinds, with and without
definitions and demonstrations, over text as corpora and as people write it. Everything is drawn
from one seed, so an example can be drawn again.

Knows nothing of tokens or models.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nomina.entities import (
    Entity,
    Example,
    Label,
    LabelSet,
    Span,
    normalize_label,
    restore_spacing,
    spans_to_entities,
)
from nomina.errors import DataError, RecipeError


@dataclass(frozen=True)
class Question:
    """One training example: a text with gold spans, and what is asked of it.

    Attributes:
        example: Text, words and the gold spans, labelled with names of `labels`.
        labels: What is asked for, in the order of the prompt.
        definitions: Whether the prompt shows the definitions.
        demonstrations: Solved examples shown in the prompt.
        source: Name of the corpus.
    """

    example: Example
    labels: LabelSet
    definitions: bool = False
    demonstrations: tuple[Example, ...] = ()
    source: str = ""


ORDER = 4  # which questions follow from a seed; a run that began with another cannot go on


@dataclass(frozen=True)
class MixtureConfig:
    """How questions are drawn; all `p_` are probabilities.

    Attributes:
        temperature: A corpus is drawn in proportion to its size to this power.
        shares: Fixed share of all questions for a corpus, in place of the temperature's.
        max_absent: Labels asked for that are not in the text, at most.
        p_all_labels: Ask for the whole label set of the corpus, if it has at most `max_all_labels`.
        max_all_labels: See `p_all_labels`.
        group: This many questions in a row that ask for all labels of their corpus do so in the
            same words and order, so that they can share the computation of their prompt.
        p_drop_present: Leave a type of the text out of the question, unless the passage has a
            label set of its own.
        p_foreign: Add absent types of other corpora that mean something else.
        p_rename: Ask for a label under another name.
        p_broader: Ask for the broader kind of fine types.
        p_general: Ask for a kind beside its finer types, over passages of open types: what has a
            finer type keeps it, so the most specific label wins (as in CrossNER, where a musician
            is no `person`).
        p_sibling: Ask for absent types of the same kind beside those of a passage of open types
            (`poem` where a book is named), so that a label is chosen by what it means. Drawn by
            the root of their frequency; kinds of persons by the frequency itself.
        p_define: Show definitions; those of a passage's own label set are shown nine times in ten.
        p_demonstrate: Show one or two solved examples of the same corpus.
        p_symbol: Hide a defined label behind a symbol (symbol tuning, Wei et al. 2023).
        p_phrase: Ask for the defined labels of a question, all or half of them, by what they mean
            in place of their names (`one who paints` for `painter`).
        p_merge: Join up to three neighbouring passages into one short document.
        p_natural: Restore the spacing that people write, where words are joined by spaces.
        p_lower: Lower-case the text; half of these lose their punctuation too.
        p_typos: Misspell some words, as OCR and chats do.
        max_words: Longer passages are cut at a word outside an entity; the rest is not asked.
    """

    temperature: float = 0.35
    shares: Mapping[str, float] | None = None
    max_absent: int = 14
    p_all_labels: float = 0.4
    max_all_labels: int = 24
    group: int = 1
    p_drop_present: float = 0.08
    p_foreign: float = 0.25
    p_rename: float = 0.2
    p_broader: float = 0.08
    p_general: float = 0.35
    p_sibling: float = 0.3
    p_define: float = 0.25
    p_demonstrate: float = 0.03
    p_symbol: float = 0.02
    p_phrase: float = 0.0
    p_merge: float = 0.1
    p_natural: float = 0.4
    p_lower: float = 0.08
    p_typos: float = 0.02
    max_words: int = 140

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if name == "shares":
                self._check_shares()
            elif item.type == "int" and (not isinstance(value, int) or isinstance(value, bool)):
                raise RecipeError(f"{name} must be a whole number, was: {value!r}")
            elif not _is_number(value):
                raise RecipeError(f"{name} must be a number, was: {value!r}")
            elif name.startswith("p_") and not 0 <= value <= 1:
                raise RecipeError(f"{name} is a probability from 0 to 1, was: {value}")
        if self.max_words < 8:
            raise RecipeError(f"max_words must be 8 or more, was: {self.max_words}")
        if self.max_absent < 0:
            raise RecipeError(f"max_absent must be 0 or more, was: {self.max_absent}")
        if self.group < 1:
            raise RecipeError(f"group must be 1 or more, was: {self.group}")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> MixtureConfig:
        """Build the settings from keys and values.

        Raises:
            RecipeError: If a key is unknown or a value out of range.

        Example:
            >>> MixtureConfig.of({"p_typo": 0.1})
            Traceback (most recent call last):
            nomina.errors.RecipeError: mixture: unknown keys ['p_typo']; did you mean 'p_typos'?
        """
        check_keys(settings, MixtureConfig, "mixture: ")
        return MixtureConfig(**settings)

    def _check_shares(self) -> None:
        if not isinstance(self.shares, (Mapping, type(None))):
            raise RecipeError(f"shares must be a table of numbers, was: {self.shares!r}")
        for name, share in (self.shares or {}).items():
            if not _is_number(share):
                raise RecipeError(f"the share of {name!r} must be a number, was: {share!r}")


def check_keys(values: Mapping[str, Any], kind: type[Any], place: str = "") -> None:
    """Refuse keys that are no fields of a dataclass.

    Raises:
        RecipeError: If there is one; says which was meant, or which there are.
    """
    known = [item.name for item in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {sorted(known)}"
        raise RecipeError(f"{place}unknown keys {unknown}; {hint}")


def _is_number(value: object) -> bool:
    is_bool = isinstance(value, bool)
    return isinstance(value, (int, float)) and not is_bool and math.isfinite(value)


# --------------------------------------------------------------------------------------------------
# Label cards: what labels mean


@dataclass(frozen=True)
class Card:
    """What is known of a label: a definition, other names, the kind it belongs to."""

    name: str
    definition: str
    synonyms: tuple[str, ...]
    broader: str


# Kinds that the cards take for highest, and what they are where a label set has few, broad types.
_TOP_KINDS = {
    "country": "location", "city": "location", "facility": "location", "company": "organization",
    "team": "organization", "book": "work of art", "song": "work of art", "film": "work of art",
    "software": "product", "vehicle": "product", "drug": "chemical", "sport": "event",
}  # fmt: skip


class Cards:
    """Label cards by normalised name, with the question whether two labels may overlap."""

    def __init__(self, cards: Mapping[str, Card] | None = None) -> None:
        self._cards = dict(cards or {})
        self._kin: dict[str, frozenset[str]] = {}

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Cards:
        """Read JSON lines of `[name, definition, [synonyms], broader kind]`.

        Raises:
            DataError: If a line is malformed; names file and line.
        """
        cards = {}
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    name, definition, synonyms, broader = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not a label card: {error}") from error
                broader = "" if broader == "none" else broader
                card = Card(name, definition, tuple(synonyms), broader)
                cards[normalize_label(name)] = card
        return Cards(cards)

    def get(self, name: str) -> Card | None:
        """Return the card of a label, if there is one."""
        return self._cards.get(normalize_label(name))

    def names(self) -> list[str]:
        """Return the names of all labels that have a card."""
        return [card.name for card in self._cards.values()]

    def kind(self, name: str) -> str:
        """Return the broader kind of a label; empty if it has none."""
        key = normalize_label(name)
        card = self._cards.get(key)
        kind = card.broader if card else ""
        kind = kind if normalize_label(kind) != key else ""
        return kind or _TOP_KINDS.get(key, "")

    def kin(self, name: str) -> frozenset[str]:
        """Return all normalised names that mean the label, or a kind that it belongs to."""
        key = normalize_label(name)
        if key not in self._kin:
            names, todo = {key}, [key]
            while todo:
                card = self._cards.get(todo.pop())
                if card is None:
                    continue
                for other in (*card.synonyms, card.broader):
                    other = normalize_label(other)
                    if other and other not in names:
                        names.add(other)
                        if other == normalize_label(card.broader):
                            todo.append(other)
            self._kin[key] = frozenset(names)
        return self._kin[key]

    def may_overlap(self, one: str, other: str) -> bool:
        """Say whether something may be both: same name, synonym, or one a kind of the other.

        Labels without a card may overlap with anything that shares a word with them.
        """
        a, b = normalize_label(one), normalize_label(other)
        if a in self.kin(b) or b in self.kin(a):
            return True
        if self.kin(a) & self.kin(b) and (self._is_leaf(a) != self._is_leaf(b)):
            return True
        return bool(set(a.split()) & set(b.split()))

    def _is_leaf(self, key: str) -> bool:
        card = self._cards.get(key)
        return card is None or not card.broader


# --------------------------------------------------------------------------------------------------


class Mixture:
    """Draws questions from corpora.

    Args:
        corpora: Examples by corpus name.
        label_sets: All labels a corpus is annotated with, by corpus name. A corpus that has none
            here is annotated with open types: absence from a passage then proves nothing by
            itself, and absent types are only asked for if they mean something else.
        cards: What labels mean.
        config: How to draw.

    Raises:
        RecipeError: If there is no corpus, or a share names an unknown one.
    """

    def __init__(
        self,
        corpora: Mapping[str, Sequence[Example]],
        label_sets: Mapping[str, LabelSet],
        cards: Cards | None = None,
        config: MixtureConfig | None = None,
    ) -> None:
        self.config = config or MixtureConfig()
        self.cards = cards or Cards()
        self.corpora = {name: list(rows) for name, rows in corpora.items() if len(rows)}
        if not self.corpora:
            raise RecipeError("a mixture needs at least one corpus with examples, had none")
        self.label_sets = label_sets
        self.weights = self._weights()
        # Names of open types, each as often as it was annotated: frequent types are asked for more.
        self._open_types = [
            span.label
            for name in self.corpora
            if name not in label_sets
            for row in self.corpora[name]
            for span in row.spans
        ] or [label.name for labels in label_sets.values() for label in labels]
        # By the root of how often they were annotated, so that `poem` is asked for beside `book` at
        # all; but people have several trades, and the frequent ones are apart from each other.
        self._siblings: dict[str, dict[str, float]] = {}
        for label, count in Counter(self._open_types).items():
            if kind := self.cards.kind(label):
                weight = count if kind == "person" else count**0.5
                self._siblings.setdefault(kind, {})[label] = weight

    def _weights(self) -> dict[str, float]:
        shares = dict(self.config.shares or {})
        if unknown := sorted(set(shares) - set(self.corpora)):
            raise RecipeError(f"shares name unknown corpora {unknown}; have {list(self.corpora)}")
        left = [name for name in self.corpora if name not in shares]
        taken = sum(shares.values())
        if min(shares.values(), default=0.0) < 0 or (left and taken >= 1):
            raise RecipeError(
                f"shares must be 0 or more and leave something for the other {len(left)} corpora; "
                f"they add up to {taken:.4f}, so these would never be asked: {left[:5]}"
            )
        if not left and not taken:
            raise RecipeError(f"one of the shares must be above 0, were: {shares}")
        rest = 1.0 - taken
        sizes = {
            name: len(rows) ** self.config.temperature
            for name, rows in self.corpora.items()
            if name not in shares
        }
        total = sum(sizes.values()) or 1.0
        return {
            name: shares.get(name, rest * sizes.get(name, 0.0) / total) for name in self.corpora
        }

    def questions(self, seed: int, start: int = 0) -> Iterator[Question]:
        """Yield questions without end; the same seed gives the same ones, wherever the data lies.

        Args:
            seed: Of the draw. Question `i` depends on it and on `i` alone.
            start: Number of the first question, so that a stream can be taken up anywhere.
        """
        names, limits = list(self.weights), list(itertools.accumulate(self.weights.values()))
        ranks = {name: rank for rank, name in enumerate(names)}  # a name may be a path: data moves
        draw = random.Random(f"{seed}/corpora")
        taken: Counter[str] = Counter()
        decks: dict[str, tuple[int, list[int]]] = {}
        for number in itertools.count():
            name = draw.choices(names, cum_weights=limits)[0]
            place = taken[name]
            taken[name] += 1
            if number < start:
                continue
            # Without replacement: each passage of a corpus once before any twice.
            turn, at = divmod(place, len(self.corpora[name]))
            if name not in decks or decks[name][0] != turn:
                deck = list(range(len(self.corpora[name])))
                random.Random(f"{seed}/{ranks[name]}/{turn}").shuffle(deck)
                decks[name] = turn, deck
            group = self.config.group
            shared = random.Random(f"{seed}/group {number // group}") if group > 1 else None
            yield self.ask(name, decks[name][1][at], random.Random(f"{seed}/{number}"), shared)

    def ask(
        self, name: str, index: int, rng: random.Random, shared: random.Random | None = None
    ) -> Question:
        """Draw a question over one passage of a corpus.

        Args:
            name: The corpus.
            index: Of the passage.
            rng: Decides.
            shared: Decides in its place what questions of a group have in common.
        """
        config = self.config
        rows = self.corpora[name]
        example = rows[index]
        if rng.random() < config.p_merge and example.labels is None:
            count = rng.randint(2, 3)
            example = _merge(rows[index : index + count], config.max_words)
        example = _cut(example, config.max_words)
        labels = self._labels(name, example, rng, shared)
        spans = [span for span in example.spans if span.label in labels]
        if name not in self.label_sets and not example.labels and rng.random() < config.p_general:
            labels = self._general({span.label for span in example.spans}, labels, rng)
        example, labels = self._rename(replace(example, spans=tuple(spans)), labels, rng)
        dice = shared or rng
        own = example.labels or self.label_sets.get(name)
        # A passage with a label set of its own may have been annotated by its definitions.
        is_defined = any(label.definition for label in example.labels or ())
        defined = dice.random() < (0.9 if is_defined else config.p_define)
        label_set = self._label_set(labels, own, defined, dice)
        demonstrations: tuple[Example, ...] = ()
        is_closed = name in self.label_sets and not example.labels
        if rng.random() < config.p_demonstrate and is_closed:
            demonstrations = self._demonstrations(rows, index, labels, rng)
        if defined and rng.random() < config.p_symbol:
            example, label_set = _hide_names(example, label_set, rng)
            demonstrations = ()
        elif defined and config.p_phrase and rng.random() < config.p_phrase:
            example, label_set = _ask_in_phrases(example, label_set, rng)
            demonstrations = ()
        example = write_as_people(example, config, rng)
        return Question(example, label_set, defined, demonstrations, name)

    def _labels(
        self, name: str, example: Example, rng: random.Random, shared: random.Random | None = None
    ) -> dict[str, str]:
        """Choose what to ask for; returns `label in the corpus -> label in the question`."""
        config = self.config
        present = list(dict.fromkeys(span.label for span in example.spans))
        own = example.labels.names if example.labels else None
        if own is None and name in self.label_sets:
            own = self.label_sets[name].names
        if own is not None:
            absent = [label for label in own if label not in set(present)]
            keep_all = example.labels or (
                len(own) <= config.max_all_labels and (shared or rng).random() < config.p_all_labels
            )
            if keep_all and shared is not None and not example.labels:
                return {label: label for label in shared.sample(own, len(own))}
            if not keep_all:
                count = rng.randint(0, min(len(absent), config.max_absent))
                absent = rng.sample(absent, count)
        else:
            absent = self._foreign(
                present, rng.randint(min(1, config.max_absent), config.max_absent), rng
            )
            if present and rng.random() < config.p_sibling:
                absent += self._foreign_siblings([*present, *absent], present, rng)
        if len(present) > 1 and not example.labels:  # in such a set one label may hide another
            present = [x for x in present if rng.random() >= config.p_drop_present] or present[:1]
        if own is not None and rng.random() < config.p_foreign and not example.labels:
            # The types of this corpus are exhaustive; others are asked for only if no type of
            # this corpus could hide them.
            absent += self._foreign([*own, *absent], rng.randint(1, 5), rng)
        labels = list(dict.fromkeys(present + absent))
        if not labels:
            labels = self._foreign([], 3, rng)
        rng.shuffle(labels)
        return {label: label for label in labels}

    def _foreign(self, avoid: Sequence[str], count: int, rng: random.Random) -> list[str]:
        found: list[str] = []
        for _ in range(4 * count):
            if len(found) == count:
                break
            label = rng.choice(self._open_types)
            if not any(self.cards.may_overlap(label, other) for other in (*avoid, *found)):
                found.append(label)
        return found

    def _foreign_siblings(
        self, avoid: Sequence[str], present: Sequence[str], rng: random.Random
    ) -> list[str]:
        """Draw absent types, one each of the kinds of up to three types of the passage."""
        found: list[str] = []
        for label in rng.sample(present, min(len(present), rng.randint(1, 3))):
            siblings = self._siblings.get(self.cards.kind(label), {label: 1.0})
            for other in rng.choices(list(siblings), list(siblings.values()), k=4):
                if not any(self.cards.may_overlap(other, name) for name in (*avoid, *found)):
                    found.append(other)
                    break
        return found

    def _general(
        self, present: set[str], labels: dict[str, str], rng: random.Random
    ) -> dict[str, str]:
        """Add the kind of types that are in the text beside them, or in place of some of them."""
        fine: dict[str, list[str]] = {}
        for label in labels:
            if kind := self.cards.kind(label):
                fine.setdefault(kind, []).append(label)
        taken = {normalize_label(label) for label in (*labels, *present)}
        labels = dict(labels)
        for kind, members in fine.items():
            if normalize_label(kind) in taken or not present & set(members) or rng.random() < 0.2:
                continue
            # A label that is not below this kind but may mean the same would make it ambiguous;
            # so would something in the text that is of this kind and not asked for.
            others = [label for label in (*labels, *present) if label not in members]
            if any(self.cards.may_overlap(kind, label) for label in others):
                continue
            lifted = [label for label in members if rng.random() < 0.4]
            if len(lifted) == len(members):
                lifted.pop()
            labels |= dict.fromkeys(lifted or [kind], kind)
        items = list(labels.items())
        rng.shuffle(items)
        return dict(items)

    def _rename(
        self, example: Example, labels: dict[str, str], rng: random.Random
    ) -> tuple[Example, dict[str, str]]:
        """Ask for labels under synonyms or broader kinds; names never collide in meaning."""
        config, cards = self.config, self.cards
        if example.labels is None and rng.random() < config.p_broader:
            kinds = {label: card.broader for label in labels if (card := cards.get(label))}
            for kind in dict.fromkeys(kind for kind in kinds.values() if kind):
                fine = [label for label in labels if kinds.get(label) == kind]
                others = [label for label in labels if label not in fine]
                if rng.random() < 0.5 and not any(cards.may_overlap(kind, x) for x in others):
                    labels = {old: kind if old in fine else new for old, new in labels.items()}
        taken = {normalize_label(new) for new in labels.values()}
        for old, new in list(labels.items()):
            card = cards.get(new)
            if card and card.synonyms and rng.random() < config.p_rename:
                other = rng.choice(card.synonyms)
                key = normalize_label(other)
                if key not in taken and list(labels.values()).count(new) == 1:
                    taken.add(key)
                    labels = {**labels, old: other}
        spans = [replace_label(span, labels[span.label]) for span in example.spans]
        return replace(example, spans=tuple(spans)), labels

    def _label_set(
        self,
        labels: dict[str, str],
        own: LabelSet | None,
        defined: bool,
        rng: random.Random,
    ) -> LabelSet:
        known = {label.name: label for label in own or ()}
        made: dict[str, Label] = {}
        for old, new in labels.items():
            label = Label(new)
            if defined:
                card = self.cards.get(new) or self.cards.get(old)
                own_label = known.get(old, label)
                definition = own_label.definition or (card.definition if card else "")
                if rng.random() >= 0.1:
                    label = Label(new, definition, own_label.examples)
            made.setdefault(normalize_label(new), label)
        return LabelSet(tuple(made.values()))

    def _demonstrations(
        self, rows: Sequence[Example], index: int, labels: dict[str, str], rng: random.Random
    ) -> tuple[Example, ...]:
        shown = []
        for _ in range(rng.randint(1, 2)):
            other = rng.randrange(len(rows))
            if other == index or len(rows[other].offsets) > 60:
                continue
            spans = [s for s in rows[other].spans if s.label in labels]
            renamed = tuple(replace_label(s, labels[s.label]) for s in spans)
            shown.append(replace(rows[other], spans=renamed))
        return tuple(shown)


def replace_label(span: Span, label: str) -> Span:
    """Return the span under another label."""
    return Span(span.start, span.end, label)


def _merge(rows: Sequence[Example], max_words: int) -> Example:
    text = ""
    offsets: list[tuple[int, int]] = []
    spans: list[Span] = []
    for row in rows:
        if offsets and len(offsets) + len(row.offsets) > max_words:
            break
        text += " " if text else ""
        spans += [Span(a + len(offsets), b + len(offsets), label) for a, b, label in row.spans]
        offsets += [(start + len(text), end + len(text)) for start, end in row.offsets]
        text += row.text
    return Example(text, tuple(offsets), tuple(spans), source=rows[0].source)


def _cut(example: Example, max_words: int) -> Example:
    if len(example.offsets) <= max_words:
        return example
    end = max_words
    for span in example.spans:
        if span.start < end < span.end:
            end = span.start or max_words
    offsets = example.offsets[:end]
    spans = tuple(span for span in example.spans if span.end <= end)
    return replace(example, text=example.text[: offsets[-1][1]], offsets=offsets, spans=spans)


_SYMBOLS = ["type A", "type B", "type C", "type D", "type E", "type F", "kind 1", "kind 2",
            "kind 3", "kind 4", "group X", "group Y", "group Z", "foo", "bar", "baz"]  # fmt: skip


def _hide_names(example: Example, labels: LabelSet, rng: random.Random) -> tuple[Example, LabelSet]:
    symbols = rng.sample(_SYMBOLS, len(_SYMBOLS))
    hidden = {
        label.name: replace(label, name=symbols.pop())
        for label in labels
        if label.definition and symbols
    }
    return _ask_as(example, labels, hidden)


def _ask_in_phrases(
    example: Example, labels: LabelSet, rng: random.Random
) -> tuple[Example, LabelSet]:
    taken = {normalize_label(label.name) for label in labels}
    share = 1.0 if rng.random() < 0.6 else 0.5
    phrases: dict[str, Label] = {}
    for label in labels:
        phrase = label.definition.replace(";", ",")  # which stands between labels
        if phrase and normalize_label(phrase) not in taken and rng.random() < share:
            taken.add(normalize_label(phrase))
            phrases[label.name] = Label(phrase)
    return _ask_as(example, labels, phrases)


def _ask_as(
    example: Example, labels: LabelSet, others: Mapping[str, Label]
) -> tuple[Example, LabelSet]:
    """Put other labels in place of some, by their names; entities follow."""
    spans = tuple(
        replace_label(span, others[span.label].name) if span.label in others else span
        for span in example.spans
    )
    asked = tuple(others.get(label.name, label) for label in labels)
    return replace(example, spans=spans), LabelSet(asked)


def write_as_people(example: Example, config: MixtureConfig, rng: random.Random) -> Example:
    """Write a passage as people, chats or OCR do, as often as the settings say.

    Words and entities stay, unless punctuation is left out or a word is misspelt.
    """
    if rng.random() < config.p_lower:
        example = _rebuild([word.lower() for word in example.words], example)
        if rng.random() < 0.5:
            example = _drop_punctuation(example)
    if rng.random() < config.p_typos:
        words = [_misspell(word, rng) if rng.random() < 0.1 else word for word in example.words]
        example = _rebuild(words, example)
    if rng.random() < config.p_natural and example.text == " ".join(example.words):
        text, offsets = restore_spacing(example.words)
        entities = spans_to_entities(text, offsets, example.spans)
        # Our own words, as for a user's text; entities may begin or end inside a corpus's word.
        return _own_words(text, entities, example)
    if rng.random() < 0.3:
        return _own_words(example.text, example.entities(), example)
    return example


def _own_words(text: str, entities: list[Entity], example: Example) -> Example:
    return Example.from_entities(text, entities, id=example.id, source=example.source)


def _rebuild(words: Sequence[str], example: Example) -> Example:
    """Put other words in the place of an example's, with its own spacing."""
    text, offsets, last = "", [], 0
    for word, (start, end) in zip(words, example.offsets, strict=True):
        text += example.text[last:start]
        offsets.append((len(text), len(text) + len(word)))
        text += word
        last = end
    text += example.text[last:]
    return Example(text, tuple(offsets), example.spans, source=example.source)


def _drop_punctuation(example: Example) -> Example:
    inside = {i for span in example.spans for i in range(span.start, span.end)}
    keep = [
        i for i, word in enumerate(example.words) if i in inside or any(c.isalnum() for c in word)
    ]
    if not keep:
        return example
    place = {old: new for new, old in enumerate(keep)}
    spans = tuple(Span(place[a], place[b - 1] + 1, label) for a, b, label in example.spans)
    text, offsets = "", []
    for old, new in zip([None, *keep], keep, strict=False):
        start, end = example.offsets[new]
        if old is not None and example.offsets[old][1] != start:
            text += " "
        offsets.append((len(text), len(text) + end - start))
        text += example.text[start:end]
    return Example(text, tuple(offsets), spans, source=example.source)


def _misspell(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    at = rng.randrange(len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at] + word[at:]


# --------------------------------------------------------------------------------------------------


def label_cards_path() -> Path | None:
    """Return the file of label cards beside the corpora, if `NOMINA_DATA` has one."""
    folder = os.environ.get("NOMINA_DATA")
    path = Path(folder) / "label_cards.jsonl" if folder else None
    return path if path and path.is_file() else None
