"""`nomina models`: what is installed and cached, and how to prepare a machine without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nomina.base import BASE_NAME, base_folder, is_prepared, prepare_base
from nomina.commands.endings import user_errors


def installed() -> list[dict[str, Any]]:
    """Return the models that come with nomina and the base models in its cache."""
    from nomina.models import ModelConfig, model_folder, shipped_models

    rows: list[dict[str, Any]] = []
    for name in shipped_models():
        folder = model_folder(name)
        config = ModelConfig.read(folder)
        what = f"adapter for {config.base}" if config and config.base else "full model"
        rows.append(_row(name, what, folder, True))
    folder = base_folder()
    rows.append(_row(BASE_NAME, "base model, prepared on first use", folder, is_prepared(folder)))
    return rows


def _row(name: str, kind: str, folder: Path, is_ready: bool) -> dict[str, Any]:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    return {"name": name, "kind": kind, "ready": is_ready, "bytes": size, "folder": str(folder)}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(invoke_without_command=True, help="Show and prepare models.")
    app.add_typer(group, name="models")

    @group.callback()
    def show(
        context: typer.Context,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Show which models are installed and cached, their sizes and folders."""
        if context.invoked_subcommand:
            return
        rows = installed()
        if as_json:
            typer.echo(json.dumps(rows))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table("name", "what", "ready", "size", "folder")
        for row in rows:
            size = f"{row['bytes'] / 1e6:.0f} MB"
            ready = "yes" if row["ready"] else "no"
            table.add_row(row["name"], row["kind"], ready, size, row["folder"])
        Console().print(table)

    @group.command("fetch")
    def fetch(
        name: Annotated[
            str | None,
            typer.Argument(help="Model name, folder or hub id; nomina's own by default."),
        ] = None,
        to: Annotated[
            Path | None, typer.Option(metavar="FOLDER", help="Put all it needs into this folder.")
        ] = None,
    ) -> None:
        """Prepare a model now, so that the machine needs no network later.

        With --to, copy that one folder to another machine and give its path as the model there
        (or in NOMINA_MODEL). Exit codes: 0 ready; 1 it cannot be made.
        """
        with user_errors():
            if to is None and name is None:
                typer.echo(f"ready: {prepare_base()}")
                return
            from nomina.models import default_model, load_model
            from nomina.packing import pack_model

            name = name or default_model()
            if to is None:
                typer.echo(f"ready: {load_model(name).folder}")
                return
            folder = pack_model(name, to, lambda what: typer.echo(what, err=True))
            typer.echo(f"ready: {folder}")
