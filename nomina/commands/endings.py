"""How commands write and end: what goes wrong as one line, with the exit codes of `nomina.cli`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from nomina.errors import NominaError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that nomina raises on purpose into one line and exit code 1."""
    try:
        yield
    except NominaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except BrokenPipeError as error:  # whoever read our output has gone, as `head` does
        close_output()
        raise typer.Exit(0) from error


def write_utf8() -> None:
    """Write standard output in UTF-8 unless it is a terminal: JSON and HTML have no locale."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")


def close_output() -> None:
    """Drop what is buffered, so that Python does not try to write it again at the end."""
    with suppress(OSError, ValueError):  # what tests put in its place has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
