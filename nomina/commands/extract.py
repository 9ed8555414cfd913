"""`nomina extract` and `nomina demo`: texts in, entities out.

Knows how to print documents and to keep count of what could not be read; the tagger does the rest.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nomina.commands.endings import user_errors, write_utf8
from nomina.corpora import Report
from nomina.documents import Document, documents_to_html, visible
from nomina.entities import LabelSet
from nomina.errors import LabelError, TextError
from nomina.labels import read_labels
from nomina.sources import Source, file_key, read_files

if TYPE_CHECKING:
    from rich.console import Console

    from nomina.extractor import Tagger

OUTPUTS = ("table", "text", "jsonl", "html")
DecodingOption = Annotated[
    str, typer.Option(help="grounded, or free: what `generate` would write, aligned afterwards.")
]
BeamsOption = Annotated[int, typer.Option(help="Hypotheses that grounded decoding keeps; slower.")]
WorkersOption = Annotated[
    int,
    typer.Option(
        help="Processes that read, each with a copy of the model: one for each core at most."
    ),
]

DEMO: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "A news item",
        "Siemens said on Tuesday it would buy Nordlys, a Danish maker of wind turbine sensors, "
        "for 120 million euros. Chief executive Roland Busch told reporters in Munich that the "
        "deal should close in March. Nordlys was founded in Aarhus in 2011 by Mette Holm.",
        {"company": "", "person": "", "city": "", "date": "", "money": ""},
    ),
    (
        "A contract clause",
        'This Supply Agreement is made on 3 March 2024 between Acme Robotics GmbH ("Supplier") '
        'and Borealis Foods Ltd. ("Customer"). It is governed by the laws of Norway. Either '
        "party may terminate it with a notice of ninety days; late payments bear interest of 4 "
        "percent.",
        {
            "contract party": "a company or person that signs the contract",
            "date": "",
            "governing law": "the country or state whose law applies",
            "duration": "a length of time",
            "percentage": "",
        },
    ),
    (
        "A biomedical abstract",
        "We treated 42 patients with metastatic melanoma who carried the BRAF V600E mutation "
        "with vemurafenib. Rash and fatigue were the most common adverse events. In mice, the "
        "loss of PTEN led to resistance, which trametinib reversed.",
        {"disease": "", "gene": "", "mutation": "", "drug": "", "symptom": "", "animal": ""},
    ),
)


class SideFile(Report):
    """A report that writes what cannot be read to a JSON lines file, at once.

    Not at the end, because a run over many files may be stopped, and its errors are worth as much
    as its results.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(skip_errors=True)
        self.path = path
        self.count = 0
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise TextError(f"{path}: cannot be written: {error.strerror}") from error

    def reject(self, place: str, reason: str, raw: str = "") -> None:
        """Write one line: file, line (or record), reason, and the record as far as it was read."""
        found = re.fullmatch(r"(.*?)(?::(\d+)|: (row|record|doc) (\d+))?", place, re.DOTALL)
        assert found
        file, line, unit, number = found.groups()
        row: dict[str, Any] = {"file": file, "line": int(line) if line else None}
        if unit:
            row[unit] = int(number)
        self._file.write(json.dumps(row | {"reason": reason, "raw": raw}) + "\n")
        self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _sources(
    texts: Sequence[str], files: Sequence[str], report: Report, text_column: str, by_line: bool
) -> Iterator[Source]:
    yield from map(Source, texts)
    names = files if files or texts else ["-"]
    outputs = {file_key(report.path)} if isinstance(report, SideFile) else set()
    with suppress(OSError, ValueError):  # what tests put in its place has no number
        outputs.add(file_key(sys.stdout.fileno()))
    yield from read_files(
        names,
        sys.stdin.buffer,
        report,
        text_column,
        by_line=by_line,
        written={key for key in outputs if key},
    )


def _labels(names: str | None, file: Path | None) -> LabelSet:
    if (names is None) == (file is None):
        raise typer.BadParameter(
            "give the entity types, either --labels actor,genre,year or --labels-file labels.toml"
        )
    if file is not None:
        return read_labels(file)
    parts = [part.strip() for part in str(names).split(",")]
    if not any(parts):
        raise LabelError(f"--labels must name at least one entity type, was: {names!r}")
    return LabelSet.of(parts)


def documents(
    tagger: Tagger, sources: Iterable[Source], labels: LabelSet, **options: Any
) -> Iterator[tuple[Document, Source]]:
    """Tag a stream of texts and give each document back with where its text stands."""
    under_way: deque[Source] = deque()

    def texts() -> Iterator[str]:
        for source in sources:
            under_way.append(source)
            yield source.text

    for document in tagger.pipe(texts(), labels, **options):
        yield document, under_way.popleft()


@contextmanager
def watched(tagger: Tagger) -> Iterator[None]:
    """Show on a terminal how much has been read, while it takes more than a moment."""
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
    from rich.text import Text

    class Windows(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{tagger.engine.usage.requests} passages read")

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), Windows(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield


def _console() -> Console:
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:  # rich would end the program with code 1
            raise BrokenPipeError

    return Ours()


def print_document(document: Document, title: str = "", labels: LabelSet | None = None) -> None:
    """Print a document as people like to look at one: the text in colours, then a table."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    heading = Text(visible(title)) if title else None
    table = Table(title=heading, title_justify="left")
    for name in ("label", "text"):
        table.add_column(name, overflow="fold")  # an entity is never shown in part
    for name in ("offsets", "score"):
        table.add_column(name, no_wrap=True)
    for entity in document:
        table.add_row(
            Text(entity.label),  # strings would be read as markup
            Text(visible(entity.text)),
            f"{entity.start}-{entity.end}",
            f"{entity.score:.2f}",
        )
    console.print(document.to_rich(labels))
    console.print(table if document.entities else "  no entities of these types", style=None)
    for warning in document.warnings:
        console.print(f"  warning: {warning}", style="yellow", markup=False)


def _print_all(
    tagger: Tagger,
    found: Iterator[tuple[Document, Source]],
    output: str,
    labels: LabelSet,
    names_files: bool,
) -> int:
    """Print documents as they are done; return how many."""
    if output == "html":
        with watched(tagger):
            shown = [document for document, _ in found]
        page = documents_to_html(shown, labels) + "\n"
        coding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(page.encode(coding, "xmlcharrefreplace").decode(coding))
        sys.stdout.flush()
        return len(shown)
    count = 0
    bar = watched(tagger)
    bar.__enter__()
    is_watching = True
    try:
        for document, source in found:
            count += 1
            if is_watching and output != "jsonl":
                bar.__exit__(None, None, None)
                is_watching = False
            if output == "jsonl":
                sys.stdout.write(_json_line(document, source, names_files))
                sys.stdout.flush()
            elif output == "text":
                _console().print(document.to_rich(labels, scores=True))
            else:
                title = source.file if names_files else ""
                print_document(document, title, labels)
    finally:
        if is_watching:
            bar.__exit__(None, None, None)
    return count


def _json_line(document: Document, source: Source, names_file: bool) -> str:
    record = document.to_dict()
    if source.id is not None:
        record["id"] = source.id
    if names_file and source.file:
        record["file"] = source.file
    line = json.dumps(record, ensure_ascii=False)
    # What standard output cannot write (half a surrogate pair; all but 256 characters in an old
    # locale) is named as JSON does.
    return (line if line.isascii() or _is_writable(line) else json.dumps(record)) + "\n"


def _is_writable(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _load(model: str | None, form: str | None, **options: Any) -> Tagger:
    import nomina

    return nomina.load(model, format=form, **options)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command("extract")
    def extract(
        texts: Annotated[
            list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, a document each.")
        ] = None,
        file: Annotated[
            list[str] | None,
            typer.Option(
                help="Text file, JSON lines with `text`, tables, corpora, or folders of such; may "
                "be given several times. - is standard input, also read if there is no text at all."
            ),
        ] = None,
        text_column: Annotated[
            str, typer.Option(help="Column or key with the text. Default: text.")
        ] = "",
        lines: Annotated[
            bool,
            typer.Option(
                "--lines", help="Each line of plain text is a text (logs); `id` is its number."
            ),
        ] = False,
        skip_errors: Annotated[
            Path | None,
            typer.Option(
                metavar="SIDEFILE",
                help="Go on after files and records that cannot be read; they are listed in this "
                "JSON lines file.",
            ),
        ] = None,
        labels: Annotated[
            str | None, typer.Option(help="Entity types in your words, separated by commas.")
        ] = None,
        labels_file: Annotated[
            Path | None, typer.Option(help="TOML, JSON or YAML file with definitions.")
        ] = None,
        model: Annotated[
            str | None, typer.Option(help="Model name, folder or hub id; nomina's own by default.")
        ] = None,
        threshold: Annotated[
            float | None, typer.Option(min=0, max=1, help="Leave out entities scored below it.")
        ] = None,
        form: Annotated[
            str | None,
            typer.Option("--format", help="gner or inline; the model's own by default."),
        ] = None,
        consistent: Annotated[
            bool,
            typer.Option("--consistent", help="Let mentions of one string in one text agree."),
        ] = False,
        decoding: DecodingOption = "grounded",
        beams: BeamsOption = 1,
        workers: WorkersOption = 1,
        output: Annotated[
            str, typer.Option(help="table, text, jsonl or html; jsonl if piped, else table.")
        ] = "",
    ) -> None:
        """Find entities in texts.

        Exit codes: 0 done; 1 a text, label, file or model cannot be used; 2 wrong usage; 3 done,
        but some records could not be read (--skip-errors).
        """
        chosen = output or ("table" if sys.stdout.isatty() else "jsonl")
        if chosen in ("jsonl", "html"):
            write_utf8()
        if chosen not in OUTPUTS:
            raise typer.BadParameter(f"--output must be one of {', '.join(OUTPUTS)}, was: {output}")
        with user_errors():
            label_set = _labels(labels, labels_file)
            files = file or []
            side = file_key(skip_errors) if skip_errors else None
            if side and side in {file_key(Path(name)) for name in files}:
                raise typer.BadParameter(f"--skip-errors would overwrite the input {skip_errors}")
            report = Report() if skip_errors is None else SideFile(skip_errors)
            tagger = _load(
                model,
                form,
                consistent=consistent,
                decoding=decoding,
                num_beams=beams,
                num_workers=workers,
            )
            sources = _sources(texts or (), files, report, text_column, lines)
            found = documents(tagger, sources, label_set, threshold=threshold)
            names_files = len(files) > 1 or any(os.path.isdir(name) for name in files)
            count = _print_all(tagger, found, chosen, label_set, names_files)
        for line in report.lines():  # texts that an annotator rejected, for one
            typer.echo(f"note: {line}", err=True)
        if isinstance(report, SideFile):
            report.close()
            if report.count:
                typer.echo(
                    f"{count} texts read; {report.count} records or files could not be read and "
                    f"are listed in {skip_errors}",
                    err=True,
                )
                raise typer.Exit(3)

    @app.command("demo")
    def demo(
        model: Annotated[
            str | None, typer.Option(help="Model name, folder or hub id; nomina's own by default.")
        ] = None,
    ) -> None:
        """Show what nomina finds in a news item, a contract clause and a biomedical abstract."""
        with user_errors():
            tagger = _load(model, None)
            for title, text, labels in DEMO:
                label_set = LabelSet.of(labels)
                print_document(tagger(text, label_set), title, label_set)
