"""The code blocks of README.md and docs/*.md: where they stand, what they say, how they run.

    python tools/snippets.py                list the blocks
    python tools/snippets.py --outputs      write the outputs of the default model anew

A `text` block right behind a `python` block is its output. `tests/test_snippets.py` compares it,
unless `<!-- output: default model -->` stands between: then it is what the shipped model says,
which `--outputs` writes. A block under `<!-- not run: REASON -->` is left alone, and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OF_THE_MODEL = "output: default model"

_FENCE = re.compile(
    r"^(?P<notes>(?:<!--[^\n]*-->\n)*)```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        path: The page.
        line: Number of the fence's line, from 1.
        language: What stands behind the fence; empty for nothing.
        code: What is between the fences.
        notes: Comments right above the fence.
        follows: Whether nothing but white space and notes is between it and the block before.
        start: Position of `code` in the page.
    """

    path: Path
    line: int
    language: str
    code: str
    notes: tuple[str, ...]
    follows: bool
    start: int

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str:
        """Why the block is not run; empty if it is."""
        return next((x[8:].strip() for x in self.notes if x.startswith("not run:")), "")


def pages() -> list[Path]:
    """Return README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    found, end = [], -1
    for match in _FENCE.finditer(text):
        notes = tuple(re.findall(r"<!-- *(.*?) *-->", match["notes"]))
        line = text.count("\n", 0, match.start("language")) + 1
        follows = end >= 0 and not text[end : match.start()].strip()
        found.append(
            Block(path, line, match["language"], match["code"], notes, follows, match.start("code"))
        )
        end = match.end()
    return found


def outputs(of_page: list[Block]) -> dict[int, Block]:
    """Return the output block of each python block that has one, by the latter's line."""
    pairs = zip(of_page, of_page[1:])  # noqa: B905, RUF007 (3.10: no pairwise types)
    return {
        a.line: b for a, b in pairs if a.language == "python" and b.language == "text" and b.follows
    }


def pipelines(code: str) -> Iterator[list[list[str]]]:
    """Yield the command lines of a shell block, each as the commands that its pipes connect.

    Comments, redirections and variables set in front are left out; lines are joined at backslashes
    and inside quotes.

    Example:
        >>> list(pipelines("cat a | nomina extract --labels 'x, y' > b  # say"))
        [[['cat', 'a'], ['nomina', 'extract', '--labels', 'x, y']]]
    """
    pending = ""
    for line in code.splitlines():
        pending += line + "\n"
        if line.endswith("\\"):
            pending = pending[:-2] + " "
            continue
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="|<>;&")
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:  # an open quote: the command goes on
            continue
        pending = ""
        commands: list[list[str]] = [[]]
        skip = False
        for token in tokens:
            if skip or token in (">", ">>", "<"):
                skip = not skip
            elif token == "|":
                commands.append([])
            elif token in (";", "&&", "&"):
                yield commands
                commands = [[]]
            elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", token):
                commands[-1].append(token)
        if any(commands):
            yield commands
    if pending.strip():
        raise ValueError(f"the shell block ends inside a quote: {pending!r}")


def write_outputs(path: Path, namespace: dict[str, Any]) -> None:
    """Run the python blocks of a page and write down what the default model says."""
    of_page = blocks(path)
    after = outputs(of_page)
    if not any(OF_THE_MODEL in block.notes for block in after.values()):
        return
    text = path.read_text(encoding="utf-8")
    shift = 0
    for block in of_page:
        if block.language != "python" or block.reason:
            continue
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            exec(compile(block.code, block.place, "exec"), namespace)
        found = after.get(block.line)
        if found is not None and OF_THE_MODEL in found.notes:
            start = found.start + shift
            text = text[:start] + stream.getvalue() + text[start + len(found.code) :]
            shift += len(stream.getvalue()) - len(found.code)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Parse, list or write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--outputs", action="store_true", help="write the model's outputs anew")
    args = parser.parse_args()
    if args.outputs:
        folder = Path(tempfile.mkdtemp())  # the pages write files, and read these
        for name in ("recipes", "tests/data"):
            shutil.copytree(ROOT / name, folder / name)
        os.chdir(folder)
    for path in pages():
        if args.outputs:
            write_outputs(path, {})
            continue
        for block in blocks(path):
            print(f"{block.place}\t{block.language}\t{block.reason}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
