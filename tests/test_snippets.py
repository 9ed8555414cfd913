"""Every snippet of README.md and docs/ is true: python runs, commands and options exist.

Python and doctest blocks of a page run one after the other in one namespace, on a tiny model and in
a folder with the files that the pages talk of. Shell commands are parsed by the program itself, and
run where that costs nothing.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from snippets import OF_THE_MODEL, ROOT, blocks, outputs, pages, pipelines
from typer.main import get_command
from typer.testing import CliRunner

import nomina
from nomina.cli import app
from nomina.errors import NominaError
from nomina.labels import read_labels

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
# These need a model, corpora or hours, or never end: they are parsed, not run.
ONLY_PARSED = {"evaluate", "train", "serve", "fetch"}
MAX_NOT_RUN = 0  # blocks marked `not run`; each more is a decision

SENTENCE = {"id": "1", "words": ["in", "Paris"], "gold": [[1, 2, "city"]]}
FILES = {
    "contract.txt": "Made on 3 March by Acme GmbH.\n",
    "tickets.jsonl": '{"id": 7, "text": "the pump stops"}\n',
    "app.log": "sshd[7]: Accepted publickey for ann\n",
    "predictions.jsonl": json.dumps({**SENTENCE, "predicted": [[1, 2, "city", 0.97]]}) + "\n",
    "a.jsonl": json.dumps({**SENTENCE, "predicted": [[1, 2, "city"]]}) + "\n",
    "b.jsonl": json.dumps({**SENTENCE, "predicted": []}) + "\n",
    "labels.toml": 'party = "who signs"\n[date]\n',
}


@pytest.fixture
def folder(tmp_path, tagger, monkeypatch):
    """A working directory as the pages suppose it, and a tiny model in place of the default one."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nomina, "load", lambda name=None, **_: tagger, raising=False)
    return tmp_path


@contextlib.contextmanager
def server_of(code, tagger):
    """The code with the address of a running server in place of the default one."""
    if "http://127.0.0.1:8000" not in code:
        yield code
        return
    pytest.importorskip("fastapi", reason="needs nomina[serve]")
    from test_server import running

    with running(tagger) as server:
        yield code.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}")


@PAGES
def test_python_runs_and_prints_what_the_page_says(page, folder, tagger):
    namespace = {"__name__": "page"}
    of_page = blocks(page)
    after = outputs(of_page)
    for block in of_page:
        if block.reason or block.language not in ("python", "pycon"):
            continue
        if block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(
                block.code, namespace, block.place, None, None
            )
            heard = []
            flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
            runner = doctest.DocTestRunner(optionflags=flags)
            runner.run(test, out=heard.append, clear_globs=False)
            assert not runner.failures, f"{block.place}\n" + "".join(heard)
            namespace = test.globs
            continue
        with (
            server_of(block.code, tagger) as code,
            contextlib.redirect_stdout(io.StringIO()) as out,
        ):
            exec(compile(code, block.place, "exec"), namespace)
        said = after.get(block.line)
        if said is None:
            continue
        assert said.code.strip(), f"{said.place}: run tools/snippets.py --outputs"
        if OF_THE_MODEL not in said.notes:
            assert out.getvalue() == said.code, block.place


# --------------------------------------------------------------------------------------------------
# Commands


def parse(arguments, lenient=False):
    """Let the program parse a command line without running it; raises what a user would see."""
    command, names = get_command(app), []
    while hasattr(command, "commands"):
        known = command.commands
        if names and (not arguments or arguments[0].startswith("-")):
            break  # a group may be called itself
        assert set(arguments[:1]) & set(known), f"there is no command {arguments[:1]}"
        names.append(arguments[0])
        command, arguments = known[arguments[0]], arguments[1:]
    try:
        context = command.make_context(names[-1], list(arguments))
    except Exception as error:
        # typer carries a click of its own now: its errors are known by what they say
        message = error.format_message() if hasattr(error, "format_message") else repr(error)
        is_missing = "Missing" in message or "requires an argument" in message
        assert is_missing, f"nomina {' '.join(names)}: {message}"
        assert lenient, f"nomina {' '.join(names)}: {message}"
    else:
        context.close()
    return names


def check_pip(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for name in re.findall(r"nomina\[(.*?)\]", " ".join(arguments)):
        assert set(name.split(",")) <= set(extras["optional-dependencies"]), name


def check_script(arguments, capsys, monkeypatch):
    """The script is there and its own help knows the options."""
    path = ROOT / arguments[0]
    assert path.is_file(), path
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(path.parent)  # as python does for a script
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(path), run_name="__main__")
    text = capsys.readouterr().out
    options = [x for x in arguments[1:] if x.startswith("--")]
    assert all(re.search(rf"{re.escape(x)}\b", text) for x in options), (arguments, text)


def check_command(command, capsys, monkeypatch, lenient=False):
    """Check one command; return the arguments of `nomina` if it is one that can be run."""
    program, *rest = command
    if program in ("torchrun", "python") and "nomina.cli" in rest:
        parse(rest[rest.index("nomina.cli") + 1 :], lenient)
    elif program.endswith("nomina"):
        names = parse(rest, lenient)
        return [] if ONLY_PARSED & set(names) else rest
    elif program == "make":
        assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text("utf-8"), rest
    elif program == "pip":
        check_pip(rest)
    elif program == "python":
        check_script(rest, capsys, monkeypatch)
    else:
        assert program in ("cat", "curl"), f"cannot check {program}; mark the block `not run`"
    return []


@PAGES
def test_shell_commands_exist_and_run(page, folder, capsys, monkeypatch):
    for block in blocks(page):
        if block.reason or block.language != "bash":
            continue
        for pipeline in pipelines(block.code):
            given = b""
            for command in pipeline:
                try:
                    arguments = check_command(command, capsys, monkeypatch)
                except AssertionError as error:
                    raise AssertionError(f"{block.place}: {error}") from None
                if command[0] == "cat":
                    given = Path(command[1]).read_bytes()
                elif arguments:
                    result = CliRunner().invoke(app, arguments, input=given)
                    assert result.exit_code == 0, f"{block.place}: {arguments}: {result.output}"
                    given = result.stdout_bytes


@PAGES
def test_console_sessions_say_what_the_page_says(page, folder):
    for block in blocks(page):
        if block.reason or block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
            line, _, want = part.partition("\n")
            (command,) = next(pipelines(line))
            result = CliRunner().invoke(app, command[1:])
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            same = doctest.OutputChecker().check_output(want, result.output, flags)
            assert same, f"{block.place}\n{result.output}"


@PAGES
def test_no_command_hides_in_a_block_without_a_language(page):
    for block in blocks(page):
        if not block.language:
            assert not re.search(r"^\$? ?(nomina|make|pip|python) ", block.code, re.M), block.place


@PAGES
def test_settings_in_pages_can_be_read(page, tmp_path):
    from nomina.training import Recipe

    for block in blocks(page):
        if block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            path = tmp_path / "block.toml"
            path.write_text(block.code, encoding="utf-8")
            if "output" in tomllib.loads(block.code):
                Recipe.read(path)
            else:
                assert read_labels(path)


# --------------------------------------------------------------------------------------------------
# Commands, options and names in running text


def inline(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


@PAGES
def test_commands_in_running_text_exist(page, capsys, monkeypatch):
    for code in inline(page):
        code = code.removesuffix(" ...")
        if re.match(r"(nomina|make|pip|python) \S", code):
            for pipeline in pipelines(code):
                check_command(pipeline[0], capsys, monkeypatch, lenient=True)


def all_options():
    found, todo = {"--help"}, [get_command(app)]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        names = [name for x in command.params for name in (*x.opts, *x.secondary_opts)]
        found.update(name for name in names if name.startswith("-"))
    return found


@PAGES
def test_options_in_running_text_exist(page):
    if page.name == "log.md":
        pytest.skip("a log tells of what was")
    known = all_options()
    for code in inline(page):
        if code.startswith("--"):
            assert code.split()[0].split("=")[0].rstrip(",") in known, code


@PAGES
def test_names_in_running_text_exist(page):
    if page.name == "log.md":
        pytest.skip("a log tells of what was")
    for code in inline(page):
        match = re.match(r"(nomina(?:\.\w+)+)(?:\W|$)", code)
        if match and not match[1].endswith((".json", ".toml", ".cli")):
            thing, done = nomina, "nomina"
            for name in match[1].split(".")[1:]:
                done += f".{name}"
                with contextlib.suppress(ImportError):
                    importlib.import_module(done)
                assert hasattr(thing, name), f"{page.name}: {code}"
                thing = getattr(thing, name)


# --------------------------------------------------------------------------------------------------
# The check itself


def test_few_blocks_are_not_run():
    marked = [f"{block.place}: {block.reason}" for page in pages() for block in blocks(page)]
    marked = [line for line in marked if not line.endswith(": ")]
    assert len(marked) <= MAX_NOT_RUN, marked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "x", "--label", "a"], "label"),
        (["convert", "a", "b", "--too", "conll"], "too"),
        (["convert"], "issing"),
        (["extrakt", "x"], "no command"),
        (["models", "fetsch"], "no command"),
        (["extract", "x", "--threshold", "high"], "threshold"),
    ],
)
def test_a_wrong_command_is_seen(arguments, message):
    with pytest.raises(AssertionError, match=message):
        parse(arguments)


def test_a_wrong_name_is_seen(folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nimport nomina\n\nnomina.laod()\n```\n", encoding="utf-8")
    (block,) = blocks(page)
    with pytest.raises(AttributeError, match="laod"):
        exec(block.code, {})
    assert issubclass(nomina.LabelError, NominaError)
