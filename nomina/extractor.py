"""From texts and labels to documents: the tagger that users call.

A text is cut into words, the words into windows that a model can read, each window becomes a
request to the engine, and what the engine chose becomes entities with character offsets. Texts
stream: they are taken from the input only as there is room, and given back in order.

Knows everything below it and how it fits together; nothing of files or command lines.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Literal

import torch

from nomina.beams import BeamEngine
from nomina.calibration import Calibration
from nomina.chunking import Window, merge_spans, split_text
from nomina.consistency import agree
from nomina.coverage import coverage_warnings
from nomina.documents import Document
from nomina.engine import Engine, EngineConfig, Path, Request
from nomina.entities import (
    Example,
    Labels,
    LabelSet,
    Span,
    normalize_label,
    spans_to_entities,
    split_words,
)
from nomina.errors import LabelError, ModelError, TextError
from nomina.formats import Sentence, get_format
from nomina.freeform import read_completion
from nomina.generation import Completion, Generator
from nomina.grounding import Grounding
from nomina.kernels import join_gates, pack_linears
from nomina.models import LanguageModel, load_model
from nomina.workers import WorkerEngine, serve

Decoding = Literal["grounded", "free"]

# Words cost as many tokens as they have: a window of odd text (digits, another script) is shorter.
_TOKENS_PER_WORD = 2
_CONTEXT_SHARE = 0.2
_MAX_TURNS = 64  # texts whose windows take turns
_END: Any = object()


@dataclass
class _Job:
    """A text under way: its windows, and what has been found in them so far."""

    number: int
    text: str
    offsets: Sequence[tuple[int, int]]
    labels: LabelSet
    windows: list[Window] = field(default_factory=list)
    found: list[list[tuple[Span, float]]] = field(default_factory=list)
    num_asked: int = 0
    num_found: int = 0
    warnings: list[str] = field(default_factory=list)
    window_warnings: list[list[str]] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.num_found == len(self.windows)


class Tagger:
    """Finds entities of any labels in texts.

    Several streams may be under way, and threads may share a tagger: they take turns at the model,
    each stream with keys and values of its own. One stream of all texts is faster.

    Args:
        model: The language model.
        calibration: What makes its scores probabilities. Defaults to none.
        config: How much the engine reads at once.
        consistent: Whether mentions of one string in one text take the label that is the most
            probable over all of them, and are found where the model left some of them out (see
            `consistency.agree`). Off by default: it helps texts that name the same things again and
            again, and may do harm where one word has two senses.
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
        consistent: bool = False,
        decoding: Decoding = "grounded",
        max_new_tokens: int | None = None,
        num_beams: int = 1,
    ) -> None:
        _check_decoding(decoding, num_beams)
        self.model = model
        self.consistent = consistent
        self.calibration = calibration or Calibration()
        self._is_greedy = decoding == "grounded" and num_beams == 1
        self.engine: Engine | Generator | BeamEngine | WorkerEngine
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
            threshold: Entities scored below it are left out. Defaults to the model's own, and to
                0 in free decoding, whose scores it is not made for.
            definitions: Whether the model is shown definitions, where there are any.
            demonstrations: Solved examples to show to the model, with labels that are asked for.
                They cost time in every call.

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
            Exception: What `texts` raises, after the documents before it have been given back.
        """
        label_set = LabelSet.of(labels)
        shown = _checked(demonstrations)
        _check_shown(shown, label_set)
        if isinstance(texts, str):
            raise TextError("`pipe` takes many texts, was given one string. Call the tagger itself")
        items = ((text, label_set) for text in texts)
        return self.pipe_many(
            items, threshold=threshold, definitions=definitions, demonstrations=shown
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
        work = _Work(self.model, definitions, _checked(demonstrations), self._is_greedy)
        limit = self._limit(threshold)

        def finished() -> Iterator[Document]:
            while work.jobs and work.jobs[0].is_done:
                yield self._document(work.jobs.popleft(), limit)

        failures: list[Exception] = []

        def requests() -> Iterator[Request]:
            try:
                yield from work.in_order(items)
            except Exception as error:  # of the texts: those before it are still read
                failures.append(error)

        results: Iterator[Path | Completion] = self.engine.decode(requests())
        for number, result in enumerate(results):
            work.read(number, result, self.calibration)
            yield from finished()
        yield from finished()
        if failures:
            raise failures[0]

    def pipe_as_done(
        self,
        items: Iterable[tuple[str | Example, LabelSet] | None],
        *,
        threshold: float | None = None,
        is_wanted: Callable[[int], bool] = lambda number: True,
    ) -> Iterator[tuple[int, Document]]:
        """Find entities in many texts and yield (number of the item, document) as each is done.

        For whoever serves many callers: a short text does not wait for a long one, because the
        windows of all texts take turns.

        Args:
            items: Texts with their label sets. None says that there is nothing now, but may be
                soon: it is asked again while other texts are read, and is the end if there are
                none.
            threshold: As for a call.
            is_wanted: Asked before each window is read; what is no longer wanted is dropped and
                not yielded.

        Raises:
            LabelError: If the labels cannot be used.
            TextError: If a text is not a string, or the threshold not a probability.
        """
        work = _Work(self.model, True, (), self._is_greedy)
        limit = self._limit(threshold)

        def finished() -> Iterator[tuple[int, Document]]:
            while work.jobs:
                job = work.jobs.popleft()
                yield job.number, self._document(job, limit)

        results: Iterator[tuple[int, Path | Completion]]
        results = self.engine.decode_as_done(work.in_turns(items, is_wanted))
        for number, result in results:
            job = work.read(number, result, self.calibration)
            if job.is_done:
                work.jobs.append(job)
            yield from finished()
        yield from finished()

    def _limit(self, threshold: float | None) -> float:
        limit = threshold
        if limit is None:  # the model's own is for grounded scores
            limit = 0.0 if isinstance(self.engine, Generator) else self.model.config.threshold
        check_threshold(limit)
        return limit

    def __reduce__(self) -> Any:
        raise TypeError(
            "a tagger cannot be pickled, because it holds a model. Load one in each process, or "
            "share one with `nomina serve` and nomina.Client"
        )

    def _document(self, job: _Job, limit: float) -> Document:
        spans = merge_spans(job.windows, job.found)
        if self.consistent:
            spans = agree([job.text[a:b] for a, b in job.offsets], spans)
        kept = [(span, score) for span, score in spans if score >= limit]
        entities = spans_to_entities(
            job.text, job.offsets, [span for span, _ in kept], [score for _, score in kept]
        )
        shown = {(span.start, span.end) for span, _ in kept}
        for index, warnings_of in enumerate(job.window_warnings):
            warnings_of += _cut_off(job, index, shown)
        warnings = dict.fromkeys([*job.warnings, *itertools.chain(*job.window_warnings)])
        return Document(job.text, tuple(entities), tuple(warnings))


class _Work:
    """The texts of one stream as requests, and the engine's paths as what was found in them.

    Attributes:
        jobs: Read in order: those that were begun. In turns: those that are done.
    """

    def __init__(
        self,
        model: LanguageModel,
        definitions: bool,
        demonstrations: Sequence[Example],
        is_greedy: bool,
    ) -> None:
        self.jobs: deque[_Job] = deque()
        self._model = model
        self._definitions = definitions
        self._demonstrations = demonstrations
        self._is_greedy = is_greedy
        self._prefixes: dict[int, tuple[LabelSet, tuple[int, ...]]] = {}
        self._asked: dict[int, tuple[_Job, int, Grounding]] = {}  # by number of the request
        self._num_jobs = self._num_requests = 0

    def in_order(self, items: Iterable[tuple[str | Example, LabelSet]]) -> Iterator[Request]:
        """Yield the windows of each text, one text after the other."""
        for text, labels in items:
            job = self._begin(text, labels)
            self.jobs.append(job)
            for _ in job.windows:
                yield self._ask(job)
            if not job.windows:
                yield self._ask_nothing(job)

    def in_turns(
        self,
        items: Iterable[tuple[str | Example, LabelSet] | None],
        is_wanted: Callable[[int], bool],
    ) -> Iterator[Request | None]:
        """Yield a window of each text in turn; None when there is nothing to ask now."""
        source = iter(items)
        turns: deque[_Job] = deque()
        is_ended = False
        while True:
            item = None
            if not is_ended and len(turns) < _MAX_TURNS:
                item = next(source, _END)
                is_ended = item is _END
            if item is not None and not is_ended:
                job = self._begin(*item)
                if job.windows:
                    turns.append(job)
                elif is_wanted(job.number):
                    yield self._ask_nothing(job)
            while turns and not is_wanted(turns[0].number):
                turns.popleft()
            if turns:
                job = turns.popleft()
                yield self._ask(job)
                if job.num_asked < len(job.windows):
                    turns.append(job)
            elif is_ended:
                return
            elif item is None:
                yield None

    def read(self, number: int, result: Path | Completion, calibration: Calibration) -> _Job:
        """Take over what the engine found for a request, and return the text it is of."""
        job, index, grounding = self._asked.pop(number)
        if not job.windows:
            return job
        if isinstance(result, Completion):
            scored, warnings, _ = read_completion(result, grounding, self._model.tokenizer)
            job.window_warnings[index] = warnings
        else:
            scored = grounding.read(result)
        shift, names = job.windows[index].context_start, job.labels.names
        job.found[index] = [
            (Span(a + shift, b + shift, names[label]), calibration.apply(score))
            for a, b, label, score in scored
        ]
        job.num_found += 1
        return job

    def _ask(self, job: _Job) -> Request:
        window = job.windows[job.num_asked]
        form, labels = self._model.format, job.labels
        sentence = Sentence.of(job.text, job.offsets[window.context_start : window.context_end])
        prompt = form.prompt(sentence, labels, self._definitions, self._demonstrations)
        known = self._prefixes.get(id(labels))
        if known is None or known[0] is not labels:
            if len(self._prefixes) > 64:
                self._prefixes.clear()
            known = labels, tuple(self._model.prefix_ids(prompt))
            self._prefixes[id(labels)] = known
        # Beams weigh all that was written, and free decoding writes what it likes.
        num_decided = window.end - window.context_start if self._is_greedy else None
        grounding = Grounding(form, sentence, labels.names, self._model.lexicon, num_decided)
        self._asked[self._num_requests] = job, job.num_asked, grounding
        self._num_requests += 1
        job.num_asked += 1
        request = Request(known[1], tuple(self._model.sentence_ids(prompt)), grounding)
        self._check_length(request, job)
        return request

    def _ask_nothing(self, job: _Job) -> Request:
        """Return what a text without words asks: no reading, but its turn.

        Without it a stream would be read as long as there are no words in it.
        """
        sentence = Sentence((), ())
        grounding = Grounding(self._model.format, sentence, job.labels.names, self._model.lexicon)
        self._asked[self._num_requests] = job, 0, grounding
        self._num_requests += 1
        return Request((), (), grounding)

    def _check_length(self, request: Request, job: _Job) -> None:
        limit = getattr(self._model.module.config, "max_position_embeddings", None)
        # The completion is about as long as the text that it copies.
        length = len(request.prefix_ids) + 2 * len(request.sentence_ids)
        if limit and length > limit and not any(_TOO_LONG in line for line in job.warnings):
            job.warnings.append(
                f"labels, definitions and text take about {length} tokens, {_TOO_LONG} for "
                f"{limit}: ask for fewer labels at once"
            )

    def _begin(self, text: str | Example, labels: LabelSet) -> _Job:
        if isinstance(text, Example):
            job = _Job(self._num_jobs, text.text, text.offsets, labels)
        elif isinstance(text, str):
            job = _Job(self._num_jobs, text, split_words(text), labels)
        else:
            raise TextError(
                f"a text must be a string, was: {text!r:.60} ({type(text).__name__}). "
                'Example: tagger("in Paris", ["city"])'
            )
        lexicon = self._model.lexicon
        job.warnings += coverage_warnings(job.text, job.offsets, lexicon.can_spell)
        if job.offsets:
            budget = self._model.config.max_words * _TOKENS_PER_WORD
            context = int(budget * _CONTEXT_SHARE)
            ids = lexicon.ids
            costs = [max(len(ids(job.text[a:b])), _TOKENS_PER_WORD) for a, b in job.offsets]
            if sum(costs) <= budget + context:
                job.windows = [Window(0, len(costs), 0, len(costs))]
            else:
                job.windows = split_text(job.text, job.offsets, budget, context, costs)
        job.found, job.window_warnings = [[] for _ in job.windows], [[] for _ in job.windows]
        self._num_jobs += 1
        return job


_TOO_LONG = "but the model was made"


def _cut_off(job: _Job, index: int, shown: set[tuple[int, int]]) -> list[str]:
    """Return a warning for an entity that ends where the model saw no further."""
    window = job.windows[index]
    if window.context_end == len(job.offsets):
        return []
    places = [
        (job.offsets[span.start][0], job.offsets[span.end - 1][1])
        for span, _ in job.found[index]
        if span.end == window.context_end
        and window.start <= span.start < window.end
        and (span.start, span.end) in shown
    ]
    return [
        f"the entity [{start}, {end}) reaches the end of what the model was shown at once and may "
        "go on behind it"
        for start, end in places
    ]


def check_threshold(limit: Any) -> None:
    """Check that a threshold is a probability.

    Raises:
        TextError: If it is not.
    """
    if not isinstance(limit, (int, float)) or not 0 <= limit <= 1:
        raise TextError(f"threshold must be a probability from 0 to 1, was: {limit!r}")


def _checked(demonstrations: Any) -> Sequence[Example]:
    is_list = isinstance(demonstrations, Iterable) and not isinstance(demonstrations, Example)
    shown = tuple(demonstrations) if is_list else (demonstrations,)
    if not is_list or not all(isinstance(example, Example) for example in shown):
        raise TextError(
            f"`demonstrations` must be a list of `Example`, was: {demonstrations!r:.80}. Example: "
            'Example.from_entities("in Oslo", [Entity("Oslo", "city", 3, 7)])'
        )
    return shown


def _check_shown(demonstrations: Sequence[Example], labels: LabelSet) -> None:
    """Check that demonstrations show something that is asked for, or they would teach that not."""
    given = {span.label for example in demonstrations for span in example.spans}
    asked = map(normalize_label, labels.names)
    if given and {normalize_label(name) for name in given}.isdisjoint(asked):
        raise LabelError(
            "no demonstration has a label that is asked for: theirs are "
            f"{sorted(given)!r:.120}, asked for are {list(labels.names)!r:.120}"
        )


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
    dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    config: EngineConfig | None = None,
    consistent: bool = False,
    decoding: Decoding = "grounded",
    num_beams: int = 1,
    num_workers: int = 1,
) -> Tagger:
    """Load a tagger.

    Args:
        name: A model that comes with nomina, a folder, or a hub id; an adapter or a full model,
            causal or encoder-decoder. Defaults to nomina's own.
        format: Name of the format, in place of the one that the model says it was trained on.
        dtype: "float32", "bfloat16" or "float16". Defaults to the fastest the machine has.
        device: Such as "cpu" or "cuda:0"; or a number as in transformers, -1 for the CPU. Defaults
            to a GPU if there is one.
        config: How much is read at once.
        consistent: Whether mentions of one string in one text agree; see `Tagger`.
        decoding: "grounded" or "free"; see `Tagger`.
        num_beams: Hypotheses that grounded decoding keeps; see `Tagger`.
        num_workers: Processes that read, each with a copy of the model and its share of the cores;
            see `workers`. Faster than threads for many texts, or long ones; with 1 this process
            reads itself.

    Raises:
        ModelError: If the model cannot be found or read, there is no such device or decoding, or
            `num_workers` is not for it.
        FormatError: If there is no such format.
        TextError: If there is no such dtype.
    """
    kind = _dtype(dtype)  # all of it before the time that loading takes
    place = _device(device)
    _check_decoding(decoding, num_beams)
    if num_workers == 1:
        workers = None
    elif isinstance(num_workers, int) and num_workers > 1 and decoding == "grounded":
        workers = _start_workers(num_workers, name, format, kind, place, config, num_beams)
        place = torch.device("cpu")
    else:
        raise ModelError(
            "num_workers must be a number from 1, and 1 with decoding='free', "
            f"were: num_workers={num_workers!r}, decoding={decoding!r}"
        )
    try:
        model = load_model(name, kind, place)
        if format is not None:
            model.format = get_format(format)
            model.config = dataclasses.replace(model.config, format=format)
        if workers is None:
            pack_linears(model.module)
            join_gates(model.module)
        else:
            model.module.to("meta")  # whoever asks others needs no weights
        # The calibration was fitted on the scores of grounded decoding.
        folder = model.folder if decoding == "grounded" else None
        tagger = Tagger(
            model,
            Calibration.load(folder) if folder else None,
            config,
            consistent=consistent,
            decoding=decoding,
            num_beams=num_beams,
        )
        if workers is not None:
            workers.wait()
            tagger.engine = workers
    except BaseException:
        if workers is not None:
            workers.close()
        raise
    return tagger


def _start_workers(
    num_workers: int,
    name: str | os.PathLike[str] | None,
    form: str | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
    config: EngineConfig | None,
    num_beams: int,
) -> WorkerEngine:
    if not sys.executable or getattr(sys, "frozen", False):
        raise ModelError("num_workers must be 1 in a frozen program: there is no Python to start")
    options = {
        "name": None if name is None else os.fspath(name),
        "format": form,
        "dtype": None if dtype is None else str(dtype),
        "device": None if device is None else str(device),
        "config": None if config is None else dataclasses.asdict(config),
        "num_beams": num_beams,
    }
    # A worker imports what this process does, but not a `random.py` of the working folder.
    paths = [path for path in sys.path if path]
    ours = str(FilePath(__file__).parents[1])
    # Who interrupts or ends all processes of a group means the one that started the workers: it may
    # want to finish. What libraries print, from their import on, is no answer.
    code = (
        f"import sys; sys.path[:] = {paths if ours in paths else [*paths, ours]!r}; "
        "import os, signal; "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "sink = os.dup(1); os.dup2(2, 1); "
        "from nomina.extractor import _work; _work(sink, sys.argv[1])"
    )
    return WorkerEngine([sys.executable, "-c", code, json.dumps(options)], num_workers, config)


def _work(sink: int, options: str) -> None:
    """Be a worker: load what the options say, and answer what comes through standard input."""

    def loaded() -> tuple[Engine | BeamEngine, LanguageModel]:
        given = json.loads(options)
        if given["config"] is not None:
            given["config"] = EngineConfig(**given["config"])
        tagger = load(**given)
        assert isinstance(tagger.engine, Engine | BeamEngine)
        return tagger.engine, tagger.model

    serve(loaded, sys.stdin.buffer, sink)


_DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float32, torch.bfloat16, torch.float16)}


def _dtype(dtype: Any) -> torch.dtype | None:
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if dtype is not None and found is None:
        raise TextError(f"dtype must be {', '.join(_DTYPES)} or None, was: {dtype!r}")
    return found


def _device(device: Any) -> torch.device | None:
    if device is None:
        return None
    name = device
    if isinstance(device, int):
        name = "cpu" if device < 0 else f"cuda:{device}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f'the device {device!r} cannot be used: {reason}. Give "cpu", or leave it out'
        ) from error
