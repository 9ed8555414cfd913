"""`nomina serve`: the model over HTTP, with a page to try it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from nomina.commands.endings import user_errors
from nomina.commands.extract import WorkersOption
from nomina.server_config import Limits, ServerConfig, read_tokens


def serve_command(
    model: Annotated[
        str | None, typer.Option(help="A model's name, folder or hub id. Default: nomina's own.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback it needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line; requests must send one.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name the server may be called by, say behind a proxy. Repeatable."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="A limit as NAME=VALUE, say max_labels=500. Repeatable."),
    ] = None,
    workers: WorkersOption = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log errors only.")] = False,
) -> None:
    """Serve the model over HTTP, with a page to try it at `/`.

    Stops on SIGTERM or Ctrl+C, after it has finished what it accepted. No text is logged.

    Exit codes: 0 stopped; 1 an option, model or address cannot be used; 2 wrong usage.
    """
    with user_errors():
        config = ServerConfig(
            host,
            port,
            read_tokens(token_file) if token_file else (),
            tuple(allow_host or ()),
            Limits.parse(limit or ()),
        )
        from nomina import server

        _log(quiet)
        logger = logging.getLogger("nomina.server")
        import nomina

        logger.info("loading the model")
        server.serve(load_aside(lambda: nomina.load(model, num_workers=workers)), config)


T = TypeVar("T")


def load_aside(load: Callable[[], T]) -> T:
    """Load a model in a thread that ends.

    OpenMP gives each thread that ever worked a team of its own; when there are more members than
    cores they sleep at every barrier instead of spinning, and the thread that owns the tagger is
    1.5 times slower. A team ends with its thread.
    """
    with ThreadPoolExecutor(1) as loader:
        return loader.submit(load).result()


def _log(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("nomina.server", "nomina.batching", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.ERROR if quiet else logging.INFO)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("serve")(serve_command)
