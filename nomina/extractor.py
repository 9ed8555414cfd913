"""From texts and labels to documents: the tagger that users call.

A text is cut into words, the words into windows that a model can read, each window becomes a
request to the engine, and what the engine chose becomes entities with character offsets. Texts
stream: they are taken from the input only as there is room, and given back in order.

Knows everything below it and how it fits together; nothing of files or command lines.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from nomina.beams import BeamEngine
from nomina.calibration import Calibration
from nomina.chunking import Window, merge_spans, split_text
from nomina.documents import Document
from nomina.engine import Engine, EngineConfig, Path, Request
from nomina.entities import Example, Label, LabelSet, Span, spans_to_entities, split_words
from nomina.errors import ModelError, TextError
from nomina.formats import Sentence, get_format
from nomina.freeform import read_completion
from nomina.generation import Completion, Generator
from nomina.grounding import Grounding, ScoredSpan
from nomina.models import LanguageModel, load_model

Labels = LabelSet | Mapping[str, Any] | Iterable[str | Label]
Decoding = Literal["grounded", "free"]

# Words cost as many tokens as they have: a window of odd text (digits, another script) is shorter.
_TOKENS_PER_WORD = 2
_CONTEXT_SHARE = 0.2


@dataclass
class _Job:
    """A text under way: its windows, and what has been found in them so far."""

    text: str
    offsets: Sequence[tuple[int, int]]
    labels: LabelSet
    threshold: float
    windows: list[Window] = field(default_factory=list)
    groundings: deque[Grounding] = field(default_factory=deque)
    found: list[list[tuple[Span, float]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Tagger:
    """Finds entities of any labels in texts.

    Args:
        model: The language model.
        calibration: What makes its scores probabilities. Defaults to none.
        config: How much the engine reads at once.
        decoding: "grounded", where every completion copies the text and uses the labels given; or
            "free", where the model writes what it likes, as `generate` would have it write, and
            what it wrote is aligned with the text afterwards, for parity with published figures.
            Scores of free decoding are no calibrated probabilities (see `freeform`).
        max_new_tokens: Tokens that a free completion may have; see `generation.Generator`.
        num_beams: Hypotheses that grounded decoding keeps; see `beams`. More than 1 costs time.

    Raises:
        ModelError: If there is no such decoding, the model's settings do not allow it, or
            `num_beams` is not for it.

    Example:
        >>> import nomina
        >>> tagger = nomina.load()                                          # doctest: +SKIP
        >>> tagger("did george clooney make a musical", ["actor"]).entities  # doctest: +SKIP
        (Entity(text='george clooney', label='actor', start=4, end=18, score=0.97),)
    """

    def __init__(
        self,
        model: LanguageModel,
        calibration: Calibration | None = None,
        config: EngineConfig | None = None,
        *,
        decoding: Decoding = "grounded",
        max_new_tokens: int | None = None,
        num_beams: int = 1,
    ) -> None:
        _check_decoding(decoding, num_beams)
        self.model = model
        self.calibration = calibration or Calibration()
        self.engine: Engine | Generator | BeamEngine
        if decoding == "free":
            self.engine = Generator(model, config, max_new_tokens)
        elif num_beams > 1:
            self.engine = BeamEngine(model, config, num_beams)
        else:
            self.engine = Engine(model, config)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    def __call__(
        self,
        text: str | Example,
        labels: Labels,
        *,
        threshold: float | None = None,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Document:
        """Find entities in one text.

        Args:
            text: Any string; or an `Example`, whose own words are then the units that entities
                are made of (its gold entities are not looked at).
            labels: What to look for: names, or names with definitions.
            threshold: Entities scored below it are left out. Defaults to the model's own.
            definitions: Whether the model is shown definitions, where there are any.
            demonstrations: Solved examples to show to the model. They cost time in every call.

        Raises:
            LabelError: If the labels cannot be used.
            TextError: If the text is not a string, or the threshold not a probability.
        """
        return next(
            self.pipe(
                [text],
                labels,
                threshold=threshold,
                definitions=definitions,
                demonstrations=demonstrations,
            )
        )

    def pipe(
        self,
        texts: Iterable[str | Example],
        labels: Labels,
        *,
        threshold: float | None = None,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Iterator[Document]:
        """Find entities in many texts, read together; yields documents in order as they are done.

        Args:
            texts: Any iterable; it is read only as far as there is room, so it may be endless.
            labels: As for a call.
            threshold: As for a call.
            definitions: As for a call.
            demonstrations: As for a call.

        Raises:
            LabelError: If the labels cannot be used.
            TextError: If a text is not a string, or the threshold not a probability.
        """
        label_set = LabelSet.of(labels)
        if isinstance(texts, str):
            raise TextError("`pipe` takes many texts, was given one string. Call the tagger itself")
        items = ((text, label_set) for text in texts)
        return self.pipe_many(
            items, threshold=threshold, definitions=definitions, demonstrations=demonstrations
        )

    def pipe_many(
        self,
        items: Iterable[tuple[str | Example, LabelSet]],
        *,
        threshold: float | None = None,
        definitions: bool = True,
        demonstrations: Sequence[Example] = (),
    ) -> Iterator[Document]:
        """Find entities in many texts, each with a label set of its own; see `pipe`."""
        limit = self.model.config.threshold if threshold is None else threshold
        if not 0 <= limit <= 1:
            raise TextError(f"threshold must be a probability from 0 to 1, was: {threshold}")
        form = self.model.format
        prefixes: dict[int, tuple[LabelSet, tuple[int, ...]]] = {}
        jobs: deque[_Job] = deque()

        def requests() -> Iterator[Request]:
            for text, labels in items:
                job = self._job(text, labels, limit)
                jobs.append(job)
                for window in job.windows:
                    sentence = Sentence.of(
                        job.text, job.offsets[window.context_start : window.context_end]
                    )
                    prompt = form.prompt(sentence, labels, definitions, demonstrations)
                    known = prefixes.get(id(labels))
                    if known is None or known[0] is not labels:
                        if len(prefixes) > 64:
                            prefixes.clear()
                        known = labels, tuple(self.model.prefix_ids(prompt))
                        prefixes[id(labels)] = known
                    grounding = Grounding(form, sentence, labels.names, self.model.lexicon)
                    job.groundings.append(grounding)
                    yield Request(known[1], tuple(self.model.sentence_ids(prompt)), grounding)

        for result in self.engine.decode(requests()):
            while not jobs[0].windows:
                yield self._document(jobs.popleft())
            job = jobs[0]
            window = job.windows[len(job.found)]
            scored = self._read(job, job.groundings.popleft(), result)
            shift = window.context_start
            names = job.labels.names
            apply = self.calibration.apply
            job.found.append(
                [(Span(a + shift, b + shift, names[i]), apply(score)) for a, b, i, score in scored]
            )
            if len(job.found) == len(job.windows):
                yield self._document(jobs.popleft())
        while jobs:
            yield self._document(jobs.popleft())

    def _read(self, job: _Job, grounding: Grounding, result: Path | Completion) -> list[ScoredSpan]:
        if not isinstance(result, Completion):
            return grounding.read(result)
        spans, warnings, _ = read_completion(result, grounding, self.model.tokenizer)
        job.warnings += warnings
        return spans

    def _job(self, text: str | Example, labels: LabelSet, threshold: float) -> _Job:
        if isinstance(text, Example):
            job = _Job(text.text, text.offsets, labels, threshold)
        elif isinstance(text, str):
            job = _Job(text, split_words(text), labels, threshold)
        else:
            raise TextError(
                f"a text must be a string, was: {text!r:.60} ({type(text).__name__}). "
                'Example: tagger("in Paris", ["city"])'
            )
        if job.offsets:
            budget = self.model.config.max_words * _TOKENS_PER_WORD
            context = int(budget * _CONTEXT_SHARE)
            ids = self.model.lexicon.ids
            costs = [max(len(ids(job.text[a:b])), _TOKENS_PER_WORD) for a, b in job.offsets]
            if sum(costs) <= budget + context:
                job.windows = [Window(0, len(costs), 0, len(costs))]
            else:
                job.windows = split_text(job.text, job.offsets, budget, context, costs)
        return job

    def _document(self, job: _Job) -> Document:
        spans = merge_spans(job.windows, job.found)
        kept = [(span, score) for span, score in spans if score >= job.threshold]
        entities = spans_to_entities(
            job.text, job.offsets, [span for span, _ in kept], [score for _, score in kept]
        )
        return Document(job.text, tuple(entities), tuple(job.warnings))


def _check_decoding(decoding: str, num_beams: int) -> None:
    if decoding not in ("grounded", "free"):
        raise ModelError(f"decoding must be 'grounded' or 'free', was: {decoding!r}")
    if num_beams < 1:
        raise ModelError(f"num_beams must be at least 1, was: {num_beams}")
    if num_beams > 1 and decoding == "free":
        raise ModelError(
            f"free decoding is greedy search and takes no num_beams, was: {num_beams}. "
            "Use decoding='grounded' with it"
        )


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    config: EngineConfig | None = None,
    decoding: Decoding = "grounded",
    num_beams: int = 1,
) -> Tagger:
    """Load a tagger.

    Args:
        name: A model that comes with nomina, a folder, or a hub id; an adapter or a full model,
            causal or encoder-decoder. Defaults to nomina's own.
        format: Name of the format, in place of the one that the model says it was trained on.
        dtype: "float32", "bfloat16" or "float16". Defaults to the fastest the machine has.
        device: Such as "cpu" or "cuda:0". Defaults to a GPU if there is one.
        config: How much is read at once.
        decoding: "grounded" or "free"; see `Tagger`.
        num_beams: Hypotheses that grounded decoding keeps; see `Tagger`.

    Raises:
        ModelError: If the model cannot be found or read, or there is no such decoding.
        FormatError: If there is no such format.
    """
    if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise TextError(f"dtype must be float32, bfloat16 or float16, was: {dtype!r}")
    _check_decoding(decoding, num_beams)  # before the time that loading takes
    model = load_model(name, getattr(torch, dtype) if dtype else None, device)
    if format is not None:
        model.format = get_format(format)
        model.config = dataclasses.replace(model.config, format=format)
    folder = model.folder
    # The calibration was fitted on the scores of grounded decoding.
    calibration = Calibration.load(folder) if folder and decoding == "grounded" else None
    return Tagger(model, calibration, config, decoding=decoding, num_beams=num_beams)
