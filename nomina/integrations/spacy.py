"""The spaCy component `nomina`: spaCy's documents in, the same with entities out.

::

    nlp = spacy.blank("en")
    nlp.add_pipe("nomina", config={"labels": ["actor", "year"], "threshold": 0.5})
    doc = nlp("did george clooney make a musical in the 1980s")
    [(e.text, e.label_, e._.nomina_score) for e in doc.ents]

spaCy finds it through the entry point of the installed package; importing this module registers it
too. A saved pipeline holds the settings and names the model; the model itself is not copied.

Knows spaCy's tokens and how entities come to lie on them; nothing of how entities are found.
"""

from __future__ import annotations

import json
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints
from warnings import warn

from nomina.corpora.docbin import score_key
from nomina.corpora.files import read_text, write_whole
from nomina.corpora.jsonl import label_table
from nomina.documents import Document
from nomina.entities import Entity, Example, LabelSet
from nomina.errors import LabelError, MissingExtraError, NominaError, TextError

try:
    from confection import Config
    from spacy.language import Language
    from spacy.pipeline import Pipe
    from spacy.scorer import Scorer, get_ner_prf
    from spacy.tokens import Doc, Span, SpanGroup
except ImportError as error:
    raise MissingExtraError("spacy", "spacy") from error

if TYPE_CHECKING:
    from spacy.vocab import Vocab

    from nomina.client import Client
    from nomina.extractor import Tagger

ALIGNMENT_MODES = ("expand", "contract", "strict", "tokens")
_SETTINGS_FILE = "nomina.json"
_INSIDE = "it begins or ends inside a token of spaCy"


def _score_of(span: Span) -> float | None:
    found: float | None = span.doc.user_data.get(score_key(span))
    return found


def _set_score(span: Span, score: float) -> None:
    span.doc.user_data[score_key(span)] = score


if not Span.has_extension("nomina_score"):
    Span.set_extension("nomina_score", getter=_score_of, setter=_set_score)
    Doc.set_extension("nomina_warnings", default=())
    Doc.set_extension("nomina_changes", default=())


class AlignmentWarning(UserWarning):
    """Entities do not lie on spaCy's tokens and were changed or left out."""


@dataclass(frozen=True)
class Settings:
    """What a component does; one field for each key of its config.

    Attributes:
        labels: What to look for: names, names with definitions, or tables with `name`.
        model: Name, folder or hub id of a model, or the address of a server (`nomina serve`).
        threshold: Entities scored below it are left out; `None` for the model's own.
        definitions: Whether the model is shown definitions, where there are any.
        spans_key: Span group to write to; `None` for `doc.ents`.
        overwrite_ents: Whether entities that are there already give way. If not, they stay and what
            overlaps them is left out (`doc.ents`), or they stay beside the new ones (span group).
        alignment_mode: What to do with an entity that begins or ends inside a spaCy token: "expand"
            to whole tokens, "contract" to the tokens inside it, leave it out ("strict"); or take
            spaCy's tokens for words, so that every entity is made of them ("tokens"; a server
            keeps to its own words, and its entities are expanded).
    """

    labels: LabelSet
    model: str = "default"
    threshold: float | None = None
    definitions: bool = True
    spans_key: str | None = None
    overwrite_ents: bool = False
    alignment_mode: str = "expand"

    def __post_init__(self) -> None:
        if not isinstance(self.model, (str, os.PathLike)) or not self.model:
            raise TextError(f"`model` must be a name, folder or address, was: {self.model!r}")
        limit = self.threshold
        is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and not (is_number and 0 <= limit <= 1):
            raise TextError(f"`threshold` must be a probability from 0 to 1, was: {limit!r}")
        if self.spans_key is not None and not (isinstance(self.spans_key, str) and self.spans_key):
            raise TextError(
                f"`spans_key` must name a span group, or be null for doc.ents, was: "
                f"{self.spans_key!r}"
            )
        for name in ("definitions", "overwrite_ents"):
            if not isinstance(getattr(self, name), bool):
                raise TextError(f"`{name}` must be true or false, was: {getattr(self, name)!r}")
        if self.alignment_mode not in ALIGNMENT_MODES:
            raise TextError(
                f"`alignment_mode` must be one of {', '.join(ALIGNMENT_MODES)}, "
                f"was: {self.alignment_mode!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-ready dict."""
        rest = {key: value for key, value in asdict(self).items() if key != "labels"}
        return rest | {"labels": label_table(self.labels), "model": os.fspath(self.model)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Settings:
        """Build settings from what `to_dict` returned, or from a component's config.

        Raises:
            LabelError: If the labels cannot be used.
            TextError: If another setting is out of range.
        """
        return Settings(**{**values, "labels": _label_set(values.get("labels"))})


def _label_set(labels: Any) -> LabelSet:
    if not labels:
        raise LabelError(
            "the component needs to know what to look for. Example: "
            'nlp.add_pipe("nomina", config={"labels": ["person", "city"]})'
        )
    if isinstance(labels, Sequence) and not isinstance(labels, (str, LabelSet)):
        found = []
        for label in labels:
            if isinstance(label, Mapping):
                if "name" not in label:
                    raise LabelError(f"a label's table needs a `name`, was: {dict(label)!r}")
                rest = {key: value for key, value in label.items() if key != "name"}
                found.append(LabelSet.of({label["name"]: rest})[0])
            else:
                found.append(label)
        labels = found
    return LabelSet.of(labels)


def _check_survives(labels: Any) -> None:
    """Check that spaCy's config file gives the labels back: some names are comments to it."""
    try:
        text = Config({"components": {"nomina": {"labels": labels}}}).to_str()
        found = Config().from_str(text)["components"]["nomina"]["labels"]
        is_same = found == json.loads(json.dumps(labels))  # a tuple comes back as a list
    except Exception:  # whatever its parser brings up
        is_same = False
    if not is_same:
        raise LabelError(
            "spaCy's config cannot hold these labels: a name that is a key there must not have "
            ": or = in it nor begin with # or [, and no string may hold ${. Give a list of tables "
            'instead, as in [{"name": "a:b", "definition": "..."}]. '
            f"Labels were: {labels!r:.200}"
        )


# --------------------------------------------------------------------------------------------------
# The component

_taggers: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def _find_tagger(model: str) -> Tagger | Client:
    """Return the tagger of a model; components of one process share it."""
    model = os.fspath(model)
    found = _taggers.get(model)
    if found is None:
        if model.startswith(("http://", "https://")):
            from nomina.client import Client

            found = Client(model)
        else:
            from nomina.extractor import load

            found = load(model)
        _taggers[model] = found
    return found  # type: ignore[no-any-return]


class NominaPipe(Pipe):  # type: ignore[misc]
    """Sets `doc.ents` or a span group to what a tagger finds.

    On every span `span._.nomina_score` is its probability; a span group has all of them in
    `group.attrs["scores"]` too, as spaCy's own `spancat` does. `doc._.nomina_warnings` is what the
    tagger had to say of the text. `doc._.nomina_changes` lists the entities that could not be set
    as they were found, each as a dict with `text`, `label`, `start`, `end` (characters), `score`,
    `became` (what was set instead, `None` if nothing) and `why`.

    Args:
        vocab: Of the pipeline.
        name: Of the component in it.
        settings: What to do.
        tagger: A local tagger or a client, in place of the one that the settings name.

    Raises:
        ModelError: If the model cannot be found or read.
    """

    def __init__(
        self, vocab: Vocab, name: str, settings: Settings, tagger: Tagger | Client | None = None
    ) -> None:
        self.vocab = vocab
        self.name = name
        self.settings = settings
        self._made_with = settings
        self._tagger = tagger or _find_tagger(settings.model)

    def __reduce__(self) -> tuple[Any, ...]:
        return NominaPipe, (self.vocab, self.name, self.settings)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels it looks for."""
        return self.settings.labels.names

    def __call__(self, doc: Doc) -> Doc:
        """Find entities in one document and set them."""
        self._set(doc, next(self._find([doc])))
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Find entities in many documents, read together; yields them in order.

        Args:
            stream: Documents; taken only as far as the tagger has room, so it may be endless.
            batch_size: Without effect: how much is read at once is the tagger's to say.

        Yields:
            The documents. Where reading fails, those under way are given to the error handler of
            the pipeline (`nlp.set_error_handler`), and what comes after them goes on.
        """
        del batch_size
        handle: Callable[..., None] = self.get_error_handler()
        source = _Source(stream)
        documents = self._find(source)
        while True:
            try:
                document = next(documents)
            except StopIteration:
                return
            except Exception as error:
                failed = list(source.under_way)
                if source.is_broken or not failed:
                    raise
                source.under_way.clear()
                handle(self.name, self, failed, error)
                documents = self._find(source)
                continue
            doc = source.under_way.popleft()
            try:
                self._set(doc, document)
            except Exception as error:
                handle(self.name, self, [doc], error)
            else:
                yield doc

    def _find(self, source: Iterable[Doc]) -> Iterator[Document]:
        settings = self.settings
        is_cut = settings.alignment_mode == "tokens"
        texts = (_as_example(doc) if is_cut else doc.text for doc in source)
        return self._tagger.pipe(
            texts, settings.labels, threshold=settings.threshold, definitions=settings.definitions
        )

    def _set(self, doc: Doc, document: Document) -> None:
        changes: list[dict[str, Any]] = []
        spans = self._aligned(doc, document.entities, changes)
        key = self.settings.spans_key
        if key is not None:
            self._set_group(doc, key, spans)
        else:
            self._set_ents(doc, spans, changes)
        for span, score in spans:
            span._.nomina_score = score
        if document.warnings:
            doc._.nomina_warnings = [*doc._.nomina_warnings, *document.warnings]
        if changes:
            doc._.nomina_changes = [*doc._.nomina_changes, *changes]

    def _aligned(
        self, doc: Doc, entities: Sequence[Entity], changes: list[dict[str, Any]]
    ) -> list[tuple[Span, float]]:
        mode = self.settings.alignment_mode
        aligned: list[tuple[Entity, Span]] = []
        for entity in entities:
            span = doc.char_span(
                entity.start,
                entity.end,
                label=entity.label,
                # "tokens" fits by itself, unless a server, which is sent no words, finds entities
                alignment_mode="expand" if mode == "tokens" else mode,
            )
            if span is None:
                whole = "no token of spaCy lies within it"
                changes.append(_change(entity, None, _INSIDE if mode == "strict" else whole))
            else:
                aligned.append((entity, span))
        # Two entities in one token become one span: the more probable stays.
        taken: set[int] = set()
        kept = []
        for entity, span in sorted(aligned, key=lambda pair: -pair[0].score):
            if taken.isdisjoint(range(span.start, span.end)):
                taken.update(range(span.start, span.end))
                kept.append((span, entity.score))
                if (span.start_char, span.end_char) != (entity.start, entity.end):
                    changes.append(_change(entity, span, _INSIDE))
            else:
                why = "it shares a token of spaCy with a more probable entity"
                changes.append(_change(entity, None, why))
        if changes:
            warn(
                f"Entities do not lie on spaCy's tokens (alignment_mode={mode!r}): some were "
                "changed or left out. doc._.nomina_changes lists them.",
                AlignmentWarning,
                stacklevel=2,
            )
        return sorted(kept, key=lambda pair: pair[0].start)

    def _set_ents(
        self, doc: Doc, spans: list[tuple[Span, float]], changes: list[dict[str, Any]]
    ) -> None:
        before = list(doc.ents)
        if self.settings.overwrite_ents:
            taken = {index for span, _ in spans for index in range(span.start, span.end)}
            before = [e for e in before if taken.isdisjoint(range(e.start, e.end))]
        else:
            taken = {index for e in before for index in range(e.start, e.end)}
            for span, score in list(spans):
                if not taken.isdisjoint(range(span.start, span.end)):
                    spans.remove((span, score))
                    entity = Entity(span.text, span.label_, span.start_char, span.end_char, score)
                    why = "it overlaps an entity that was there before (overwrite_ents=False)"
                    changes.append(_change(entity, None, why))
        doc.ents = [*before, *(span for span, _ in spans)]

    def _set_group(self, doc: Doc, key: str, spans: list[tuple[Span, float]]) -> None:
        before: list[Span] = []
        attrs: dict[str, Any] = {}
        if key in doc.spans and not self.settings.overwrite_ents:
            before, attrs = list(doc.spans[key]), dict(doc.spans[key].attrs)
        scores = list(attrs.get("scores", ()))
        if len(scores) != len(before):  # another component's, which gave none
            scores = [span._.nomina_score for span in before]
        scores = [float("nan") if score is None else float(score) for score in scores]
        attrs["scores"] = scores + [score for _, score in spans]
        new = [*before, *(span for span, _ in spans)]
        group = SpanGroup(doc, name=key, spans=new, attrs=attrs)
        doc.spans[key] = group

    def score(self, examples: Iterable[Any], **kwargs: Any) -> dict[str, Any]:
        """Score predictions against gold as spaCy does; called by `nlp.evaluate`."""
        key = self.settings.spans_key
        if key is None:
            found: dict[str, Any] = get_ner_prf(examples, **kwargs)
            return found
        return Scorer.score_spans(  # type: ignore[no-any-return]
            examples,
            attr=f"spans_{key}",
            getter=lambda doc, _: doc.spans.get(key, []),
            has_annotation=lambda doc: key in doc.spans,
            allow_overlap=True,
            labeled=True,
        )

    # ----------------------------------------------------------------------------------------------
    # Saving

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Return the settings as bytes; the model is named in them, not copied."""
        del exclude
        return json.dumps(self._saved()).encode()

    def from_bytes(self, data: bytes, *, exclude: Iterable[str] = ()) -> NominaPipe:
        """Take over settings that `to_bytes` returned.

        Raises:
            ModelError: If the model they name cannot be found or read.
        """
        del exclude
        saved = json.loads(data)
        saved.pop("made_with", None)
        return self._take_over(saved)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Save the settings to a folder; the model is named in them, not copied."""
        del exclude
        Path(path).mkdir(parents=True, exist_ok=True)
        with write_whole(Path(path) / _SETTINGS_FILE) as file:
            json.dump(self._saved(), file, ensure_ascii=False, indent=1)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> NominaPipe:
        """Take over settings that `to_disk` saved.

        What `spacy.load(..., config={"components.nomina.model": "elsewhere"})` sets anew stays.

        Raises:
            DataError: If the file cannot be read.
            ModelError: If the model they name cannot be found or read.
        """
        del exclude
        saved = json.loads(read_text(Path(path) / _SETTINGS_FILE))
        made_with = saved.pop("made_with", {})
        now = self._made_with.to_dict()
        anew = {key: now[key] for key in now if now[key] != made_with.get(key, now[key])}
        return self._take_over(saved | anew)

    def _saved(self) -> dict[str, Any]:
        return self.settings.to_dict() | {"made_with": self._made_with.to_dict()}

    def _take_over(self, values: Mapping[str, Any]) -> NominaPipe:
        settings = Settings.from_dict(values)
        if settings.model != self.settings.model:
            self._tagger = _find_tagger(settings.model)
        self.settings = settings
        return self

    def configure(self, **changes: Any) -> None:
        """Change settings by name, as in `nlp.get_pipe("nomina").configure(threshold=0.7)`.

        Raises:
            NominaError: If there is no such setting or it is out of range.
        """
        if unknown := sorted(set(changes) - set(asdict(self.settings))):
            known = ", ".join(asdict(self.settings))
            raise TextError(f"there is no setting {unknown[0]!r}; there are: {known}")
        if "labels" in changes:
            changes["labels"] = _label_set(changes["labels"])
        self._take_over(replace(self.settings, **changes).to_dict())


class _Source:
    """Documents from upstream: which ones are under way, and whether upstream itself broke."""

    def __init__(self, stream: Iterable[Doc]) -> None:
        self.under_way: deque[Doc] = deque()
        self.is_broken = False
        self._stream = iter(stream)

    def __iter__(self) -> Iterator[Doc]:
        while True:
            try:
                doc = next(self._stream)
            except StopIteration:
                return
            except Exception:
                self.is_broken = True
                raise
            self.under_way.append(doc)
            yield doc


def _as_example(doc: Doc) -> Example:
    """Return a document with its tokens as words; tokens of white space are none."""
    offsets = tuple((t.idx, t.idx + len(t)) for t in doc if not t.is_space)
    return Example(doc.text, offsets)


def _change(entity: Entity, became: Span | None, why: str) -> dict[str, Any]:
    return entity.to_dict() | {"became": None if became is None else became.text, "why": why}


@Language.factory(  # type: ignore[untyped-decorator]
    "nomina",
    assigns=["doc.ents", "doc.spans", "span._.nomina_score"],
    default_config={
        "labels": [],
        "model": "default",
        "threshold": None,
        "definitions": True,
        "spans_key": None,
        "overwrite_ents": False,
        "alignment_mode": "expand",
    },
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0},
)
def make_nomina(
    nlp: Language,
    name: str,
    labels: Any,
    model: Any,
    threshold: Any,
    definitions: Any,
    spans_key: Any,
    overwrite_ents: Any,
    alignment_mode: Any,
) -> NominaPipe:
    """Make the component from its config; see `Settings` for the keys.

    Raises:
        LabelError: If the labels cannot be used, or a config file of spaCy cannot hold them.
        TextError: If another setting is out of range.
        ModelError: If the model cannot be found or read.
    """
    if labels:
        _check_survives(labels)
    try:
        settings = Settings.from_dict(
            {
                "labels": labels,
                "model": model,
                "threshold": threshold,
                "definitions": definitions,
                "spans_key": spans_key,
                "overwrite_ents": overwrite_ents,
                "alignment_mode": alignment_mode,
            }
        )
    except NominaError as error:
        raise type(error)(f"component {name!r}: {error}") from error
    return NominaPipe(nlp.vocab, name, settings)


# confection 0.1 (spaCy 3.8.2) makes a pydantic model of the arguments and cannot look names up
make_nomina.__annotations__ = get_type_hints(make_nomina)
