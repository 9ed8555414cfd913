"""What is written about the program is true of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nomina
from nomina.cli import app

ROOT = Path(__file__).parent.parent


def test_the_readme_example_runs(tagger, monkeypatch, capsys):
    monkeypatch.setattr(nomina, "load", lambda: tagger, raising=False)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
    assert "'text': 'Made on 3 March" in capsys.readouterr().out


def test_the_readme_names_every_room():
    text = (ROOT / "README.md").read_text()
    rooms = {path.stem for path in (ROOT / "nomina").glob("*.py")} - {"__init__"}
    missing = {r for r in rooms if f"{r}.py" not in text and not r.startswith("server_")}
    assert not missing


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_pages_point_to_files_that_exist(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`]*`", "", page.read_text())):
        # These three are written by `make docs`; tests/test_site.py follows links to them.
        assert (page.parent / link).exists() or link in ("cli.md", "errors.md", "api.md"), link


def test_commands_are_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text()
    names = [command.name for command in app.registered_commands]
    assert [name for name in names if name and f"{name}`" not in text] == []


def test_versions_agree():
    assert f'version = "{nomina.__version__}"' in (ROOT / "pyproject.toml").read_text()
