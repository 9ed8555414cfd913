"""`nomina extract` and `nomina demo`: texts in, entities out.

Knows how to read texts and print documents; the tagger does the rest.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from nomina.documents import Document, documents_to_html, visible
from nomina.entities import LabelSet
from nomina.errors import LabelError, NominaError, TextError
from nomina.labels import read_labels

if TYPE_CHECKING:
    from nomina.extractor import Tagger

OUTPUTS = ("table", "text", "jsonl", "html")
DecodingOption = Annotated[
    str, typer.Option(help="grounded, or free: what `generate` would write, aligned afterwards.")
]
BeamsOption = Annotated[
    int, typer.Option(help="Hypotheses that grounded decoding keeps; slower, a little better.")
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


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that nomina raises on purpose into one line and exit code 1."""
    try:
        yield
    except NominaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def read_texts(stream: IO[bytes], name: str) -> Iterator[tuple[str, Any]]:
    """Yield texts with their ids: a JSON object with `text` a line, or else one document.

    Args:
        stream: Bytes; read line by line if it is JSON lines, so it may be endless.
        name: Of the file, for messages.

    Raises:
        TextError: If the bytes are not UTF-8, or a line after the first is no such object; names
            the line.
    """
    lines = _decoded(stream, name)
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    if not head or _record(head[-1]) is None:
        yield "".join(itertools.chain(head, lines)), None
        return
    for number, line in enumerate(itertools.chain(head, lines), 1):
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            raise TextError(
                f"{name}:{number}: expected a JSON object with a string `text` like the lines "
                f"before it, was: {line.strip()[:60]!r}"
            )
        yield record["text"], record.get("id")


def _decoded(stream: IO[bytes], name: str) -> Iterator[str]:
    position = 0
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"{name}:{number}: not UTF-8 at byte {position + error.start}: "
                f"{line[error.start : error.start + 4]!r}. Convert it, for instance with: "
                f"iconv -f latin1 -t utf-8 {name}"
            ) from error
        position += len(line)


def _record(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_text = isinstance(record, dict) and isinstance(record.get("text"), str)
    return record if is_text else None


def _sources(texts: Sequence[str], file: str | None) -> Iterator[tuple[str, Any]]:
    if texts:
        yield from ((text, None) for text in texts)
    if file is not None and file != "-":
        try:
            stream = open(file, "rb")
        except OSError as error:
            raise TextError(f"cannot read {file}: {error.strerror}") from error
        with stream:
            yield from read_texts(stream, file)
    elif file == "-" or not texts:
        yield from read_texts(sys.stdin.buffer, "standard input")


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
    tagger: Tagger, sources: Iterable[tuple[str, Any]], labels: LabelSet, **options: Any
) -> Iterator[tuple[Document, Any]]:
    """Tag a stream of texts and give each document back with its text's id."""
    ids: list[Any] = []

    def texts() -> Iterator[str]:
        for text, name in sources:
            ids.append(name)
            yield text

    for document in tagger.pipe(texts(), labels, **options):
        yield document, ids.pop(0)


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


def print_document(document: Document, title: str = "", labels: LabelSet | None = None) -> None:
    """Print a document as people like to look at one: the text in colours, then a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("label", "text", "offsets", "score", title=title or None, title_justify="left")
    for entity in document:
        table.add_row(
            entity.label,
            visible(entity.text),
            f"{entity.start}-{entity.end}",
            f"{entity.score:.2f}",
        )
    console.print(document.to_rich(labels))
    console.print(table if document.entities else "  no entities of these types", style=None)
    for warning in document.warnings:
        console.print(f"  warning: {warning}", style="yellow", markup=False)


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
            str | None,
            typer.Option(
                help="File of text or JSON lines with `text`; - for standard input, which is "
                "also read if there is no text at all."
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
        decoding: DecodingOption = "grounded",
        beams: BeamsOption = 1,
        output: Annotated[
            str, typer.Option(help="table, text, jsonl or html; jsonl if piped, else table.")
        ] = "",
    ) -> None:
        """Find entities in texts.

        Exit codes: 0 done; 1 a text, label, file or model cannot be used; 2 wrong usage.
        """
        chosen = output or ("table" if sys.stdout.isatty() else "jsonl")
        if chosen not in OUTPUTS:
            raise typer.BadParameter(f"--output must be one of {', '.join(OUTPUTS)}, was: {output}")
        with user_errors():
            label_set = _labels(labels, labels_file)
            tagger = _load(model, form, decoding=decoding, num_beams=beams)
            found = documents(tagger, _sources(texts or (), file), label_set, threshold=threshold)
            if chosen == "html":
                with watched(tagger):
                    shown = [document for document, _ in found]
                typer.echo(documents_to_html(shown, label_set))
                return
            bar = watched(tagger)
            bar.__enter__()
            is_watching = True
            try:
                for document, name in found:
                    if is_watching and chosen != "jsonl":
                        bar.__exit__(None, None, None)
                        is_watching = False
                    if chosen == "jsonl":
                        record = document.to_dict() | ({} if name is None else {"id": name})
                        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
                        sys.stdout.flush()
                    elif chosen == "text":
                        from rich.console import Console

                        Console().print(document.to_rich(label_set, scores=True))
                    else:
                        print_document(document, labels=label_set)
            finally:
                if is_watching:
                    bar.__exit__(None, None, None)

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
