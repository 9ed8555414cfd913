"""Put the pages of the site together, and build it.

    python tools/docs_site.py               pages to build/docs, site to site/
    python tools/docs_site.py --pages DIR   only the pages, to a folder of your choice

The pages of `docs/` are copied. Three are written from the program itself, so that they cannot go
stale: the commands (by typer, from the command line), the errors and the public names (by griffe,
which reads docstrings without importing anything). Knows nothing of how a page becomes HTML: that
is Zensical's, whose settings are in `zensical.toml`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "docs"
GENERATED = ("cli.md", "errors.md", "api.md")

# Errors that live beside what raises them.
ELSEWHERE = (
    ("nomina.client", "ServerError"),
    ("nomina.server_config", "ServerConfigError"),
    ("nomina.server_messages", "Problem"),
    ("nomina.batching", "QueueFullError"),
    ("nomina.batching", "QueueClosedError"),
)

# What a user of the library needs beyond `nomina.__all__`, by the job it does.
FURTHER = {
    "Files": (
        "nomina.corpora",
        ("read_corpus", "read_examples", "write_examples", "Corpus", "Report", "FileOptions"),
    ),
    "Label files": ("nomina.labels", ("write_labels",)),
    "Long texts": ("nomina.chunking", ("split_sentences", "split_text", "Window")),
    "Structuring": ("nomina.alignment", ("align", "Alignment", "AlignmentStatus")),
    "Scoring": ("nomina.evaluation", ("score", "score_labels", "evaluate", "Score", "Evaluation")),
    "Predictions": ("nomina.predictions", ("Prediction", "read_predictions", "write_predictions")),
    "Calibration": ("nomina.calibration", ("Calibration", "fit_temperature")),
    "Training": ("nomina.training", ("Recipe", "train")),
}


# --------------------------------------------------------------------------------------------------
# The commands


def cli_page() -> str:
    """Return the reference of the command line, as typer writes it."""
    command = [sys.executable, "-m", "typer", "nomina.cli", "utils", "docs", "--name", "nomina"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment
    )
    _, _, rest = done.stdout.partition("\n")
    intro = (
        "# Commands\n\nWritten from the program by `make docs`. Exit codes, for all commands: 0 "
        "done; 1 something given cannot be used (one line says what and what to do); 2 wrong "
        "usage; 130 interrupted.\n"
    )
    return intro + rest.replace("**Usage**:", "Usage:")


# --------------------------------------------------------------------------------------------------
# The errors


def _messages() -> dict[str, str]:
    """Real messages of errors that can be had without a model."""
    import nomina
    from nomina.corpora import read_corpus
    from nomina.formats import get_format

    tries: list[tuple[str, Callable[[], object]]] = [
        ('LabelSet.of(["person", "Person"])', lambda: nomina.LabelSet.of(["person", "Person"])),
        ('read_corpus("tickets.conl")', lambda: read_corpus("tickets.conl")),
        ('get_format("xml")', lambda: get_format("xml")),
    ]
    found = {}
    for call, run in tries:
        try:
            run()
        except nomina.NominaError as error:
            found[type(error).__name__] = f"`{call}`\n\n> {error}"
    missing = nomina.MissingExtraError("fastapi", "serve")
    found["MissingExtraError"] = f"`nomina serve` without its extra\n\n> {missing}"
    return found


def errors_page() -> str:
    """Return a page with every error, what it means, what else it is, and a real message."""
    module = griffe.load("nomina.errors", search_paths=[str(ROOT)], docstring_parser="google")
    messages = _messages()
    parts = [
        "# Errors\n",
        "Everything that nomina raises on purpose is a `nomina.NominaError`, and most are also "
        "the built-in error that you would expect. A message says what was expected, what was "
        "given and what to do. On the command line it is one line and exit code 1.\n",
    ]
    for name, found in module.classes.items():
        bases = [str(base) for base in found.bases if str(base) not in ("NominaError", "Exception")]
        what = f" It is a `{bases[0]}` too." if bases else ""
        parts.append(f"## `{name}`\n\n{_text(found)}{what}\n")
        if name in messages:
            parts.append(messages[name] + "\n")
    for module_name, name in ELSEWHERE:
        module = griffe.load(module_name, search_paths=[str(ROOT)], docstring_parser="google")
        parts.append(f"## `{module_name}.{name}`\n\n{_text(module[name])}\n")
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------------
# The public names


def api_page() -> str:
    """Return a page with every public name: signature, meaning, arguments, errors, example."""
    package: Any = griffe.load("nomina", search_paths=[str(ROOT)], docstring_parser="google")
    names = [str(name).strip("'\"") for name in package.exports]
    errors = set(griffe.load("nomina.errors", search_paths=[str(ROOT)]).classes)
    parts = ["# Python reference\n", "Written from the docstrings by `make docs`.\n", "## nomina\n"]
    for name in names:
        if name not in errors and name != "__version__":
            parts.append(_object(package[name].final_target, f"nomina.{name}"))
    parts.append("The errors have [a page of their own](errors.md).\n")
    for title, (module, wanted) in FURTHER.items():
        parts.append(f"## {title}\n\n`{module}`\n")
        found: Any = package[module.partition(".")[2]]
        for name in wanted:
            target = found[name]
            parts.append(_object(getattr(target, "final_target", target), name))
    return "\n".join(parts)


def _object(found: Any, name: str) -> str:
    parts = [f"### `{name}`\n"]
    if found.is_function or found.is_class:
        signature = _signature(found, name.rpartition(".")[2])
        parts.append(f"```python\n{signature}\n```\n")
    parts += _sections(found)
    if found.is_class:
        for method in found.functions.values():
            is_shown = method.docstring and (not method.name.startswith("_") or _is_call(method))
            if is_shown and "property" not in method.labels:
                shown = "__call__" if _is_call(method) else method.name
                parts.append(f"#### `{name.rpartition('.')[2]}.{shown}`\n")
                parts.append(f"```python\n{_signature(method, shown)}\n```\n")
                parts += _sections(method)
    return "\n".join(parts)


def _is_call(method: Any) -> bool:
    return bool(method.name == "__call__")


def _signature(found: Any, name: str) -> str:
    parameters = [p for p in found.parameters if p.name not in ("self", "cls")]
    shown, is_open = [], False
    for parameter in parameters:
        kind = str(parameter.kind.value) if parameter.kind else ""
        if kind == "keyword-only" and not is_open:
            shown.append("*")
            is_open = True
        text = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "") + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not kind.startswith("variadic"):
            text += f" = {parameter.default}" if parameter.annotation else f"={parameter.default}"
        shown.append(text)
    returns = getattr(found, "returns", None)
    arrow = f" -> {returns}" if found.is_function and returns is not None else ""
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) <= 88:
        return line
    return f"{name}(\n    " + ",\n    ".join(shown) + f",\n){arrow}"


def _text(found: Any) -> str:
    return "\n\n".join(s.value for s in found.docstring.parsed if s.kind.value == "text")


def _sections(found: Any) -> list[str]:
    return list(_rendered(found)) if found.docstring else []


def _rendered(found: Any) -> Iterator[str]:
    titles = {"parameters": "Arguments", "attributes": "Attributes", "raises": "Raises"}
    for section in found.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield f"{section.value}\n"
        elif kind in titles:
            rows = [f"**{titles[kind]}**\n"]
            for item in section.value:
                name = item.annotation if kind == "raises" else item.name
                rows.append(f"- `{name}`: {' '.join(str(item.description).split())}")
            yield "\n".join(rows) + "\n"
        elif kind in ("returns", "yields"):
            text = " ".join(" ".join(str(item.description).split()) for item in section.value)
            yield f"**{kind.capitalize()}** {text}\n"
        elif kind == "examples":
            for _, value in section.value:
                yield _example(value)
        elif kind == "admonition":  # `Example:` in the singular
            yield _example(str(section.value.contents))


def _example(text: str) -> str:
    shown = re.sub(r" *# doctest: \+\w+", "", text)
    return f"```pycon\n{shown}\n```\n" if text.lstrip().startswith(">>>") else f"{shown}\n"


# --------------------------------------------------------------------------------------------------
# All of it


def write_pages(folder: Path) -> None:
    """Write all pages into a folder, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    for name, page in zip(GENERATED, (cli_page, errors_page, api_page), strict=True):
        (folder / name).write_text(page(), encoding="utf-8")


def main() -> None:
    """Parse, write the pages, call Zensical."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=Path, help="only write the pages, into this folder")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.pages:
        write_pages(args.pages)
        return
    write_pages(PAGES)
    sys.exit(build())


def build() -> int:
    """Build the site from the pages; return Zensical's exit status, 1 for any warning."""
    zensical = Path(sys.executable).with_name("zensical")
    return subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT).returncode


if __name__ == "__main__":
    main()
