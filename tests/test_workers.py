"""Workers: what one process finds, in several; and what happens when one of them does not live."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nomina
from nomina import workers
from nomina.cli import app
from nomina.engine import EngineConfig, Request
from nomina.errors import GroundingError, LabelError, ModelError
from nomina.formats import Sentence, get_format
from nomina.grounding import Grounding, Lexicon
from nomina.workers import WorkerEngine, _error

LABELS = ["actor", "year", "actor name"]


@pytest.fixture(scope="module")
def both(tiny_folder):
    """The same model, read in this process and in two others."""
    config = EngineConfig(max_rows=3, max_pass_tokens=200)
    alone = nomina.load(tiny_folder, dtype="float32", config=config)
    shared = nomina.load(tiny_folder, dtype="float32", config=config, num_workers=2)
    yield alone, shared
    shared.engine.close()
    assert [process.wait(10) for process in shared.engine.processes] == [-signal.SIGKILL] * 2


def texts(count, seed=0):
    rng = random.Random(seed)
    words = "did george clooney make a musical (O) in Paris's O2-arena, 東京? \ud800 [x](y)".split()
    return [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(count)]


def same(one, other):
    assert one.text == other.text
    assert one.warnings == other.warnings
    assert [(e.start, e.end, e.label) for e in one] == [(e.start, e.end, e.label) for e in other]
    assert [e.score for e in one] == pytest.approx([e.score for e in other], abs=1e-4)


def test_texts_come_back_in_order_as_one_process_reads_them(both):
    alone, shared = both
    given = texts(40)
    found = list(shared.pipe(given, LABELS, threshold=0))
    for one, other in zip(alone.pipe(given, LABELS, threshold=0), found, strict=True):
        same(one, other)
    assert any(found)
    usage = shared.engine.usage
    assert usage.requests >= sum(map(bool, given))
    assert usage.passes > 0 < usage.tokens
    assert all(worker.usage["requests"] for worker in shared.engine._workers)


def test_a_long_text_is_shared_out(both):
    alone, shared = both
    text = "\n".join(texts(150, 1))
    before = [dict(worker.usage) for worker in shared.engine._workers]
    same(alone(text, LABELS, threshold=0), shared(text, LABELS, threshold=0))
    for worker, old in zip(shared.engine._workers, before, strict=True):
        assert worker.usage["requests"] > old.get("requests", 0)


def test_streams_by_turns_and_one_given_up(both):
    alone, shared = both
    streams = [shared.pipe(texts(12, seed), [f"label {seed}"], threshold=0) for seed in range(3)]
    next(shared.pipe(texts(30, 9), LABELS))  # nobody reads on
    for seed, stream in enumerate(streams):
        next(stream)
        for one, other in zip(
            list(alone.pipe(texts(12, seed), [f"label {seed}"], threshold=0))[1:],
            stream,
            strict=True,
        ):
            same(one, other)


def test_endless_streams(both):
    _, shared = both
    num_read = 0

    def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield "in Paris"

    stream = shared.pipe(endless(), ["city"])
    assert [next(stream).text for _ in range(5)] == ["in Paris"] * 5
    assert num_read < 200


def test_what_the_stream_raises_comes_after_the_texts_before_it(both):
    _, shared = both

    def broken():
        yield from ["in Paris", "by Ann"]
        raise OSError("gone")

    stream = shared.pipe(broken(), ["city"])
    assert [next(stream).text, next(stream).text] == ["in Paris", "by Ann"]
    with pytest.raises(OSError, match="gone"):
        next(stream)
    with pytest.raises(LabelError):
        shared("in Paris", [])
    assert shared("in Paris", ["city"]).text == "in Paris"


def test_texts_as_they_are_done(both):
    alone, shared = both
    labels = nomina.LabelSet.of(LABELS)
    items = [(text, labels) for text in texts(12, 4)]
    found = dict(shared.pipe_as_done(items, threshold=0))
    for number, document in alone.pipe_as_done(items, threshold=0):
        same(document, found[number])


def test_beams(tiny_folder, both):
    beams = nomina.load(tiny_folder, dtype="float32", num_beams=2)
    shared = nomina.load(tiny_folder, dtype="float32", num_beams=2, num_workers=2)
    for one, other in zip(beams.pipe(texts(4), LABELS), shared.pipe(texts(4), LABELS), strict=True):
        same(one, other)


def test_on_the_command_line(tiny_folder):
    arguments = ["extract", "in Paris", "by Ann", "--labels", "actor,year", "--threshold", "0"]
    result = CliRunner().invoke(app, [*arguments, "--model", str(tiny_folder), "--workers", "2"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["in Paris", "by Ann"]


def test_a_killed_worker_is_an_error_and_not_silence(tiny_folder):
    shared = nomina.load(tiny_folder, num_workers=2)
    shared("in Paris", LABELS)
    shared.engine.processes[0].kill()
    with pytest.raises(
        ModelError, match=f"a worker process ended with exit code -{signal.SIGKILL:d}"
    ):
        list(shared.pipe(texts(200), LABELS))


def test_workers_end_with_the_process_that_started_them(tiny_folder):
    code = (
        "import nomina, os, sys\n"
        "tagger = nomina.load(sys.argv[1], num_workers=2)\n"
        "tagger('in Paris', ['city'])\n"
        "print(*[process.pid for process in tagger.engine.processes], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    run = [sys.executable, "-c", code, str(tiny_folder)]
    pids = subprocess.run(run, capture_output=True, text=True).stdout.split()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "options", [{"num_workers": 0}, {"num_workers": "2"}, {"num_workers": 2, "decoding": "free"}]
)
def test_numbers_that_cannot_be(tiny_folder, options):
    with pytest.raises(ModelError, match="num_workers must be a number from 1"):
        nomina.load(tiny_folder, **options)


def test_a_model_that_is_not_there_is_said_once(tmp_path, capfd):
    with pytest.raises(ModelError, match="no-such-model"):
        nomina.load(tmp_path / "no-such-model", num_workers=2)
    assert "Traceback" not in capfd.readouterr().err


def test_errors_keep_their_kind():
    assert isinstance(_error(("GroundingError", "x")), GroundingError)
    for kind in ("OutOfMemoryError", "annotations", "MissingExtraError"):
        assert isinstance(_error((kind, "x")), ModelError)


def test_an_error_of_one_is_not_an_error_of_others(build_model, tmp_path):
    """A vocabulary without digits cannot tell these labels apart, which the worker finds out."""
    build_model("t5", "inline", max_words=20).save(tmp_path / "t5")
    alone = nomina.load(tmp_path / "t5", dtype="float32")
    shared = nomina.load(tmp_path / "t5", dtype="float32", num_workers=2)
    bad = shared.pipe(["george act"] * 30, ["act 2", "act 3"], threshold=0)
    good = shared.pipe(["george act"] * 30, ["actor", "act"], threshold=0)
    next(good)
    with pytest.raises(GroundingError):
        list(bad)
    assert len(list(good)) == 29
    for _ in range(5):
        same(
            alone("george act", ["actor"], threshold=0),
            shared("george act", ["actor"], threshold=0),
        )


FAKE = """
import json, sys
print("a library says hello", flush=True)
say = lambda message: print(json.dumps(message), flush=True)
READY
for line in filter(str.strip, sys.stdin):
    say({"number": json.loads(line)["number"], "error": ["RuntimeError", "no memory"]})
"""


def fake(ready="say({})"):
    return [sys.executable, "-c", FAKE.replace("READY", ready)]


@pytest.fixture
def request_of_one():
    lexicon = Lexicon(lambda text: [ord(char) for char in text], 1)
    grounding = Grounding(get_format("gner"), Sentence(("a",), ("",)), ("x",), lexicon)
    return Request((), (1,), grounding)


def test_what_a_worker_says_of_its_failure(request_of_one):
    engine = WorkerEngine(fake(), 1)
    for _ in range(2):
        with pytest.raises(ModelError, match="a worker failed: RuntimeError: no memory") as raised:
            list(engine.decode([request_of_one]))
        assert len(raised.traceback) < 9  # one error is not raised again and again
    engine.close()
    with pytest.raises(ModelError, match="were closed"):
        list(engine.decode([request_of_one]))


def test_a_successor_that_could_not_load_gets_one_too(request_of_one, tmp_path, monkeypatch):
    there = tmp_path / "model"
    there.touch()
    ready = f"""
import os
if not os.path.exists({there.name!r}):
    say({{"fatal": ["ModelError", "gone"]}}); sys.exit(1)
say({{"ready": True}})"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "_AGAIN_S", 0.2)
    engine = WorkerEngine(fake(ready), 1)
    engine.wait()
    monkeypatch.chdir("/")  # later workers start where the first did

    def ask(message):
        with pytest.raises(ModelError, match=message):
            list(engine.decode([request_of_one]))

    ask("no memory")
    there.unlink()
    engine.processes[0].kill()
    engine._workers[0].process.wait()
    while engine._workers[0].failure is None:
        time.sleep(0.01)
    ask("gone")
    ask("gone")
    there.touch()
    time.sleep(0.25)
    ask("no memory")
    engine.close()


def test_what_keeps_a_worker_from_starting():
    engine = WorkerEngine(fake('say({"fatal": ["ModelError", "no room"]}); sys.exit(1)'), 2)
    with pytest.raises(ModelError, match=r"^no room$"):
        engine.wait()
    with pytest.raises(ModelError, match="cannot be started"):
        WorkerEngine(["/no/such/program"], 1)


def test_a_forked_process_is_told(both, request_of_one, monkeypatch):
    _, shared = both
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(ModelError, match="forked"):
        list(shared.engine.decode([request_of_one]))


def test_what_nobody_waits_for_is_not_read(both):
    _, shared = both
    before = shared.engine.usage.requests
    for _ in range(10):
        next(shared.pipe(["a long text of many words " * 3] * 100, LABELS))
    assert shared("in Paris", LABELS).text == "in Paris"
    assert shared.engine.usage.requests - before < 10 * 64
    assert not any(worker.asked for worker in shared.engine._workers)


def test_an_interrupted_request_spoils_no_other(both):
    _, shared = both
    for worker in shared.engine._workers:
        worker.process.stdin.write(b'{"number": 1, "prefix_ids": [1, 2')
    assert len(list(shared.pipe(texts(9), LABELS))) == 9


def test_modules_of_the_working_folder_are_not_taken(tiny_folder, tmp_path):
    (tmp_path / "signal.py").write_text("raise SystemExit('this one is not meant')")
    code = "import nomina, sys; nomina.load(sys.argv[1], num_workers=2)('in Paris', ['city'])"
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code)
    run = [sys.executable, str(script), str(tiny_folder)]
    root = str(Path(nomina.__file__).parents[1])
    done = subprocess.run(
        run, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
