"""`nomina evaluate`, `nomina score` and `nomina compare`: how good predictions are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from nomina import reports
from nomina.commands.endings import user_errors, write_utf8
from nomina.commands.extract import BeamsOption, DecodingOption, WorkersOption
from nomina.corpora.files import read_text
from nomina.errors import DataError
from nomina.evaluation import METRICS, NUM_RESAMPLES
from nomina.protocols import PROTOCOLS
from nomina.scoring import (
    MODES,
    EvaluationPlan,
    Matching,
    Outputs,
    Result,
    compare_files,
    evaluate_model,
    score_files,
)

if TYPE_CHECKING:
    from rich.console import Console


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _output() -> Console:
    """Standard output; tables are not squeezed into 80 columns when it is a file or a pipe."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=160)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console()) as bar:
        ids: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in ids:
                ids[name] = bar.add_task(name, total=total)
            bar.update(ids[name], completed=done)

        yield show


def _print(result: Result, *, as_json: bool, has_errors: bool) -> None:
    console = _console()
    for note in result.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        write_utf8()
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    out = _output()
    out.print(reports.score_table(result.evaluation, result.model))
    if has_errors:
        for table in reports.error_tables(result.analysis):
            out.print(table)
    if result.calibration:
        ece, best = result.calibration["ece"], result.calibration["best_threshold"]
        out.print(
            f"scores of entities: calibration error {ece:.4f}, best strict F1 "
            f"{100 * best['f1']:.1f} at threshold {best['threshold']:.3f}",
            highlight=False,
        )


def _names(values: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    parts = [part.strip() for value in values or () for part in value.split(",")]
    return tuple(part for part in parts if part) or default


def _seen(path: Path | None) -> tuple[str, ...] | None:
    """Labels of a file: a line each, or a JSON list, or an object with `labels`."""
    if path is None:
        return None
    text = read_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is not JSON: {error}") from error
        labels = data.get("labels") if isinstance(data, dict) else data
        if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
            raise DataError(f"{path}: must be a list of labels, or an object with `labels`")
        return tuple(labels)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


_MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", help=f"One or more of {', '.join(METRICS)}, or all."),
]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")]
_ReportOption = Annotated[
    Path | None, typer.Option(help="Write one self-contained HTML page with plots.")
]
_SeenOption = Annotated[
    Path | None,
    typer.Option("--seen-labels", help="Labels of the training data: a line each, or JSON."),
]
_DropOption = Annotated[
    list[str] | None, typer.Option("--drop", help="Label to leave out of gold and predictions.")
]
_ErrorsOption = Annotated[bool, typer.Option("--errors/--no-errors", help="Print the errors.")]
_SeedOption = Annotated[int, typer.Option(help="Seed of subsets and of the bootstrap.")]


def evaluate_command(
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[DATA]...", help="Further corpora.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name or folder; the embedded model by default.")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Corpora: NAME:SPLIT of NOMINA_DATA, or files. Default: those of the protocol."
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help=f"Named configuration: {', '.join(PROTOCOLS)}.")
    ] = "zero-shot",
    metric: _MetricOption = None,
    limit: Annotated[
        int | None, typer.Option(help="Sentences of each corpus, drawn at random.")
    ] = None,
    seed: _SeedOption = 0,
    threshold: Annotated[
        float | None,
        typer.Option(help="Drop entities with a lower score. Default: the model's own threshold."),
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option(help="TOML, JSON or YAML file of the labels to ask for; the data's if none."),
    ] = None,
    definitions: Annotated[
        bool | None,
        typer.Option(
            "--definitions/--no-definitions",
            help="Define labels in the prompt; only those of --labels-file if not given.",
        ),
    ] = None,
    drop: _DropOption = None,
    fit_temperature: Annotated[
        bool,
        typer.Option("--fit-temperature", help="Fit a temperature and save it with the model."),
    ] = False,
    decoding: DecodingOption = "grounded",
    beams: BeamsOption = 1,
    workers: WorkersOption = 1,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. Default: nomina-evaluation/MODEL."),
    ] = None,
    report: _ReportOption = None,
    seen_labels: _SeenOption = None,
    errors: _ErrorsOption = True,
    as_json: _JsonOption = False,
) -> None:
    """Predict corpora with a model and score the predictions.

    A killed evaluation goes on where it stopped when it is started again with the same settings.
    Exit codes: 0 done; 1 a corpus, model or folder cannot be used; 2 wrong usage.
    """
    with user_errors():
        plan = EvaluationPlan(
            model,
            (*(data or ()), *(more or ())),
            protocol,
            _names(metric, ()),
            limit,
            seed,
            threshold,
            definitions,
            "" if labels_file is None else str(labels_file),
            tuple(drop or ()),
            fit_temperature,
            decoding,
            beams,
            workers,
        )
        outputs = Outputs(report, output, _seen(seen_labels))
        with _progress() as show:
            result = evaluate_model(plan, outputs, progress=show)
        _print(result, as_json=as_json, has_errors=errors)


def score_command(
    predictions: Annotated[
        list[Path], typer.Argument(help="JSON lines of nomina or of GNER, plain or .gz.")
    ],
    metric: _MetricOption = None,
    matching: Annotated[
        str,
        typer.Option(
            "--alignment", help="How completions are put onto words: published (GNER's) or best."
        ),
    ] = "published",
    unknown: Annotated[
        str, typer.Option(help="Labels outside the set: report (as O) or nearest.")
    ] = "report",
    gold: Annotated[
        str | None, typer.Option(help="Gold by id: NAME:SPLIT or a file. Default: in the files.")
    ] = None,
    drop: _DropOption = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Score predictions that cannot be read as empty.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for scores.json and analysis.json.")
    ] = None,
    report: _ReportOption = None,
    seen_labels: _SeenOption = None,
    resamples: Annotated[int, typer.Option(min=0, help="Size of the bootstrap.")] = NUM_RESAMPLES,
    seed: _SeedOption = 0,
    errors: _ErrorsOption = False,
    as_json: _JsonOption = False,
) -> None:
    """Score files of predictions; needs no model.

    Exit codes: 0 done; 1 a file cannot be read or does not match its gold; 2 wrong usage.
    """
    with user_errors():
        result = score_files(
            predictions,
            _names(metric, ("strict", "gner")),
            matching=_matching(matching),
            unknown=_unknown(unknown),
            gold=gold,
            drop=tuple(drop or ()),
            is_lenient=lenient,
            outputs=Outputs(report, output, _seen(seen_labels)),
            num_resamples=resamples,
            seed=seed,
        )
        _print(result, as_json=as_json, has_errors=errors)


def compare_command(
    first: Annotated[Path, typer.Argument(help="Predictions of one system.")],
    second: Annotated[Path, typer.Argument(help="Predictions of another, same sentences.")],
    metric: _MetricOption = None,
    alignment: Annotated[
        str,
        typer.Option(
            help="published or best, or two of them with a comma between, one for each file."
        ),
    ] = "published",
    gold: Annotated[str | None, typer.Option(help="Gold by id: NAME:SPLIT or a file.")] = None,
    drop: _DropOption = None,
    seed: _SeedOption = 0,
    as_json: _JsonOption = False,
) -> None:
    """Compare two systems: difference, its interval, paired bootstrap and McNemar's test.

    Exit codes: 0 done; 1 the files cannot be read or hold other sentences; 2 wrong usage.
    """
    with user_errors():
        ways = [_matching(part.strip()) for part in alignment.split(",")]
        if len(ways) > 2:
            raise DataError(f"--alignment must be one or two ways, was: {alignment!r}")
        found = compare_files(
            first,
            second,
            _names(metric, ("strict",)),
            matching=(ways[0], ways[-1]),
            gold=gold,
            drop=tuple(drop or ()),
            seed=seed,
        )
    if as_json:
        body = {n: {m: c.to_dict() for m, c in row.items()} for n, row in found.items()}
        average = body.pop("average", next(iter(body.values())) if len(body) == 1 else {})
        names = {"first": str(first), "second": str(second)}
        write_utf8()
        typer.echo(json.dumps({"corpora": body, "average": average, **names}, ensure_ascii=False))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{first.name} and {second.name}"), title_justify="left")
    for name in ("corpus", "metric"):
        table.add_column(name)
    for name in ("first", "second", "difference", "95 % interval", "p (bootstrap)", "p (McNemar)"):
        table.add_column(name, justify="right")
    for corpus, row in found.items():
        for metric_name, item in row.items():
            table.add_row(
                escape(corpus),
                metric_name,
                f"{100 * item.first:.2f}",
                f"{100 * item.second:.2f}",
                f"{100 * item.delta:+.2f}",
                f"{100 * item.low:+.2f} – {100 * item.high:+.2f}",
                f"{item.p_bootstrap:.4f}",
                f"{item.p_mcnemar:.4f} ({item.only_first}:{item.only_second})",
            )
    _output().print(table)


def _matching(name: str) -> Matching:
    if name not in MODES:
        raise DataError(f"--alignment must be published or best, was: {name!r}")
    return cast("Matching", name)


def _unknown(name: str) -> Literal["report", "nearest"]:
    if name not in ("report", "nearest"):
        raise DataError(f"--unknown must be report or nearest, was: {name!r}")
    return cast("Literal['report', 'nearest']", name)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("evaluate")(evaluate_command)
    app.command("score")(score_command)
    app.command("compare")(compare_command)
