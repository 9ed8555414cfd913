"""Decoding in several processes: requests go out, choices come back.

A model as small as ours does not fill many cores: two processes with a thread each read a quarter
faster than one with two (`benchmarks/workers.py`). So each worker is a process with an engine and
its share of the threads, and requests go to the one that has the least to do. Texts are cut
into windows before, so one long text is shared out, too.

What travels are lines of JSON through the pipes of a child process. A request is its ids and what
its grounding is made of; an answer is which choice was taken at each fork, and its log probability,
and walks the grounding that was asked with. A worker ends when its input does, so none outlives the
process that started it, whatever ends that. One that ends by itself costs what it had been asked an
error, and another takes its place.

Knows requests and engines; nothing of texts, or of how a worker gets its engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, TypeAlias

import nomina.errors
from nomina.beams import BeamEngine
from nomina.engine import Engine, EngineConfig, Intake, Path, Request, Usage
from nomina.errors import ModelError, NominaError
from nomina.formats import Sentence
from nomina.grounding import Grounding
from nomina.models import LanguageModel

_AHEAD = 8  # requests that wait at a worker, so that it need not
_WAIT_S = 0.02  # until a stream that had nothing is asked again
_AGAIN_S = 5.0  # until a place is filled again, where the last worker could not load

Failure = tuple[str, str]  # the kind of an error, and what it says
Answers: TypeAlias = "queue.SimpleQueue[dict[str, Any]]"
Servant: TypeAlias = Engine | BeamEngine


def _error(failure: Failure) -> NominaError:
    kind, text = failure
    found = getattr(nomina.errors, kind, None)
    if isinstance(found, type) and issubclass(found, NominaError):
        with contextlib.suppress(TypeError):  # one that is made of more than a text
            return found(text)
    return ModelError(f"a worker failed: {kind}: {text}")


class _Worker:
    """A process, and whom its answers are for.

    Attributes:
        asked: Who waits for the answer of each number.
        usage: What it cost so far.
        failure: Why it takes no requests any more.
        is_ready: Whether it could load what it needs.
        settled: Set when that is known.
        is_successor: Whether it took the place of one that had loaded.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        folder: str | None,
        is_successor: bool = False,
    ) -> None:
        self.is_successor = is_successor
        self.began = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder
            )
        except OSError as error:
            raise ModelError(f"a worker process cannot be started: {error}") from error
        self.asked: dict[int, Answers] = {}
        self.usage: dict[str, int] = {}
        self.failure: Failure | None = None
        self.is_ready = False
        self.settled = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, number: int, message: dict[str, Any], answers: Answers) -> None:
        """Send a request; its answer, or why there is none, comes to `answers`."""
        with self._lock:
            if self.failure is not None:
                raise _error(self.failure)
            self.asked[number] = answers
        self._send(message)

    def is_to_replace(self) -> bool:
        """Say whether another should take its place: what could load once may be able to again."""
        if self.failure is None:
            return False
        is_time = time.monotonic() - self.began > _AGAIN_S
        return self.is_ready or (self.is_successor and is_time)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget requests, so that they need not be read."""
        mine = [number for number in numbers if self.asked.pop(number, None) is not None]
        if mine and self.failure is None:
            self._send({"drop": mine})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended: whoever listens says why
            # Before it a half line may stand, whose writer was interrupted.
            self.process.stdin.write(b"\n" + _line(message))
            self.process.stdin.flush()

    def _listen(self) -> None:
        failure: Failure | None = None
        assert self.process.stdout is not None
        try:
            with self.process.stdout as lines:
                for message in filter(None, map(_message, lines)):
                    if "fatal" in message:
                        kind, text = message["fatal"]
                        failure = kind, text
                        continue
                    self.is_ready = True
                    self.settled.set()
                    self.usage = message.get("usage", self.usage)
                    answers = self.asked.pop(message.get("number", -1), None)
                    if answers is not None:
                        answers.put(message)
        finally:
            code = self.process.wait()
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):  # of what nobody read
                self.process.stdin.close()
            text = (
                f"a worker process ended with exit code {code}. Each has a copy of the model: "
                "memory may be too small for so many"
            )
            self._end(failure or (ModelError.__name__, text))

    def _end(self, failure: Failure) -> None:
        with self._lock:
            self.failure = self.failure or failure
            asked = list(self.asked.items())
            self.asked.clear()
        for number, answers in asked:
            answers.put({"number": number, "error": self.failure})
        self.settled.set()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._end((ModelError.__name__, "the workers of this tagger were closed"))
        self.process.kill()


class WorkerEngine:
    """Decodes streams of requests in other processes; several streams may be under way.

    Args:
        command: Starts a worker: a program that calls `serve` with the input and output it has.
        num_workers: How many of them.
        config: How much each reads at once.

    Raises:
        ModelError: If they cannot be started.
    """

    def __init__(
        self, command: Sequence[str], num_workers: int, config: EngineConfig | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self._numbers = iter(range(sys.maxsize))
        self._command, self._environment = command, _environment(num_workers)
        self._folder: str | None = None  # later workers start where the first did
        with contextlib.suppress(OSError):
            self._folder = os.getcwd()
        self._past: list[dict[str, int]] = []  # the usage of workers that were replaced
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _close, self._workers)
        try:
            while len(self._workers) < num_workers:
                self._workers.append(_Worker(command, self._environment, self._folder))
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """The workers' processes."""
        return [worker.process for worker in self._workers]

    @property
    def usage(self) -> Usage:
        """What decoding cost, all workers together."""
        known = [*self._past, *(worker.usage for worker in self._workers)]
        names = [field.name for field in dataclasses.fields(Usage)]
        return Usage(**{name: sum(usage.get(name, 0) for usage in known) for name in names})

    def wait(self) -> None:
        """Wait until all workers can answer.

        Raises:
            NominaError: What kept one from it.
        """
        for worker in self._workers:
            worker.settled.wait()
            if worker.failure is not None:
                raise _error(worker.failure)

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
        most_ahead = 4 * room
        answers: Answers = queue.SimpleQueue()
        active: dict[int, tuple[int, Request]] = {}  # by the number that a worker knows
        done: dict[int, Path] = {}
        num_taken = num_given = 0
        try:
            while True:
                while not answers.empty():
                    self._settle(answers.get(), active, done)
                while done and (num_given in done or not is_ordered):
                    number = num_given if is_ordered else next(iter(done))
                    yield number, done.pop(number)
                    num_given += 1
                has_room = len(active) < room and num_taken - num_given < most_ahead
                if has_room and not intake.is_ended:
                    request = intake.take(is_idle=not active and not done)
                    if request is not None:
                        if request.grounding.start().allowed:
                            number = next(self._numbers)
                            active[number] = num_taken, request
                            self._ask(number, request, answers)
                        else:
                            done[num_taken] = []
                        num_taken += 1
                        continue
                if active:
                    # What has nothing now may have something while the workers read.
                    may_come = has_room and not intake.is_ended
                    with contextlib.suppress(queue.Empty):
                        answer = answers.get(timeout=_WAIT_S if may_come else None)
                        self._settle(answer, active, done)
                elif intake.is_ended and not done:
                    return
        finally:
            if active and self._process_id == os.getpid():
                for worker in self._workers:
                    worker.drop(active)

    def _settle(
        self,
        answer: dict[str, Any],
        active: dict[int, tuple[int, Request]],
        done: dict[int, Path],
    ) -> None:
        place, request = active.pop(answer["number"])
        if "error" in answer:
            raise _error(answer["error"])
        done[place] = _walk(request.grounding, answer["path"])

    def _ask(self, number: int, request: Request, answers: Answers) -> None:
        if self._process_id != os.getpid():
            raise ModelError(
                "workers answer the process that started them, and this one was forked from it. "
                "Load a tagger in each process"
            )
        with self._lock:
            for place, worker in enumerate(self._workers):
                if worker.is_to_replace() and self._finalizer.alive:
                    self._past.append(worker.usage)
                    self._workers[place] = _Worker(
                        self._command, self._environment, self._folder, is_successor=True
                    )
            living = [worker for worker in self._workers if worker.failure is None]
            ready = [worker for worker in living if worker.is_ready]
            worker = min(ready or living or self._workers, key=lambda worker: len(worker.asked))
        worker.ask(number, _written(number, request), answers)


def _environment(num_workers: int) -> dict[str, str]:
    """Return the variables of a worker, with its share of the threads."""
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, num_cores // num_workers)), **os.environ}


def _close(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.close()


def _line(message: dict[str, Any]) -> bytes:
    # Not as ASCII: halves of a surrogate pair, each a character here, would come back as one.
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _message(line: bytes) -> dict[str, Any] | None:
    """Read a line; None for what is none of ours: half of one, what something else printed."""
    try:
        message = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


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


def serve(load: Callable[[], tuple[Servant, LanguageModel]], source: IO[bytes], sink: int) -> None:
    """Load an engine and answer requests until there are no more; then end this process at once.

    What the engine raises is answered for the requests that are to blame: each that it had taken is
    read once more, alone.

    Args:
        load: Returns the engine and its model. A `NominaError` that it raises is what whoever waits
            for this worker is told.
        source: Where requests come from.
        sink: File number of where answers go.
    """
    inbox = _Inbox(source)

    def answer(message: dict[str, Any]) -> None:
        line = _line(message)
        try:
            while line:
                line = line[os.write(sink, line) :]
        except OSError:
            os._exit(0)

    try:
        engine, model = load()
    except NominaError as error:
        answer({"fatal": [type(error).__name__, str(error)]})
        os._exit(1)
    answer({"ready": True})

    def answer_path(number: int, path: Path) -> None:
        inbox.settle(number)
        choices = [(choice, log_prob) for _, choice, log_prob in path]
        usage = dataclasses.asdict(engine.usage)
        answer({"number": number, "path": choices, "usage": usage})

    while True:
        try:
            for place, path in engine.decode_as_done(inbox.requests(model)):
                answer_path(inbox.places.pop(place), path)
        except Exception:
            for number, message in list(inbox.held.items()):
                try:
                    ((_, path),) = engine.decode_as_done([_read(message, model)])
                    answer_path(number, path)
                except Exception as error:
                    inbox.settle(number)
                    answer({"number": number, "error": [type(error).__name__, str(error)]})


class _Inbox:
    """What a worker is asked, read aside, so that whoever asks never waits for it.

    Attributes:
        held: Requests that the engine has taken, by number.
        places: Their numbers, by place in the engine's stream.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self.held: dict[int, dict[str, Any]] = {}
        self.places: dict[int, int] = {}
        self._source = source
        self._dropped: set[int] = set()
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for message in filter(None, map(_message, self._source)):
            if "drop" in message:
                self._dropped.update(message["drop"])
            else:
                self._messages.put(message)
        os._exit(0)  # nobody waits for what is being read

    def requests(self, model: LanguageModel) -> Iterator[Request | None]:
        """Yield requests, the first when there is one, then None while there is none."""
        self.places.clear()
        place = 0
        while True:
            message = self._messages.get()
            number = message["number"]
            if number in self._dropped:
                self._dropped.discard(number)
            else:
                self.places[place] = number
                self.held[number] = message
                place += 1
                yield _read(message, model)
            while self._messages.empty():
                yield None

    def settle(self, number: int) -> None:
        """Forget a request that is answered."""
        self.held.pop(number, None)
        self._dropped.discard(number)
