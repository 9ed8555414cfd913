"""Files of predictions, or a model and corpora, in; scores and everything beside them out.

`score_files`, `evaluate_model` and `compare_files` are what the commands of the same names do, for
programs: they read, count, and write report, scores and predictions where they are told to.

Knows neither terminals nor options of a command line, and loads a model only to evaluate it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from nomina import calibration, reports
from nomina.analysis import Analysis, analyze
from nomina.comparison import Comparison, compare_average
from nomina.corpora import read_corpus
from nomina.corpora.files import write_whole
from nomina.entities import Example, LabelSet, Span, normalize_label
from nomina.errors import DataError
from nomina.evaluation import (
    MEASURES,
    NUM_RESAMPLES,
    Evaluation,
    check_metrics,
    evaluate,
)
from nomina.labels import read_labels
from nomina.predictions import (
    SURROGATES,
    Prediction,
    PredictionSet,
    read_predictions,
)
from nomina.protocols import Protocol, drop_labels, get_protocol, unseen_labels
from nomina.runs import SCORES, Run, Tagger, Task, file_name, run_tasks

Matching = Literal["published", "best"]
MODES: dict[str, Literal["gner", "best"]] = {"published": "gner", "best": "best"}


@dataclass(frozen=True)
class Outputs:
    """What is written beside the table.

    Attributes:
        report: HTML page to write.
        folder: Folder for `scores.json`, `analysis.json` and the predictions.
        seen_labels: Labels of the model's training data, if known.
    """

    report: Path | None = None
    folder: Path | None = None
    seen_labels: tuple[str, ...] | None = None


@dataclass
class Result:
    """What a command found, ready to print.

    Attributes:
        evaluation: The scores.
        model: What was evaluated.
        seconds: How long it took.
        predictions: What was scored, all corpora together.
        seen_labels: Labels of the model's training data, if known.
        notes: Lines a user should read: what was odd, how completions fitted.
    """

    evaluation: Evaluation
    model: str
    seconds: float
    predictions: list[Prediction] = field(repr=False)
    seen_labels: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)

    @functools.cached_property
    def analysis(self) -> Analysis:
        """The errors over all corpora."""
        return analyze(self.predictions, self.seen_labels)

    @functools.cached_property
    def calibration(self) -> dict[str, Any] | None:
        """How good the scores of entities are; nothing if they have none."""
        return calibration.summarize(self.predictions)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as `--json` prints them."""
        return self.evaluation.to_dict(self.model, self.seconds)

    def save(self, outputs: Outputs) -> None:
        """Write the files that were asked for.

        Raises:
            DataError: If one cannot be written.
        """
        try:
            if outputs.folder is not None:
                outputs.folder.mkdir(parents=True, exist_ok=True)
                details = {
                    "errors": self.analysis.to_dict(),
                    "calibration": self.calibration,
                    "notes": self.notes,
                }
                _write(outputs.folder / "analysis.json", _json(details))
                _write(outputs.folder / SCORES, _json(self.to_dict()))
            if outputs.report is not None:
                page = reports.render_html(
                    f"nomina: {self.model}",
                    self.evaluation,
                    self.analysis,
                    self.calibration,
                    self.notes,
                )
                outputs.report.parent.mkdir(parents=True, exist_ok=True)
                _write(outputs.report, page)
        except OSError as error:
            raise DataError(f"cannot write results: {error}") from error


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    """Write a file whole; half a surrogate pair, which UTF-8 lacks, is named as JSON does."""
    with write_whole(path) as file:
        file.write(text.encode("utf-8", SURROGATES).decode("utf-8"))


def _result(
    corpora: Mapping[str, Sequence[Prediction]],
    metrics: Sequence[str],
    model: str,
    seconds: float,
    notes: list[str],
    outputs: Outputs,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Result:
    rows = [row for items in corpora.values() for row in items]
    result = Result(
        evaluate(corpora, metrics, num_resamples=num_resamples, seed=seed),
        model,
        seconds,
        rows,
        outputs.seen_labels,
        notes,
    )
    result.save(outputs)
    return result


# --------------------------------------------------------------------------------------------------
# Score


def score_files(
    paths: Sequence[Path],
    metrics: Sequence[str] = ("strict", "gner"),
    *,
    matching: Matching = "published",
    unknown: Literal["report", "nearest"] = "report",
    gold: str | None = None,
    drop: Sequence[str] = (),
    is_lenient: bool = False,
    outputs: Outputs | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Result:
    """Score files of predictions.

    Args:
        paths: JSON lines, see `nomina.predictions`; several files are put together, and together
            they hold each sentence once.
        metrics: Names of metrics, or "all".
        matching: How completions are put onto words: as published by GNER, or better.
        unknown: What becomes of labels outside the set; see `alignment.align`.
        gold: `NAME:SPLIT` or a file with the gold, matched by id, in place of gold in the files.
        drop: Labels to leave out of gold and predictions.
        is_lenient: Whether predictions that cannot be read are scored as empty.
        outputs: What to write.
        num_resamples: Size of the bootstrap.
        seed: Its seed.

    Raises:
        DataError: If a file cannot be read or does not match its gold.
    """
    begun = time.perf_counter()
    metrics = check_metrics(metrics)
    outputs = outputs or Outputs()
    model = " ".join(path.name for path in paths)
    found = _read(paths, matching, unknown, gold, drop, is_lenient)
    notes = found.problems.lines()
    if found.alignments.statuses:
        notes.append(f"Completions of {model}, matched the {matching} way:")
        notes += [f"  {line}" for line in found.alignments.table().split("\n")]
        if matching == "best":
            plain = _read(paths, "published", unknown, gold, drop, is_lenient)
            notes += _gain(plain, found, metrics, num_resamples, seed)
    return _result(
        found.by_corpus(),
        metrics,
        model,
        round(time.perf_counter() - begun, 3),
        notes,
        outputs,
        num_resamples,
        seed,
    )


def _read(
    paths: Sequence[Path],
    matching: Matching,
    unknown: Literal["report", "nearest"],
    gold: str | None,
    drop: Sequence[str],
    is_lenient: bool,
) -> PredictionSet:
    return read_predictions(
        *paths,
        mode=MODES[matching],
        unknown=unknown,
        gold=None if gold is None else read_corpus(gold).examples,
        drop=drop,
        is_lenient=is_lenient,
    )


def _gain(
    plain: PredictionSet,
    better: PredictionSet,
    metrics: Sequence[str],
    num_resamples: int,
    seed: int,
) -> list[str]:
    """What the better matching adds to each metric, with its interval."""
    out = []
    for metric in metrics:
        if metric in MEASURES:
            found = compare_average(
                plain.by_corpus(), better.by_corpus(), metric, max(num_resamples, 100), seed
            )
            out.append(
                f"Better matching adds {100 * found.delta:+.2f} {metric} F1 on average "
                f"({100 * found.first:.2f} -> {100 * found.second:.2f}, 95 % interval "
                f"{100 * found.low:+.2f} to {100 * found.high:+.2f})"
            )
    return out


# --------------------------------------------------------------------------------------------------
# Evaluate


@dataclass(frozen=True)
class EvaluationPlan:
    """What `nomina evaluate` does.

    Attributes:
        model: Name or folder of the model; the embedded default if empty.
        data: Corpora as `NAME:SPLIT` or files; those of the protocol if empty.
        protocol: A named configuration; says which labels are left out.
        metrics: Names of metrics.
        limit: Sentences of each corpus, drawn with `seed`; all if nothing.
        seed: Seed of the draw and of the bootstrap.
        threshold: Entities below this score are not predicted. Defaults to the model's own, or to 0
            where a temperature is fitted, which needs them all.
        has_definitions: Whether labels are asked for with definitions: those of `labels`, else the
            corpus's own, else those of `label_cards.jsonl` in `NOMINA_DATA`. Defaults to whether
            there is a file of labels.
        labels: File of the labels to ask for in all sentences; what the corpora say if empty.
        drop: Further labels to leave out.
        fits_temperature: Whether to fit a temperature on what was predicted and save it.
        decoding: "grounded" or "free".
        num_beams: Hypotheses that grounded decoding keeps.
        num_workers: Processes that read.
    """

    model: str = ""
    data: tuple[str, ...] = ()
    protocol: str = "zero-shot"
    metrics: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    threshold: float | None = None
    has_definitions: bool | None = None
    labels: str = ""
    drop: tuple[str, ...] = ()
    fits_temperature: bool = False
    decoding: str = "grounded"
    num_beams: int = 1
    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.fits_temperature and self.decoding != "grounded":
            raise DataError(
                "--fit-temperature is for the scores of grounded decoding, was given with "
                f"--decoding {self.decoding}"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise DataError(f"--threshold must be from 0 to 1, was: {self.threshold}")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"--limit must be at least 1, was: {self.limit}")


def evaluate_model(
    plan: EvaluationPlan,
    outputs: Outputs | None = None,
    *,
    load: Callable[[str | None], Tagger] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Predict corpora with a model and score the predictions.

    Predictions go to the output folder as they come; a killed evaluation with the same settings
    goes on where it stopped.

    Args:
        plan: What to do.
        outputs: Where to write; the folder defaults to `nomina-evaluation/` and the model's name.
        load: Makes the tagger from the model's name. Defaults to `nomina.load`.
        progress: Called with a corpus, sentences done and sentences in all.

    Raises:
        DataError: If a corpus cannot be read, or the folder holds another evaluation.
    """
    outputs = outputs or Outputs()
    protocol = get_protocol(plan.protocol)
    metrics = check_metrics(plan.metrics or protocol.metrics)
    tasks, notes = _tasks(plan, protocol, outputs.seen_labels)
    name = plan.model or "default"
    folder = outputs.folder or Path("nomina-evaluation") / (file_name(name) or "model")
    outputs = dataclasses.replace(outputs, folder=folder)
    settings = {
        "model": name,
        "fingerprint": _fingerprint(name),
        "data": [f"{task.source} ({len(task.examples)})" for task in tasks],
        "protocol": plan.protocol,
        "limit": plan.limit,
        "seed": plan.seed,
        "threshold": plan.threshold,
        "definitions": _is_defined(plan),
        "drop": list(plan.drop),
        # Only what is not the default, so that runs from before these settings can go on.
        **({"decoding": plan.decoding} if plan.decoding != "grounded" else {}),
        **({"num_beams": plan.num_beams} if plan.num_beams != 1 else {}),
        **({"labels": str(read_labels(plan.labels))} if plan.labels else {}),
    }

    def load_default(model: str | None) -> Tagger:
        return _load(model, plan)

    loader = load or load_default

    def load_tagger() -> Tagger:
        return loader(plan.model or None)

    threshold = 0.0 if plan.threshold is None and plan.fits_temperature else plan.threshold
    run = run_tasks(load_tagger, tasks, folder, settings, threshold=threshold, progress=progress)
    notes += _run_notes(run, folder)
    if plan.fits_temperature:
        notes.append(_fit(run, name, folder))
    return _result(
        run.predictions, metrics, name, round(run.seconds, 3), notes, outputs, seed=plan.seed
    )


def _load(model: str | None, plan: EvaluationPlan) -> Tagger:
    from nomina.extractor import load

    options: dict[str, Any] = {
        "decoding": plan.decoding,
        "num_beams": plan.num_beams,
        "num_workers": plan.num_workers,
    }
    return cast("Tagger", load(model, **options))


def _tasks(
    plan: EvaluationPlan, protocol: Protocol, seen: Sequence[str] | None
) -> tuple[list[Task], list[str]]:
    if protocol.is_unseen_only and seen is None:
        raise DataError(
            f"protocol {protocol.name!r} needs the labels of the training data: --seen-labels FILE"
        )
    known = read_labels(plan.labels) if plan.labels else None
    definitions = None
    if _is_defined(plan):
        definitions = {} if known else _definitions()  # the file's own
    tasks, notes = [], []
    for data in plan.data or protocol.corpora:
        is_path = Path(data).exists()
        source = data if is_path or ":" in data else f"{data}:{protocol.split}"
        corpus = read_corpus(source)
        notes += [f"{source}: {warning}" for warning in corpus.warnings]
        dropped = [*protocol.dropped_labels(Path(data).name), *plan.drop]
        if protocol.is_unseen_only:
            kept = unseen_labels(corpus.labels.names, seen or ())
            dropped += [label for label in corpus.labels.names if label not in kept]
        out = {normalize_label(label) for label in dropped}
        named = [label for label in corpus.labels.names if normalize_label(label) in out]
        examples, labels = corpus.examples, corpus.labels
        if named:
            count = sum(span.label in named for example in examples for span in example.spans)
            examples, labels = drop_labels(examples, labels, named)
            notes.append(
                f"{source}: {', '.join(named)} neither asked for nor gold "
                f"({count} entities; protocol {protocol.name})"
            )
        if known is not None:
            examples = _spelled(examples, known, f"{plan.labels}, but in {source}")
            labels = LabelSet(tuple(x for x in known if normalize_label(x.name) not in out))
        task = Task(corpus.name, examples, labels, source)
        tasks.append(task.limited(plan.limit, plan.seed).defined(definitions).grouped())
    sources = [task.source for task in tasks]
    if doubled := {source for source in sources if sources.count(source) > 1}:
        raise DataError(f"--data names {sorted(doubled)} more than once")
    names = [task.name for task in tasks]
    return [  # two splits of a corpus need their splits in their names
        dataclasses.replace(task, name=task.source) if names.count(task.name) > 1 else task
        for task in tasks
    ], notes


def _is_defined(plan: EvaluationPlan) -> bool:
    return bool(plan.labels) if plan.has_definitions is None else plan.has_definitions


def _spelled(examples: Sequence[Example], known: LabelSet, places: str) -> list[Example]:
    """Return sentences with labels spelled as in a label set, which holds for all of them."""
    names = {normalize_label(label.name): label.name for label in known}
    found = dict.fromkeys(span.label for example in examples for span in example.spans)
    if unknown := [label for label in found if normalize_label(label) not in names]:
        raise DataError(
            f"labels not in {places}: {', '.join(map(repr, unknown))}. Add them to the file, or "
            "leave them out with --drop."
        )
    return [
        dataclasses.replace(
            example,
            spans=tuple(Span(a, b, names[normalize_label(label)]) for a, b, label in example.spans),
            labels=None,
        )
        for example in examples
    ]


def _definitions() -> dict[str, str]:
    """Definitions of labels from `label_cards.jsonl`, if `NOMINA_DATA` has it."""
    root = os.environ.get("NOMINA_DATA")
    path = Path(root or ".") / "label_cards.jsonl"
    if not root or not path.is_file():
        return {}
    out = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                label, definition, *_ = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: is no [type, definition, ...]") from error
            out[normalize_label(str(label))] = " ".join(str(definition).split())
    return out


def _fingerprint(model: str) -> str:
    """What tells a retrained model from the one that an unfinished run began with."""
    folder = Path(model)
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stamps = [
        f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in files
        if path.name != calibration.FILE_NAME
    ]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]


def _run_notes(run: Run, folder: Path) -> list[str]:
    out = run.problems.lines()
    if run.num_resumed:
        out.append(f"{run.num_resumed} sentences were taken from the earlier, unfinished run")
    out.append(f"Predictions and scores are in {folder}")
    return out


def _fit(run: Run, model: str, folder: Path) -> str:
    rows = [row for items in run.predictions.values() for row in items]
    scores, correct, _ = calibration.scored_entities(rows)
    target = Path(model) if Path(model).is_dir() else folder
    fitted = calibration.fit_temperature(scores, correct)
    before = calibration.Calibration.load(target).temperature if target != folder else 1.0
    # The scores may have been calibrated already; temperatures multiply.
    final = dataclasses.replace(fitted, temperature=fitted.temperature * before)
    path = final.save(target)
    return (
        f"Temperature {final.temperature:.4f} fitted on {fitted.num_entities} entities "
        f"(calibration error {fitted.ece_before:.4f} -> {fitted.ece_after:.4f}), saved in {path}"
    )


# --------------------------------------------------------------------------------------------------
# Compare


def compare_files(
    first: Path,
    second: Path,
    metrics: Sequence[str] = ("strict",),
    *,
    matching: tuple[Matching, Matching] = ("published", "published"),
    gold: str | None = None,
    drop: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, dict[str, Comparison]]:
    """Compare two files of predictions on the same sentences.

    Args:
        first: Predictions of one system.
        second: Predictions of another; its sentences are put in the order of the first's by id.
        metrics: Names of metrics, without macro; "all" for all others.
        matching: How completions of each file are put onto words.
        gold: The gold, as in `score_files`.
        drop: Labels to leave out.
        seed: Seed of the bootstrap.

    Returns:
        Metric to comparison, for each corpus and, if there are several, for `average`.

    Raises:
        DataError: If the files cannot be read, or hold other sentences.
    """
    names = tuple(name for name in check_metrics(metrics) if name != "macro")
    if not names:
        raise DataError("macro F1 cannot be compared in pairs; use strict")
    a = _read([first], matching[0], "report", gold, drop, False).by_corpus()
    b = _read([second], matching[1], "report", gold, drop, False).by_corpus()
    if set(a) != set(b):
        raise DataError(
            f"both files must have the same corpora, but {first.name} has {sorted(a)} "
            f"and {second.name} has {sorted(b)}"
        )
    ordered = {name: _in_order(a[name], b[name], name) for name in a}
    groups = {name: [name] for name in a}
    if len(a) > 1:
        groups["average"] = list(a)
    return {
        name: {
            metric: compare_average(
                {k: a[k] for k in members}, {k: ordered[k] for k in members}, metric, seed=seed
            )
            for metric in names
        }
        for name, members in groups.items()
    }


def _in_order(
    first: Sequence[Prediction], second: Sequence[Prediction], name: str
) -> Sequence[Prediction]:
    ids = [row.id for row in first]
    if not all(ids) or not all(row.id for row in second):
        return second
    by_id = {row.id: row for row in second}
    missing = [i for i in ids if i not in by_id]
    extra = set(by_id) - set(ids)
    if missing or extra:
        shown = ", ".join(repr(i) for i in [*missing, *sorted(extra)][:5])
        raise DataError(
            f"{name}: {len(missing)} sentences are only in the first file and {len(extra)} only in "
            f"the second: {shown}. Compare the same sentences."
        )
    return [by_id[i] for i in ids]
