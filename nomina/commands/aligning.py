"""`nomina align`: tags of completions on the words they were to copy."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from nomina.alignment import AlignmentSummary, Unknown, align
from nomina.commands.endings import user_errors, write_utf8
from nomina.corpora.files import write_whole
from nomina.entities import tags_to_spans
from nomina.errors import DataError
from nomina.predictions import read_json_lines

UNKNOWN = ("report", "nearest", "keep", "error")


def align_file(
    path: Path,
    summary: AlignmentSummary,
    *,
    format: str = "gner",
    matching: Literal["best", "published"] = "best",
    unknown: Unknown = "report",
) -> Iterator[dict[str, Any]]:
    """Align the completions of a file, one after the other.

    Args:
        path: JSON lines with `words` (or `tokens`, or GNER's `instance`), `completion` (or
            `prediction`) and, if known, the labels that were asked for (`labels`, `label_list`).
            `labels` with a tag for each word are gold tags, and say nothing of what was asked for.
        summary: What happened is counted here.
        format: Format of completions that do not say their own: "gner" or "inline".
        matching: See `alignment.align`.
        unknown: See `alignment.align`.

    Yields:
        For each line its `id`, `words`, `tags`, `status` and counts.

    Raises:
        DataError: If the file cannot be read, or a line has no words or no completion.
        FormatError: If a format is unknown, or a label is and `unknown` is "error".
    """
    for place, row in read_json_lines(path):
        instance = row["instance"] if isinstance(row.get("instance"), dict) else {}
        words = instance.get("words", row.get("words", row.get("tokens")))
        completion = row.get("completion", row.get("prediction"))
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{place}: needs `words`, a list of strings. Keys: {sorted(row)}")
        if not isinstance(completion, str):
            raise DataError(f"{place}: needs `completion`, a string. Keys: {sorted(row)}")
        found = align(
            words,
            completion.strip(),
            str(row.get("format", format)),
            _asked_for(row, words) or None,
            unknown=unknown,
            mode="gner" if matching == "published" else "best",
        )
        summary.add(found)
        name = row.get("id", instance.get("id", ""))
        yield {"id": name, "words": words, **found.to_dict()}


def _asked_for(row: Mapping[str, Any], words: list[str]) -> Any:
    """Return the labels that a row names; tags of its words, which may stand there, name none."""
    labels = row.get("label_list", row.get("labels"))
    if "label_list" in row or not isinstance(labels, list) or len(labels) != len(words):
        return labels
    if not all(isinstance(label, str) for label in labels):
        return labels
    try:
        tags_to_spans(labels)
    except DataError:
        return labels
    return None


def align_command(
    completions: Annotated[Path, typer.Argument(help="JSON lines with words and completions.")],
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.")
    ] = None,
    format: Annotated[str, typer.Option(help="Format of completions: gner or inline.")] = "gner",
    matching: Annotated[
        str, typer.Option("--alignment", help="best, or published (GNER's).")
    ] = "best",
    unknown: Annotated[
        str, typer.Option(help=f"Labels outside the set: {', '.join(UNKNOWN)}.")
    ] = "report",
) -> None:
    """Put the tags of completions onto the words they were to copy; say what happened to each.

    Exit codes: 0 done; 1 a file cannot be read or written; 2 wrong usage.
    """
    summary = AlignmentSummary()
    with user_errors():
        if matching not in ("best", "published"):
            raise DataError(f"--alignment must be best or published, was: {matching!r}")
        rows = align_file(
            completions,
            summary,
            format=format,
            matching=cast("Literal['best', 'published']", matching),
            unknown=cast("Unknown", unknown),
        )
        if output is None:
            write_utf8()
        with nullcontext(sys.stdout) if output is None else write_whole(output) as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        typer.echo(summary.table(), err=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("align")(align_command)
