"""`nomina convert`: a corpus from one file format to another, with every loss named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from nomina.commands.endings import user_errors, write_utf8
from nomina.corpora import (
    DEFAULT_OPTIONS,
    FORMATS,
    FileOptions,
    Report,
    find_format,
    guess_format,
    read_examples,
    resolve_source,
    write_examples,
)
from nomina.corpora.files import write_whole
from nomina.entities import SCHEMES, Example
from nomina.errors import DataError


@dataclass
class Conversion:
    """What was converted and what was lost.

    Attributes:
        source: Format read.
        target: Format written.
        num_examples: Texts written.
        num_words: Words in them.
        num_entities: Entities in them.
        labels: Entities of each label.
        read: What reading lost.
        written: What writing lost.
        errors: Where the records that could not be read were written to; empty for none.
    """

    source: str
    target: str
    num_examples: int = 0
    num_words: int = 0
    num_entities: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    read: Report = field(default_factory=Report)
    written: Report = field(default_factory=Report)
    errors: str = ""

    def count(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Hand examples through and count them."""
        for example in examples:
            self.num_examples += 1
            self.num_words += len(example.offsets)
            self.num_entities += len(example.spans)
            for span in example.spans:
                self.labels[span.label] += 1
            yield example

    def to_dict(self) -> dict[str, Any]:
        """Return the conversion as a JSON-ready dict."""
        return {
            "from": self.source,
            "to": self.target,
            "texts": self.num_examples,
            "words": self.num_words,
            "entities": self.num_entities,
            "labels": dict(self.labels.most_common()),
            "lost_in_reading": list(self.read.lines()),
            "lost_in_writing": list(self.written.lines()),
            "rejected": len(self.read.rejected),
            "errors": self.errors,
        }


def convert(
    source: Path | str,
    target: Path | str,
    to: str | None = None,
    from_format: str | None = None,
    *,
    skip_errors: bool = False,
    options: FileOptions = DEFAULT_OPTIONS,
) -> Conversion:
    """Convert a file; texts are read and written one by one where both formats allow it.

    Args:
        source: File or folder, or `NAME:SPLIT` of a corpus in `NOMINA_DATA`.
        target: File, or folder for `brat` and `dataset`; appears when it is complete.
        to: A key of `FORMATS`. Defaults to what the ending of `target` says.
        from_format: A key of `FORMATS`. Defaults to what the content says.
        skip_errors: Whether records that cannot be read are written to `TARGET.errors.jsonl`
            instead of ending the conversion; where there are none, there is no such file after it.
        options: What files do not say of themselves.

    Raises:
        DataError: If a file is malformed or cannot be written, a format is not known, or there is
            nothing to write.
        MissingExtraError: If a format needs a package that is not installed.
    """
    path, out = resolve_source(str(source)), Path(target)
    to = to or _format_by_suffix(out)
    find_format(to)
    from_format = find_format(from_format or guess_format(path, options.text_column)).name
    if out.exists() and out.resolve() == path.resolve():
        raise DataError(f"{target}: is the file that is read. Give another name.")
    side = out.with_name(out.name + ".errors.jsonl")
    if skip_errors and side.resolve() == path.resolve():
        raise DataError(
            f"{source}: what cannot be read would be written to it. Rename one of them."
        )
    result = Conversion(from_format, to, read=Report(skip_errors=skip_errors))
    examples = result.count(read_examples(path, from_format, options, result.read))
    if (first := next(examples, None)) is not None:
        write_examples(_chain(first, examples), out, to, options, result.written)
    if result.read.rejected:
        with write_whole(side) as file:
            for record in result.read.rejected:
                row = {"place": record.place, "reason": record.reason, "raw": record.raw}
                file.write(json.dumps(row) + "\n")
        result.errors = str(side)
    elif skip_errors and side.is_file():
        side.unlink()  # of a run before
    if first is None:
        where = f" All are in {side}." if result.errors else ""
        lines = " ".join(result.read.lines())
        raise DataError(f"{source}: holds no text. {lines}{where}".rstrip())
    return result


def _chain(first: Example, rest: Iterator[Example]) -> Iterator[Example]:
    yield first
    yield from rest


def _format_by_suffix(path: Path) -> str:
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix
    names = [form.name for form in FORMATS.values() if form.suffix == suffix]
    if not suffix or not names:
        raise DataError(
            f"{path}: the name does not say which format to write. Add --to with one of: "
            f"{', '.join(FORMATS)}"
        )
    return names[0]


def _print(result: Conversion, target: Path) -> None:
    typer.echo(
        f"{result.source} -> {result.target}: {result.num_examples} texts, {result.num_words} "
        f"words, {result.num_entities} entities of {len(result.labels)} labels in {target}"
    )
    shown = result.labels.most_common(20)
    if shown:
        more = f", and {len(result.labels) - 20} more" if len(result.labels) > 20 else ""
        typer.echo("  " + ", ".join(f"{name} {count}" for name, count in shown) + more)
    for title, report in (("reading", result.read), ("writing", result.written)):
        for line in report.lines():
            typer.echo(f"  {title}: {line}")
    if not result.read.lines() and not result.written.lines():
        typer.echo("  nothing lost")
    if result.errors:
        typer.echo(f"  what could not be read is in {result.errors}")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    @app.command("convert")
    def command(
        source: Annotated[str, typer.Argument(help="File, folder, or NAME:SPLIT of a corpus.")],
        target: Annotated[Path, typer.Argument(help="File or folder to write.")],
        to: Annotated[
            str | None, typer.Option("--to", help=f"Format to write: {', '.join(FORMATS)}.")
        ] = None,
        from_format: Annotated[
            str | None, typer.Option("--from", help="Format to read; guessed from the content.")
        ] = None,
        skip_errors: Annotated[
            bool,
            typer.Option(
                "--skip-errors", help="Go on after bad records; they go to TARGET.errors.jsonl."
            ),
        ] = False,
        text_column: Annotated[
            str, typer.Option(help="Column or key with the text. Default: text.")
        ] = "",
        column: Annotated[
            int | None, typer.Option(min=1, help="CoNLL: column of the tags, from 1.")
        ] = None,
        scheme: Annotated[
            str, typer.Option(help=f"CoNLL: tags to write, one of {', '.join(SCHEMES)}.")
        ] = "BIO",
        as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    ) -> None:
        """Convert labelled text from one format to another and name every loss.

        Exit codes: 0 converted; 1 a file is malformed or cannot be written; 2 wrong usage.
        """
        options = FileOptions(text_column, column, scheme)
        with user_errors():
            result = convert(
                source, target, to, from_format, skip_errors=skip_errors, options=options
            )
            if as_json:
                write_utf8()
                typer.echo(json.dumps(result.to_dict(), ensure_ascii=False))
            else:
                _print(result, target)
