"""The command line: every command parses, calls one public function and prints.

Exit codes, for all commands: 0 done; 1 something given cannot be used (one line says what and what
to do); 2 wrong usage; 3 done, but some records could not be read (`extract --skip-errors`); 130
interrupted.
"""

from __future__ import annotations

import io
import os
import sys

import typer

import nomina
from nomina.commands import aligning, convert, extract, models, scoring, serving, train
from nomina.commands.endings import close_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Turn a language model into an exact, fast, scored entity extractor.",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(nomina.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, help="Print the version."),
) -> None:
    # Other people's notices and progress bars are for developers, not for users of this program.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


for _room in (extract, scoring, aligning, convert, train, serving, models):
    _room.register(app)


def main() -> None:
    """Run the program."""
    if sys.stdout is None:  # closed, as by `>&-`
        sys.exit("error: standard output is closed")
    for stream in (sys.stdout, sys.stderr):  # half a surrogate pair, an old locale
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a full disk
        close_output()
        sys.exit(f"error: {error.filename or 'output'}: {error.strerror or error}")


if __name__ == "__main__":
    main()
