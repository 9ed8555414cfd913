"""What a recipe trains on: corpora as a mixture, dev sentences, and everything odd about them.

Somebody's own file is checked here as a whole, before a model is loaded: what cannot be meant is an
error that names file and line, what can is a note. Long texts are cut into passages at the ends of
sentences, never inside an entity, so that nothing of them is lost.

Knows nothing of tokens or models.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomina.chunking import split_text
from nomina.corpora import (
    Corpus,
    Report,
    default_sets,
    guess_format,
    read_corpus,
    read_index,
)
from nomina.corpora.files import open_bytes
from nomina.corpora.jsonl import DIALECTS, read_records
from nomina.entities import Example, LabelSet, Span, normalize_label
from nomina.errors import DataError, LabelError
from nomina.labels import read_labels
from nomina.mixture import Cards, Mixture, MixtureConfig, label_cards_path
from nomina.protocols import PROTOCOLS, drop_labels
from nomina.recipes import Recipe

_OPEN_TYPE_SETS = ("open_types", "task_sets")
_MIN_TO_SPLIT = 200  # fewer are all trained on: under thirty dev sentences choose by luck
_MAX_WORDS = 100  # of a passage: what a tagger reads at once
_ANNOTATIONS = ("entities", "spans", "label", "labels", "ner", "tags", "ner_tags", "instance")
_KNOWN = {*_ANNOTATIONS, "id", "text", "offsets", "label_set", "source", "warnings", "label_list",
          "dataset", "tokens", "words", "tokenized_text", "relations", "answer", "is_joined",
          "scores", "instruction_inputs", "prompt_labels"}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where training data came from: its name, its licence if known, and how many sentences."""

    name: str
    licence: str
    num_sentences: int


@dataclass(frozen=True)
class DevSet:
    """Sentences that checkpoints are compared on, and the labels asked for where they say none."""

    name: str
    examples: Sequence[Example]
    labels: LabelSet


@dataclass(frozen=True)
class Material:
    """What a recipe trains on.

    Attributes:
        mixture: Draws the questions.
        dev: Sets to evaluate on; none if there are too few sentences to spare.
        sources: What the mixture was made from.
        notes: What a user should know and may be as meant.
        fingerprint: Differs if the sentences differ.
        places: File and line of each sentence of one's own file; empty for corpora.
        labels: The label set of one's own file.
    """

    mixture: Mixture
    dev: tuple[DevSet, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    fingerprint: str
    places: tuple[str, ...] = ()
    labels: LabelSet | None = None


def read_material(recipe: Recipe) -> Material:
    """Read and check everything that a recipe trains on.

    Raises:
        DataError: If a file cannot be used; names file and line.
        RecipeError: If a setting of the mixture is unknown or out of range.
    """
    return _own_material(recipe) if recipe.data else _corpora_material(recipe)


# --------------------------------------------------------------------------------------------------
# Corpora of NOMINA_DATA


def default_mixture(names: Sequence[str], settings: Mapping[str, Any]) -> Mixture:
    """Read corpora of `NOMINA_DATA`, and files beside them, and mix them.

    Args:
        names: Names of sets, or paths of files; "default" stands for all sets that are marked
            `default_model`, and is the default. Sets without labels of their own (`open_types`,
            `task_sets`) are annotated with open types.
        settings: Of `MixtureConfig`.

    Raises:
        DataError: If a set is missing.
        RecipeError: If a setting is unknown or out of range.
    """
    return _mix(_read_corpora(names), settings)


def _read_corpora(names: Sequence[str]) -> list[Corpus]:
    """Read sets by name and files by path; texts without a word are left out.

    Labels of entities are spelled as in the label set that is asked for.
    """
    read = []
    for given in names or ("default",):
        for name in default_sets() if given == "default" else (given,):
            corpus = read_corpus(name)
            rows = [row for row in corpus.examples if row.text.strip()]
            if name not in _OPEN_TYPE_SETS:
                rows = [_as_asked(row, corpus.labels) for row in rows]
            if left_out := len(corpus) - len(rows):
                warnings = (*corpus.warnings, f"{left_out} texts without a word left out ({name})")
                corpus = dataclasses.replace(corpus, warnings=warnings)
            read.append(dataclasses.replace(corpus, name=name, examples=rows))
    return read


def _as_asked(row: Example, labels: LabelSet) -> Example:
    """Return a row whose entities have labels spelled as in its own label set, or its corpus's."""
    known = (row.labels or labels).names
    if all(span.label in known for span in row.spans):
        return row
    right = {normalize_label(name): name for name in known}
    spans = (Span(a, b, right.get(normalize_label(x), x)) for a, b, x in row.spans)
    return dataclasses.replace(row, spans=tuple(spans))


def _mix(corpora: Sequence[Corpus], settings: Mapping[str, Any]) -> Mixture:
    config = MixtureConfig.of(settings)
    label_sets = {x.name: x.labels for x in corpora if x.name not in _OPEN_TYPE_SETS}
    path = label_cards_path()
    cards = Cards.read(path) if path else None
    return Mixture({x.name: x.examples for x in corpora}, label_sets, cards, config)


def _corpora_material(recipe: Recipe) -> Material:
    corpora = _read_corpora(recipe.corpora)
    mixture = _mix(corpora, recipe.mixture)
    index = {} if all(Path(x.name).exists() for x in corpora) else read_index()
    sources = tuple(
        Source(name, str(index.get(name, {}).get("licence", "")), len(rows))
        for name, rows in mixture.corpora.items()
    )
    dev = tuple(_dev_set(name, recipe) for name in recipe.dev)
    rows = [row for examples in mixture.corpora.values() for row in examples]
    notes = tuple(warning for corpus in corpora for warning in corpus.warnings)
    return Material(mixture, dev, sources, notes, _fingerprint(rows, dev, mixture))


def _dev_set(name: str, recipe: Recipe) -> DevSet:
    corpus = read_corpus(name if Path(name).exists() or ":" in name else f"{name}:dev")
    dropped = PROTOCOLS["zero-shot"].dropped_labels(corpus.name)
    named = {normalize_label(label) for label in dropped}
    examples, labels = corpus.examples, corpus.labels
    if any(normalize_label(label) in named for label in labels.names):
        examples, labels = drop_labels(examples, labels, dropped)
    return _limited(DevSet(name, examples, labels), recipe)


def _limited(dev: DevSet, recipe: Recipe) -> DevSet:
    """Return the set with as many sentences as the recipe reads in an evaluation."""
    if not any(row.spans for row in dev.examples):
        raise DataError(
            f"{dev.name}: a dev set needs sentences with entities, had {len(dev.examples)} "
            "without any. F1 would be 0 whatever the model does."
        )
    if len(dev.examples) <= recipe.dev_sentences:
        return dev
    rng = random.Random(f"{recipe.seed}/dev sentences")
    chosen = sorted(rng.sample(range(len(dev.examples)), recipe.dev_sentences))
    if not any(dev.examples[i].spans for i in chosen):  # entities are rare: half with, half without
        marked = [i for i, row in enumerate(dev.examples) if row.spans]
        some = rng.sample(marked, min(len(marked), (recipe.dev_sentences + 1) // 2))
        chosen = sorted([*some, *chosen[: recipe.dev_sentences - len(some)]])
    return dataclasses.replace(dev, examples=[dev.examples[i] for i in chosen])


def _fingerprint(rows: Iterable[Example], dev: Sequence[DevSet], mixture: Mixture) -> str:
    asked = [*mixture.label_sets.values(), *(one.labels for one in dev)]
    value = zlib.crc32(repr(asked).encode("utf-8", "replace"))
    for row in (*rows, *(row for one in dev for row in one.examples)):
        value = zlib.crc32(
            repr((row.text, row.offsets, row.spans, row.labels)).encode("utf-8", "replace"), value
        )
    return f"{value:08x}"


# --------------------------------------------------------------------------------------------------
# One's own file


@dataclass
class _Reading:
    """A corpus on its way through the checks."""

    name: str
    examples: list[Example]
    places: list[str]
    labels: LabelSet
    notes: list[str] = field(default_factory=list)

    def note(self, what: str, places: Sequence[str]) -> None:
        shown = ", ".join(list(dict.fromkeys(places))[:3]) + (", ..." if len(places) > 3 else "")
        self.notes.append(f"{what} ({shown})")


def _own_material(recipe: Recipe) -> Material:
    known = read_labels(recipe.labels) if recipe.labels else None
    train = _read(recipe.data, known, recipe.labels)
    if not any(row.spans for row in train.examples):
        raise DataError(
            f"{recipe.data}: has {len(train.examples)} sentences and no entity. Training needs "
            "annotated ones; texts without entities may be among them."
        )
    labels, notes = train.labels, train.notes
    rows, places = train.examples, train.places
    dev: list[DevSet] = []
    if recipe.dev:
        for name in recipe.dev:
            reading = _read(name, known, recipe.labels)
            dev.append(_given_dev(reading, labels, recipe))
            notes += [f"dev: {note}" for note in reading.notes]
    elif (count := round(len(rows) * recipe.dev_share)) and len(rows) >= _MIN_TO_SPLIT:
        chosen = set(random.Random(f"{recipe.seed}/dev").sample(range(len(rows)), count))
        chosen = _with_all_labels_left(rows, chosen)
        held = [row for i, row in enumerate(rows) if i in chosen]
        if any(row.spans for row in held):
            rows = [row for i, row in enumerate(rows) if i not in chosen]
            places = [place for i, place in enumerate(places) if i not in chosen]
            dev.append(_limited(DevSet(f"{recipe.data} (held out)", held, labels), recipe))
            notes.append(f"{len(held)} sentences are held out to compare checkpoints on")
    if not dev:
        notes.append("no dev set: the last weights are kept, whatever their F1")
    _check_dev(rows, dev, labels, notes)
    settings = {**_own_settings(train.examples, labels), **recipe.mixture}
    config = MixtureConfig.of(settings)
    rows, places = _cut_long(recipe.data, rows, places, config.max_words, notes)
    mixture = Mixture({recipe.data: rows}, {recipe.data: labels}, None, config)
    source = Source(recipe.data, _licence(recipe.data), len(rows))
    fingerprint = _fingerprint(rows, dev, mixture)
    return Material(
        mixture, tuple(dev), (source,), tuple(notes), fingerprint, tuple(places), labels
    )


def _with_all_labels_left(rows: Sequence[Example], chosen: set[int]) -> set[int]:
    """Return what is held out without the sentences that alone have a label: it must be learned."""
    left = {span.label for i, row in enumerate(rows) if i not in chosen for span in row.spans}
    kept = set(chosen)
    for i in sorted(chosen):
        labels = {span.label for span in rows[i].spans}
        if not labels <= left:
            kept.remove(i)
            left |= labels
    return kept


def _licence(name: str) -> str:
    if Path(name).exists():
        return ""
    return str(read_index().get(name.partition(":")[0], {}).get("licence", ""))


def _own_settings(rows: Sequence[Example], labels: LabelSet) -> dict[str, Any]:
    """Return how questions are drawn from one corpus with one label set.

    Most ask for all labels, as its users will; some for a part, so that the model goes on reading
    what it is asked. Texts keep the spacing that they came with, unless they came as words.
    """
    are_joined = sum(bool(row.extra.get("is_joined")) for row in rows) > len(rows) / 2
    has_definitions = any(label.definition or label.examples for label in labels)
    return {
        "p_all_labels": 0.8,
        "max_all_labels": 10_000,
        "group": 8,
        "p_drop_present": 0.05,
        "p_foreign": 0.1,
        "p_rename": 0.0,
        "p_broader": 0.0,
        "p_define": 0.6 if has_definitions else 0.0,
        "p_demonstrate": 0.0,
        "p_symbol": 0.0,
        "p_merge": 0.0,
        "p_natural": 0.3 if are_joined else 0.0,
        "p_lower": 0.05 if are_joined else 0.0,
        "p_typos": 0.0,
        "max_words": _MAX_WORDS,
    }


def _read(name: str, known: LabelSet | None, labels_file: str) -> _Reading:
    report = Report()
    corpus = read_corpus(name, report=report)
    path = Path(name)
    form = guess_format(path) if path.exists() else ""
    if overlaps := [what for what in report.losses if what.startswith("overlapping")]:
        places = ", ".join(report.places[overlaps[0]])
        raise DataError(
            f"{places}: entities overlap ({report.losses[overlaps[0]]} in all); a word can have "
            "one label here. Remove one of each, or keep the longest with: "
            f"nomina convert {name} clean.jsonl"
        )
    notes = [f"{name}: {line}" for line in corpus.warnings]
    reading = _Reading(name, list(corpus.examples), [], corpus.labels, notes)
    if form in DIALECTS:
        _check_columns(path, reading)
    else:
        extra = Counter(key for row in corpus.examples for key in row.extra if key not in _KNOWN)
        reading.notes += [f"column {key!r} is not used ({path}:1)" for key in extra]
    if len(reading.places) != len(reading.examples):
        reading.places = [f"{name}: text {number}" for number in range(1, len(corpus) + 1)]
    _check_labels(reading, corpus, known, labels_file, path if form else None)
    return reading


def _check_columns(path: Path, reading: _Reading) -> None:
    unused: dict[str, list[str]] = {}
    beside: set[str] = set()  # columns that stand beside annotations are none themselves
    alone: dict[str, str] = {}  # those of records without, and where
    for place, record, _ in read_records(path, Report(skip_errors=True)):
        if not isinstance(record, dict):
            continue
        reading.places.append(place)
        is_annotated = any(key in record for key in _ANNOTATIONS)
        for key in record:
            if key in _KNOWN:
                continue
            unused.setdefault(key, []).append(place)
            if key.startswith("_"):  # of a tool's own, as Prodigy's `_input_hash`
                continue
            if close := difflib.get_close_matches(key, _ANNOTATIONS, n=1, cutoff=0.8):
                raise DataError(f"{place}: unknown column {key!r}. Did you mean {close[0]!r}?")
            if is_annotated:
                beside.add(key)
            else:
                alone.setdefault(key, place)
    for key, place in alone.items():
        if key not in beside:
            raise DataError(
                f"{place}: unknown column {key!r}. Its entities must stand in `entities`, see "
                "docs/formats.md."
            )
    for key, places in unused.items():
        reading.note(f"column {key!r} is not used", places)


def _check_labels(
    reading: _Reading, corpus: Corpus, known: LabelSet | None, labels_file: str, path: Path | None
) -> None:
    """Bring all spans to one spelling of each label, or say where two spellings collide."""
    spelled = {normalize_label(label.name): label.name for label in known or corpus.labels}
    names = dict.fromkeys(span.label for row in reading.examples for span in row.spans)
    first: dict[str, str] = {}
    for name in names:
        key = normalize_label(name)
        place = _find(path, name) or reading.name
        if key in first and first[key] != name:
            other = first[key]
            raise DataError(
                f"{place}: the labels {name!r} and {other!r} "
                f"({_find(path, other) or reading.name}) are the same but for case, underscores "
                "or spaces. Write them alike."
            )
        first[key] = name
        if key not in spelled:
            close = difflib.get_close_matches(key, list(spelled), n=1)
            hint = f"Did you mean {spelled[close[0]]!r}? " if close else ""
            raise DataError(
                f"{place}: the label {name!r} is not in {labels_file or corpus.name}. {hint}"
                "Add it there, or rename it in the data."
            )
    if known is not None:
        reading.labels = known
        if unused := [label.name for label in known if normalize_label(label.name) not in first]:
            reading.notes.append(f"labels of {labels_file} not in {reading.name}: {unused}")
    right = {name: spelled[normalize_label(name)] for name in names}
    for index, row in enumerate(reading.examples):
        spans = tuple(Span(a, b, right[label]) for a, b, label in row.spans)
        # One's own label set holds for all sentences; a record's own would hide it.
        own = None if known is not None else _spelled(row.labels, spelled)
        if own is not None and (missing := {span.label for span in spans} - {*own.names}):
            raise DataError(
                f"{reading.places[index]}: the label {min(missing)!r} of an entity is not in the "
                f"label set of its record, {list(own.names)}. Add it there, or leave the set out."
            )
        if spans != row.spans or own is not row.labels:
            reading.examples[index] = dataclasses.replace(row, spans=spans, labels=own)


def _spelled(labels: LabelSet | None, spelled: Mapping[str, str]) -> LabelSet | None:
    """Return a record's own label set with each label spelled as elsewhere."""
    names = [spelled.get(normalize_label(label.name), label.name) for label in labels or ()]
    if labels is None or tuple(names) == labels.names:
        return labels
    return LabelSet(
        tuple(dataclasses.replace(x, name=name) for x, name in zip(labels, names, strict=True))
    )


def _find(path: Path | None, text: str) -> str:
    """Return file and line where a label is first written."""
    if path is None or not path.is_file():
        return ""
    needles = {text.encode(), json.dumps(text)[1:-1].encode()}
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            for needle in needles:
                at = line.find(needle)
                before, after = line[at - 1 : at], line[at + len(needle) : at + len(needle) + 1]
                if at > 0 and not before.isalnum() and not after.isalnum() and after != b"_":
                    return f"{path}:{number}"
    return ""


def _given_dev(reading: _Reading, labels: LabelSet, recipe: Recipe) -> DevSet:
    names = {normalize_label(label.name): label.name for label in labels}
    extra = [x for x in reading.labels.names if normalize_label(x) not in names]
    right = {x: names.get(normalize_label(x), x) for x in reading.labels.names}
    rows = [
        dataclasses.replace(
            row,
            spans=tuple(Span(a, b, right.get(x, x)) for a, b, x in row.spans),
            labels=_spelled(row.labels, names),
        )
        for row in reading.examples
    ]
    used = {span.label for row in rows for span in row.spans}
    if unseen := [x for x in extra if x in used]:
        reading.notes.append(f"labels of {reading.name} that training never sees: {unseen}")
    asked = LabelSet((*labels, *(label for label in reading.labels if label.name in unseen)))
    return _limited(DevSet(reading.name, rows, asked), recipe)


def _check_dev(
    rows: Sequence[Example], dev: Sequence[DevSet], labels: LabelSet, notes: list[str]
) -> None:
    if not dev:
        return
    seen = {span.label for one in dev for row in one.examples for span in row.spans}
    if unseen := [label.name for label in labels if label.name not in seen]:
        notes.append(f"labels never seen in dev, so its F1 says nothing of them: {unseen}")
    texts = {row.text for row in rows}
    if shared := sum(row.text in texts for one in dev for row in one.examples):
        notes.append(f"{shared} dev sentences are also trained on: their F1 is too good")


def _cut_long(
    name: str, rows: Sequence[Example], places: Sequence[str], max_words: int, notes: list[str]
) -> tuple[list[Example], list[str]]:
    kept, kept_places, long_places = [], [], []
    for row, place in zip(rows, places, strict=True):
        if not row.offsets:
            continue
        try:
            pieces = cut_example(row, max_words)
        except LabelError as error:
            raise DataError(f"{place}: {error}") from error
        if len(pieces) > 1:
            long_places.append(place)
        kept += pieces
        kept_places += [place] * len(pieces)
    if long_places:
        shown = ", ".join(long_places[:3]) + (", ..." if len(long_places) > 3 else "")
        notes.append(
            f"{len(long_places)} texts are longer than the {max_words} words that a model reads "
            f"at once and are trained on in pieces ({shown})"
        )
    return kept, kept_places


def cut_example(example: Example, max_words: int) -> list[Example]:
    """Cut an example into passages at the ends of sentences, never inside an entity.

    Raises:
        LabelError: If an entity alone is longer than a passage may be.

    Example:
        >>> row = Example.from_tags("It rained . We stayed in Oslo .".split(), [*"OOOOOO", "B-city", "O"])
        >>> [piece.text for piece in cut_example(row, 5)]
        ['It rained .', 'We stayed in Oslo .']
    """  # noqa: E501
    if len(example.offsets) <= max_words:
        return [example]
    longest = max(example.spans, key=lambda s: s.end - s.start, default=Span(0, 0, ""))
    if longest.end - longest.start > max_words:
        raise LabelError(
            f"an entity of {longest.end - longest.start} words ({longest.label!r}) is longer than "
            f"the {max_words} words that a model reads at once. Shorten it, or raise max_words."
        )
    windows = split_text(example.text, example.offsets, max_words, 0)
    pieces, start, number = [], 0, 0
    while start < len(example.offsets):
        while number < len(windows) and windows[number].end <= start:
            number += 1
        end = windows[number].end if number < len(windows) else len(example.offsets)
        end = min(end, start + max_words)
        for span in example.spans:
            if span.start < end < span.end:
                end = span.start if span.start > start else span.end
        pieces.append(_slice(example, start, end))
        start = end
    return pieces


def _slice(example: Example, start: int, end: int) -> Example:
    first, last = example.offsets[start][0], example.offsets[end - 1][1]
    offsets = tuple((a - first, b - first) for a, b in example.offsets[start:end])
    spans = tuple(
        Span(s.start - start, s.end - start, s.label)
        for s in example.spans
        if start <= s.start and s.end <= end
    )
    return dataclasses.replace(
        example, text=example.text[first:last], offsets=offsets, spans=spans, extra=example.extra
    )
