"""spaCy's DocBin (`.spacy` files), with the real spaCy.

Entities are `doc.ents`; where there are none, the span group `sc` (or the only one) is read. What
a `Doc` has no place for (id, scores, label set ...) travels in `doc.user_data["nomina"]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nomina.corpora.corpus import Report, build_example
from nomina.corpora.files import write_whole_path
from nomina.corpora.jsonl import label_table, scored_entities
from nomina.entities import Entity, Example, LabelSet
from nomina.errors import DataError, MissingExtraError

_KEY = "nomina"


def _spacy() -> Any:
    try:
        import spacy
        import spacy.tokens
    except ImportError as error:
        raise MissingExtraError("spacy", "spacy") from error
    return spacy


def read_docbin(path: Path, report: Report) -> Iterator[Example]:
    """Yield the documents of a DocBin.

    Raises:
        MissingExtraError: If spaCy is not installed.
        DataError: If the file is not a DocBin that this version of spaCy reads; unless errors are
            skipped, if a document is malformed.
    """
    spacy = _spacy()
    vocab = spacy.vocab.Vocab()
    try:
        docs = spacy.tokens.DocBin().from_disk(path)
        stream = docs.get_docs(vocab)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # zlib, msgpack, numpy: whatever an alien file brings up
        raise DataError(
            f"{path}: is not a DocBin that spaCy {spacy.__version__} reads: "
            f"{type(error).__name__}: {error}"
        ) from error
    for index in range(len(docs)):
        place = f"{path}: doc {index + 1}"
        try:
            doc = next(stream)
        except Exception as error:
            raise DataError(
                f"{place}: cannot be read by spaCy {spacy.__version__}: "
                f"{type(error).__name__}: {error}"
            ) from error
        try:
            yield _parse(doc, report, place, str(index))
        except DataError as error:
            report.reject(place, str(error).removeprefix(f"{place}: "), doc.text)


def _parse(doc: Any, report: Report, place: str, index: str) -> Example:
    own = doc.user_data.get(_KEY)
    own = json.loads(own) if isinstance(own, str) else {}
    found = list(doc.ents)
    groups = {name: list(group) for name, group in doc.spans.items() if len(group)}
    if not found and groups:
        name = "sc" if "sc" in groups else next(iter(groups))
        found = groups.pop(name)
    for name, group in groups.items():
        report.lose(f"spans of further groups left out: {name}", place, len(group))
    scores = own.get("scores") or [_component_score(span) for span in found]
    if len(scores) != len(found):
        scores = [1.0] * len(found)
    entities = [
        Entity(span.text, span.label_, span.start_char, span.end_char, score)
        for span, score in zip(found, scores, strict=True)
    ]
    for entity in entities:
        if not entity.label:
            raise DataError(f"an entity has no label: {entity.text!r}")
    words = [(t.idx, t.idx + len(t)) for t in doc if t.text.strip()]
    labels = own.get("label_set")
    return build_example(
        doc.text,
        entities,
        report,
        place,
        words,
        id=own.get("id", index),
        labels=LabelSet.of(labels) if labels else None,
        source=own.get("source", ""),
        extra=own.get("extra"),
    )


def score_key(span: Any) -> tuple[str, int, int, str]:
    """Return where `doc.user_data` holds the probability of a span: by borders and label.

    spaCy's own values of extensions go by borders alone, and two components may differ.
    """
    return f"{_KEY}_score", span.start_char, span.end_char, span.label_


def _component_score(span: Any) -> float:
    """The probability that our spaCy component left."""
    score = span.doc.user_data.get(score_key(span))
    return 1.0 if score is None else float(score)


def write_docbin(examples: Iterable[Example], path: Path, report: Report) -> None:
    """Write a DocBin; words become tokens, and what stands between them too.

    Raises:
        MissingExtraError: If spaCy is not installed.
        DataError: If the file cannot be written.
    """
    spacy = _spacy()
    vocab = spacy.vocab.Vocab()
    attributes = ["ORTH", "SPACY", "ENT_IOB", "ENT_TYPE"]
    docs = spacy.tokens.DocBin(attrs=attributes, store_user_data=True)
    for index, example in enumerate(examples):
        try:
            docs.add(_render(example, spacy, vocab, report))
        except (ValueError, UnicodeEncodeError) as error:
            raise DataError(f"{path}: example {example.id or index}: {error}") from error
    with write_whole_path(path) as temporary:
        temporary.write_bytes(docs.to_bytes())


def cut_tokens(example: Example) -> tuple[list[str], list[bool], list[int]]:
    """Cut a text into tokens as spaCy wants them: each with or without one space behind it.

    Returns:
        The tokens; whether a space follows each; and the index of each word's token.

    Example:
        >>> cut_tokens(Example.from_entities("a  b.", []))
        (['a', ' ', 'b', '.'], [True, False, False, False], [0, 2, 3])
    """
    tokens: list[str] = []
    spaces: list[bool] = []
    places = []
    position = 0
    text = example.text
    for start, end in (*example.offsets, (len(text), len(text))):
        gap = text[position:start]
        if gap and tokens and gap[0] == " ":
            spaces[-1] = True
            gap = gap[1:]
        if gap:
            tokens.append(gap)
            spaces.append(False)
        if start < end:
            places.append(len(tokens))
            tokens.append(text[start:end])
            spaces.append(False)
        position = end
    return tokens, spaces, places


def _render(example: Example, spacy: Any, vocab: Any, report: Report) -> Any:
    tokens, spaces, places = cut_tokens(example)
    doc = spacy.tokens.Doc(vocab, words=tokens, spaces=spaces)
    doc.ents = [
        spacy.tokens.Span(doc, places[span.start], places[span.end - 1] + 1, label=span.label)
        for span in example.spans
    ]
    own: dict[str, Any] = {"id": example.id} if example.id else {}
    if "scores" in example.extra:
        own["scores"] = [entity.score for entity in scored_entities(example)]
    if example.labels is not None:
        own["label_set"] = label_table(example.labels)
    if example.source:
        own["source"] = example.source
    if extra := {key: value for key, value in example.extra.items() if key != "scores"}:
        own["extra"] = extra
    if own:
        # A string, because a DocBin's user data must survive msgpack of any version
        doc.user_data[_KEY] = json.dumps(own, ensure_ascii=True, default=str)
    return doc
