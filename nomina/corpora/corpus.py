"""A corpus: examples of one source, the labels they use, and what was lost in reading them.

Readers build examples through `Report`, which counts every loss with the place where it was first
seen, and either raises at a bad record or sets it aside. Knows nothing of any file format.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nomina.entities import Entity, Example, LabelSet, Span, normalize_label
from nomina.errors import DataError

# Stands in `Example.extra` of texts that were joined from words, so that nobody takes their spacing
# for that of a real text. One object for all of them keeps a large corpus small.
IS_JOINED: Mapping[str, Any] = MappingProxyType({"is_joined": True})
MAX_PLACES = 3  # a loss names this many places, then only counts


@dataclass(frozen=True)
class Corpus:
    """Examples of one source.

    Attributes:
        name: Name of the set, or path of the file.
        split: `train`, `dev` or `test`; empty for a file.
        examples: The examples, in the order of the source.
        labels: Every label the corpus is annotated with.
        warnings: What reading it lost or changed, one line a kind, with counts and places.

    Example:
        >>> example = Example.from_tags(["in", "Paris"], ["O", "B-city"])
        >>> Corpus("mine", "train", [example], LabelSet.of(["city"])).labels.names
        ('city',)
    """

    name: str
    split: str
    examples: list[Example]
    labels: LabelSet
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Rejected:
    """A record that could not be read.

    Attributes:
        place: File and line, or file and record number.
        reason: What was expected and what was given.
        raw: The record as it stands in the file, as far as it could be read.
    """

    place: str
    reason: str
    raw: str = ""


@dataclass
class Report:
    """What a reader or writer could not carry.

    Attributes:
        skip_errors: Whether a bad record is set aside instead of ending the reading.
        losses: Count of each kind of loss.
        places: Where each kind was first seen, `MAX_PLACES` at most.
        rejected: The records set aside.

    Example:
        >>> report = Report()
        >>> report.lose("nested entities dropped, the longest kept", "a.ann:4")
        >>> report.lines()
        ('1 nested entities dropped, the longest kept (a.ann:4)',)
    """

    skip_errors: bool = False
    losses: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def lose(self, what: str, place: str = "", count: int = 1) -> None:
        """Count a loss of a kind, named in words, seen at a place."""
        self.losses[what] = self.losses.get(what, 0) + count
        places = self.places.setdefault(what, [])
        if place and len(places) < MAX_PLACES and place not in places:
            places.append(place)

    def reject(self, place: str, reason: str, raw: str = "") -> None:
        """Set a bad record aside.

        Raises:
            DataError: If errors are not to be skipped; names the place and the reason.
        """
        if not self.skip_errors:
            raise DataError(f"{place}: {reason}")
        self.rejected.append(Rejected(place, reason, raw))

    def lines(self) -> tuple[str, ...]:
        """Return the losses as text, one line a kind, and one for the records set aside."""
        lines = []
        for what, count in self.losses.items():
            places = self.places[what]
            more = ", ..." if count > len(places) == MAX_PLACES else ""
            lines.append(f"{count} {what}" + (f" ({', '.join(places)}{more})" if places else ""))
        if self.rejected:
            first = self.rejected[0]
            lines.append(
                f"{len(self.rejected)} records could not be read and were set aside; "
                f"the first: {first.place}: {first.reason}"
            )
        return tuple(lines)


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """Stop the cycle collector while a corpus grows: examples have no cycles, and it costs half."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# --------------------------------------------------------------------------------------------------
# Labels of a corpus


def collect_labels(examples: Iterable[Example], known: Iterable[str] = ()) -> LabelSet | None:
    """Collect the labels of examples, `known` ones first; None if there is none.

    Definitions are taken from the examples' own label sets; where two differ the first is kept.

    Example:
        >>> example = Example.from_tags(["in", "Paris"], ["O", "B-city"])
        >>> collect_labels([example], known=["person"]).names
        ('person', 'city')
    """
    found: dict[str, Any] = {}
    for name in known:
        found.setdefault(normalize_label(name), (name, None))
    seen_sets: set[int] = set()
    names: dict[str, None] = {}
    for example in examples:
        if example.labels is not None and id(example.labels) not in seen_sets:
            seen_sets.add(id(example.labels))
            for label in example.labels:
                key = normalize_label(label.name)
                if key not in found or (
                    found[key][1] is None and label != label.__class__(label.name)
                ):
                    found[key] = (found[key][0] if key in found else label.name, label)
        for span in example.spans:
            names[span.label] = None
    for name in names:
        found.setdefault(normalize_label(name), (name, None))
    return LabelSet.of(dict(found.values())) if found else None


# --------------------------------------------------------------------------------------------------
# Examples from what files hold


_start_of = operator.attrgetter("start")


def keep_longest(entities: Iterable[Entity], report: Report, place: str) -> list[Entity]:
    """Return entities that do not overlap: the longest of each cluster, then the first.

    Each entity left out is counted in the report: as a repeat if label and borders are the same,
    else as nested or crossing.

    Example:
        >>> report = Report()
        >>> inner, outer = Entity("York", "person", 4, 8), Entity("New York", "city", 0, 8)
        >>> [entity.label for entity in keep_longest([inner, outer], report, "a.txt")]
        ['city']
        >>> report.lines()
        ('1 overlapping entities left out, the longest kept (a.txt [4, 8))',)
    """
    ordered = sorted(entities, key=_start_of)
    if len(ordered) < 2 or all(a.end <= b.start for a, b in itertools.pairwise(ordered)):
        return ordered
    kept: list[Entity] = []
    taken = bytearray(max(e.end for e in ordered))
    seen: set[tuple[int, int, str]] = set()
    for entity in sorted(ordered, key=lambda e: (e.start - e.end, e.start)):
        key = (entity.start, entity.end, entity.label)
        # Both borders and nothing between: kept ones are at least as long, so cannot lie inside.
        if taken[entity.start] or taken[entity.end - 1]:
            what = "repeated entities" if key in seen else "overlapping entities"
            kind = f"{what} left out" + ("" if key in seen else ", the longest kept")
            report.lose(kind, f"{place} [{entity.start}, {entity.end})")
            continue
        seen.add(key)
        taken[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
        kept.append(entity)
    return sorted(kept, key=_start_of)


def build_example(
    text: str,
    entities: Sequence[Entity],
    report: Report,
    place: str,
    offsets: Sequence[tuple[int, int]] | None = None,
    **rest: Any,
) -> Example:
    """Build an example from character spans as files hold them.

    Overlaps are resolved (`keep_longest`), white space around an entity is cut off and counted,
    scores other than 1 go to `extra["scores"]`, and the file's own words are kept where no entity
    cuts through one of them.

    Args:
        text: The document.
        entities: Entities in any order; only label, borders and score are read.
        report: Where losses are counted.
        place: File and line, for messages.
        offsets: Words of the file, if it has any. Defaults to our own words.
        **rest: Other attributes of `Example`.

    Raises:
        DataError: If an entity is empty, white space only or outside the text, or its score is not
            finite; names the place.
    """
    clean = []
    for entity in entities:
        start, end = entity.start, entity.end
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"{place}: entity {entity.label!r} [{start}, {end}) is empty or outside a text of "
                f"{len(text)} characters. Offsets are characters, the end is exclusive."
            )
        surface = text[start:end]
        stripped = surface.strip()
        if not math.isfinite(entity.score):
            raise DataError(
                f"{place}: entity {entity.label!r} [{start}, {end}) has the score {entity.score}. "
                "Expected a number."
            )
        if not stripped:
            raise DataError(
                f"{place}: entity {entity.label!r} [{start}, {end}) is white space only. Remove it."
            )
        if len(stripped) != len(surface):
            report.lose("entities trimmed of white space at their borders", place)
            start += len(surface) - len(surface.lstrip())
            end = start + len(stripped)
            clean.append(Entity(stripped, entity.label, start, end, entity.score))
        elif entity.text == surface:
            clean.append(entity)
        else:
            clean.append(Entity(surface, entity.label, start, end, entity.score))
    kept = keep_longest(clean, report, place)
    extra = own_fields(rest.pop("extra", None), report, place)
    if any(entity.score != 1.0 for entity in kept):
        extra["scores"] = tuple(entity.score for entity in kept)
    if offsets is not None:
        offsets = tuple(offsets)
        spans = _find_spans(kept, offsets)
        if len(spans) == len(kept):
            return Example(text, offsets, tuple(spans), extra=extra, **rest)
        report.lose("texts cut into words anew, because an entity ends inside a word", place)
    return Example.from_entities(text, kept, extra=extra, **rest)


def own_fields(extra: Mapping[str, Any] | None, report: Report, place: str) -> dict[str, Any]:
    """Return a record's further fields without the one whose name stands for scores of entities."""
    kept = dict(extra or {})
    if "scores" in kept:
        report.lose("fields left out, because entities have their own: scores", place)
        del kept["scores"]
    return kept


def _find_spans(entities: Sequence[Entity], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Return the spans of the entities that begin and end where words do."""
    if not entities or not offsets:
        return []
    first, last = zip(*offsets, strict=True)
    starts = dict(zip(first, range(len(first)), strict=True))
    ends = dict(zip(last, range(1, len(last) + 1), strict=True))
    return [
        Span(starts[e.start], ends[e.end], e.label)
        for e in entities
        if e.start in starts and e.end in ends
    ]


def build_tagged(
    words: Sequence[str],
    tags: Sequence[str],
    report: Report,
    place: str,
    **rest: Any,
) -> Example:
    """Build an example from words and tags; says in `extra["is_joined"]` that the text is rebuilt.

    Words of nothing but white space are left out with their tags, and counted.

    Raises:
        DataError: If there are not as many tags as words, or one is malformed.
    """
    words = check_words(words)
    if len(words) == len(tags) and not all(map(str.strip, words)):
        kept = [index for index, word in enumerate(words) if word.strip()]
        report.lose("empty words left out", place, len(words) - len(kept))
        words, tags = [words[index] for index in kept], [tags[index] for index in kept]
    own = own_fields(rest["extra"], report, place) if rest.get("extra") else {}
    rest["extra"] = {**own, **IS_JOINED} if own else IS_JOINED
    return Example.from_tags(words, tags, **rest)


def check_words(words: Any) -> Sequence[str]:
    """Return words after checking that they are a list of strings.

    Raises:
        DataError: If they are not.
    """
    if not isinstance(words, (list, tuple)) or not {str}.issuperset(map(type, words)):
        raise DataError(f"words must be a list of strings, were: {str(words)[:80]}")
    return words
