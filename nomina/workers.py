"""Decoding in several processes: requests go out, choices come back.

A model as small as ours does not fill many cores: on two of them two threads read a third faster
than one, two processes with a thread each twice as fast. So each worker is a process with an engine
and its share of the threads, and requests go to the one that has the least to do. Texts are cut
into windows before, so one long text is shared out, too.

What travels are lines of JSON through the pipes of a child process. A request is its ids and what
its grounding is made of; an answer is which choice was taken at each fork, and its log probability,
and walks the grounding that was asked with. A worker ends when its input does, so none outlives the
process that started it, whatever ends that.

Knows requests and engines; nothing of texts, or of how a worker gets its engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import IO, Any

import nomina.errors
from nomina.beams import BeamEngine
from nomina.engine import Engine, EngineConfig, Intake, Path, Request, Usage
from nomina.errors import ModelError, NominaError
from nomina.formats import Sentence
from nomina.grounding import Grounding
from nomina.models import LanguageModel

_AHEAD = 8  # requests that wait at a worker, so that it need not
_WAIT_S = 0.02  # until a stream that had nothing is asked again


class _Worker:
    """A process, and whom its answers are for."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.asked: dict[int, queue.SimpleQueue[tuple[int, Any]]] = {}
        self.usage: dict[str, int] = {}
        self.failure: NominaError | None = None  # why it takes no requests any more
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, number: int, line: bytes, answers: queue.SimpleQueue[tuple[int, Any]]) -> None:
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self.asked[number] = answers
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: whoever listens says why
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                if "error" in message:
                    self._fail(_error(*message["error"]))
                    continue
                self.usage = message["usage"]
                answers = self.asked.pop(message["number"], None)
                if answers is not None:
                    answers.put((message["number"], message["path"]))
        code = self.process.wait()
        with self._lock:
            self.failure = ModelError(
                f"a worker process ended with exit code {code}. Each has a copy of the model: "
                "memory may be too small for so many"
            )
        self._fail(self.failure)

    def _fail(self, error: NominaError) -> None:
        with self._lock:
            asked = list(self.asked.items())
            self.asked.clear()
        for number, answers in asked:
            answers.put((number, error))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()


def _error(kind: str, text: str) -> NominaError:
    found = getattr(nomina.errors, kind, None)
    if isinstance(found, type) and issubclass(found, NominaError):
        return found(text)
    return ModelError(f"a worker failed: {kind}: {text}")


class WorkerEngine:
    """Decodes streams of requests in other processes; several streams may be under way.

    Args:
        command: Starts a worker: a program that calls `serve` with the input and output it has.
        num_workers: How many of them.
        config: How much each reads at once.

    Attributes:
        processes: The workers.
    """

    def __init__(
        self, command: Sequence[str], num_workers: int, config: EngineConfig | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self._numbers = iter(range(sys.maxsize))
        self._workers = [_Worker(command, _environment(num_workers)) for _ in range(num_workers)]
        self.processes = [worker.process for worker in self._workers]
        self._finalizer = weakref.finalize(self, _close, self._workers)

    @property
    def usage(self) -> Usage:
        """What decoding cost, all workers together."""
        known = [worker.usage for worker in self._workers]
        names = [field.name for field in dataclasses.fields(Usage)]
        return Usage(**{name: sum(usage.get(name, 0) for usage in known) for name in names})

    def close(self) -> None:
        """End the workers."""
        self._finalizer()

    def decode(self, requests: Iterable[Request]) -> Iterator[Path]:
        """Yield the path of each request, in order; see `Engine.decode`.

        Raises:
            ModelError: If a worker fails.
        """
        return (path for _, path in self._decode(requests, is_ordered=True))

    def decode_as_done(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Path]]:
        """Yield (number of the request, path) as soon as it is done; see `Engine.decode_as_done`.

        Raises:
            ModelError: If a worker fails.
        """
        return self._decode(requests, is_ordered=False)

    def _decode(
        self, requests: Iterable[Request | None], is_ordered: bool
    ) -> Iterator[tuple[int, Path]]:
        intake = Intake(requests)
        room = len(self._workers) * (self.config.max_rows + _AHEAD)
        most_ahead = 4 * room if is_ordered else math.inf
        answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        active: dict[int, tuple[int, Request]] = {}  # by the worker's number
        done: dict[int, Path] = {}
        num_taken = num_given = 0
        try:
            while True:
                while done and (num_given in done or not is_ordered):
                    number = num_given if is_ordered else next(iter(done))
                    yield number, done.pop(number)
                    num_given += 1
                while len(active) < room and num_taken - num_given < most_ahead:
                    request = intake.take(is_idle=not active and not done)
                    if request is None:
                        break
                    if request.grounding.start().allowed:
                        number = next(self._numbers)
                        active[number] = num_taken, request
                        self._ask(number, request, answers)
                    else:
                        done[num_taken] = []
                    num_taken += 1
                if active:
                    # What has nothing now may have something while the workers read.
                    may_come = not is_ordered and not intake.is_ended and len(active) < room
                    try:
                        number, answer = answers.get(timeout=_WAIT_S if may_come else None)
                    except queue.Empty:
                        continue
                    if isinstance(answer, NominaError):
                        raise answer
                    place, request = active.pop(number)
                    done[place] = _walk(request.grounding, answer)
                elif intake.is_ended and not done:
                    return
        finally:
            for worker in self._workers:
                for number in active:
                    worker.asked.pop(number, None)

    def _ask(
        self, number: int, request: Request, answers: queue.SimpleQueue[tuple[int, Any]]
    ) -> None:
        # One that has ended gave an error to whom it owed answers; the others serve the next.
        living = [worker for worker in self._workers if worker.failure is None]
        worker = min(living or self._workers, key=lambda worker: len(worker.asked))
        worker.ask(number, _line(_written(number, request)), answers)


def _environment(num_workers: int) -> dict[str, str]:
    """Return the variables of a worker: its share of the threads, and where this nomina lies."""
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    paths = [str(FilePath(nomina.errors.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        "OMP_NUM_THREADS": str(max(1, num_cores // num_workers)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _close(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.close()


def _line(message: Any) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


def _written(number: int, request: Request) -> dict[str, Any]:
    grounding = request.grounding
    return {
        "number": number,
        "prefix_ids": request.prefix_ids,
        "sentence_ids": request.sentence_ids,
        "words": grounding.sentence.words,
        "gaps": grounding.sentence.gaps,
        "labels": grounding.labels,
        "num_decided": grounding.num_decided,
    }


def _read(message: dict[str, Any], model: LanguageModel) -> Request:
    return Request(
        tuple(message["prefix_ids"]),
        tuple(message["sentence_ids"]),
        Grounding(
            model.format,
            Sentence(tuple(message["words"]), tuple(message["gaps"])),
            tuple(message["labels"]),
            model.lexicon,
            message["num_decided"],
        ),
    )


def _walk(grounding: Grounding, choices: Sequence[tuple[int, float]]) -> Path:
    fork, path = grounding.start(), []
    for choice, log_prob in choices:
        path.append((fork, choice, log_prob))
        fork = fork.take(choice)
    return path


def serve(
    engine: Engine | BeamEngine, model: LanguageModel, source: IO[bytes], sink: IO[bytes]
) -> None:
    """Answer requests until there are no more; then end this process at once.

    What the engine raises is answered for all that was asked so far.
    """
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in source:
            inbox.put(line)
        os._exit(0)  # nobody waits for what is being read

    def answer(message: Any) -> None:
        sink.write(_line(message))
        sink.flush()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        numbers: list[int] = []

        def requests(line: bytes, numbers: list[int] = numbers) -> Iterator[Request | None]:
            while True:
                message = json.loads(line)
                numbers.append(message["number"])
                yield _read(message, model)
                while inbox.empty():
                    yield None
                line = inbox.get()

        try:
            for number, path in engine.decode_as_done(requests(inbox.get())):
                choices = [(choice, log_prob) for _, choice, log_prob in path]
                usage = dataclasses.asdict(engine.usage)
                answer({"number": numbers[number], "path": choices, "usage": usage})
        except Exception as error:
            answer({"error": [type(error).__name__, str(error)]})
