"""Texts of many callers, read by one tagger in shared batches.

A caller submits a job (some texts, one label set) and is handed documents one by one, in the order
of its texts. One worker thread owns the tagger, so all share its batches. It feeds the tagger's
`pipe_as_done` from the queue for as long as anything waits or is being read, so that texts which
arrive while a batch is read join the next one; a lone text is never held back for company. Jobs
take turns text by text, and texts window by window: neither a thousand texts nor one as long as a
book hold up a short one.

Knows nothing of HTTP, asyncio or models.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nomina.documents import Document
from nomina.entities import LabelSet
from nomina.errors import NominaError

logger = logging.getLogger("nomina.batching")

Deliver = Callable[[int, "Document | Exception"], None]


class Tagger(Protocol):
    """What is needed of a tagger: its name, and a stream of texts with a label set each."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def pipe_as_done(
        self,
        items: Iterable[tuple[str, LabelSet] | None],
        *,
        threshold: float | None = None,
        is_wanted: Callable[[int], bool] = ...,
    ) -> Iterator[tuple[int, Document]]:
        """Yield (number of the item, document) of each item as soon as it is done.

        Items are taken only as there is room for them; None stands for "nothing now, ask again".
        What is not wanted any longer is dropped.
        """


class QueueFullError(NominaError, RuntimeError):
    """No room for a job now.

    Attributes:
        retry_after_s: Seconds after which there should be room, by the speed seen so far.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueClosedError(NominaError, RuntimeError):
    """The queue takes no more jobs, because it is shutting down or its worker has died."""


@dataclass(frozen=True)
class QueueConfig:
    """How much may wait, and for how long a batch waits for company.

    Attributes:
        max_texts: Texts that may wait at once.
        max_chars: Characters that may wait at once.
        max_gather_s: Most seconds that a batch waits for callers who were all answered a moment
            ago and are likely to come back. A lone caller is never made to wait.
        gather_share: The same as a share of the time that texts took lately.
    """

    max_texts: int = 10_000
    max_chars: int = 4_000_000
    max_gather_s: float = 0.010
    gather_share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("max_texts", "max_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, was: {getattr(self, name)}")


class Observer:
    """What happens in a queue, for whoever counts it; does nothing by itself.

    Methods are called in the worker's thread and must not raise.
    """

    def waited(self, seconds: float) -> None:
        """Take note of a text that left the queue after so many seconds."""

    def batched(self, num_texts: int, num_chars: int) -> None:
        """Take note of texts that the tagger took in one go."""

    def finished(self, document: Document) -> None:
        """Take note of a document."""


class Job:
    """Texts of one caller with one label set, on their way through a `Batcher`."""

    def __init__(self, texts: Sequence[str], labels: LabelSet, deliver: Deliver) -> None:
        self.texts = texts
        self.labels = labels
        self.deliver = deliver
        self.submitted_s = time.monotonic()
        self.num_taken = 0
        self.num_done = 0
        self.results: dict[int, Document | Exception] = {}  # done before one in front of them
        self.is_cancelled = False


class Batcher:
    """A bounded queue in front of a tagger, and the thread that works it off.

    Args:
        tagger: What reads the texts. Only the worker's thread calls it.
        config: How much may wait.
        observer: Is told what happens.

    Example:
        >>> class Tagger:
        ...     name = "none"
        ...     def pipe_as_done(self, items, *, threshold=None, is_wanted=None):
        ...         done = (item for item in items if item is not None)
        ...         return ((number, Document(text)) for number, (text, _) in enumerate(done))
        >>> batcher = Batcher(Tagger())
        >>> batcher.start()
        >>> job = batcher.submit(["a", "b"], LabelSet.of(["x"]), lambda i, doc: print(i, doc.text))
        >>> batcher.close()
        0 a
        1 b
    """

    def __init__(
        self,
        tagger: Tagger,
        config: QueueConfig | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.tagger = tagger
        self.config = config or QueueConfig()
        self.waiting_texts = 0
        self.waiting_chars = 0
        self._observer = observer or Observer()
        self._jobs: deque[Job] = deque()  # with texts not yet taken
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._is_warm = False
        # Of the worker's thread alone from here on.
        self._in_flight: dict[int, tuple[Job, int, float]] = {}  # by number in the round
        self._num_taken = 0  # in this round
        self._gathered: list[int] = []  # lengths of the texts taken since the last document
        self._answered = 0  # jobs finished since a text was last taken
        self._answered_at_s = 0.0
        self._text_s = 0.0  # from being taken to being done, lately
        self._chars_per_s = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the worker lives, has warmed up, and takes jobs."""
        thread = self._thread
        return self._is_warm and not self._is_closing and thread is not None and thread.is_alive()

    @property
    def num_in_flight(self) -> int:
        """Texts that the tagger is reading."""
        return len(self._in_flight)

    def start(self) -> None:
        """Start the worker; it warms the tagger up with one short text first."""
        self._thread = threading.Thread(target=self._work, name="nomina-tagger", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more jobs, finish those taken, and end the worker.

        Args:
            timeout_s: Seconds to wait for the worker at most. Defaults to as long as it takes.
        """
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def submit(self, texts: Sequence[str], labels: LabelSet, deliver: Deliver) -> Job:
        """Put texts into the queue.

        Args:
            texts: At least one text.
            labels: What to look for in each.
            deliver: Called in the worker's thread with the index of a text and its document, or
                the error that kept it from one; in the order of the texts. All entities are in
                it, whatever their score.

        Raises:
            QueueFullError: If there is no room.
            QueueClosedError: If the queue takes no more jobs.
        """
        config = self.config
        num_chars = sum(map(len, texts))
        with self._condition:
            if self._is_closing or self._thread is None or not self._thread.is_alive():
                raise QueueClosedError("the queue is closed: the server is shutting down")
            # A job that could never fit is let in when it has the queue for itself.
            if self.waiting_texts and (
                self.waiting_texts + len(texts) > config.max_texts
                or self.waiting_chars + num_chars > config.max_chars
            ):
                raise QueueFullError(
                    f"the queue is full: {self.waiting_texts} texts wait and {len(texts)} more do "
                    "not fit. Try again later, or send fewer texts at once.",
                    self.retry_after_s(),
                )
            job = Job(texts, labels, deliver)
            self._jobs.append(job)
            self.waiting_texts += len(texts)
            self.waiting_chars += num_chars
            self._condition.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Forget a job: what still waits of it is dropped, what is being read is not delivered."""
        with self._condition:
            if job.is_cancelled:
                return
            job.is_cancelled = True
            if job.num_taken < len(job.texts):
                self._jobs.remove(job)
                self.waiting_texts -= len(job.texts) - job.num_taken
                self.waiting_chars -= sum(len(text) for text in job.texts[job.num_taken :])

    def retry_after_s(self) -> int:
        """Seconds that what waits should take, by the speed seen so far; 1 to 60."""
        if not self._chars_per_s:
            return 1
        return max(1, min(60, math.ceil(self.waiting_chars / self._chars_per_s)))

    # The worker's thread

    def _work(self) -> None:
        try:
            for _ in self.tagger.pipe_as_done([("Warm up.", LabelSet.of(["thing"]))]):
                pass
        except Exception as error:
            log_error("warming up failed", error)
        self._is_warm = True
        while True:
            with self._condition:
                while not self._jobs and not self._is_closing:
                    self._condition.wait()
                if not self._jobs:
                    return
            self._run_round()

    def _run_round(self) -> None:
        """Read what waits, and what arrives meanwhile, until nothing waits or is being read."""
        self._num_taken = 0
        since_s, num_chars = time.monotonic(), 0
        error: Exception
        try:
            stream = self.tagger.pipe_as_done(
                self._items(), threshold=0.0, is_wanted=self._is_wanted
            )
            for number, document in stream:
                self._note_batch()
                job, index, taken_s = self._in_flight.pop(number)
                now_s = time.monotonic()
                self._text_s = 0.7 * self._text_s + 0.3 * (now_s - taken_s)
                num_chars += len(document.text)
                if now_s - since_s > 0.5:
                    self._note_speed(num_chars / (now_s - since_s))
                    since_s, num_chars = now_s, 0
                self._hand_out(job, index, document)
                if self._in_flight and all(x.is_cancelled for x, _, _ in self._in_flight.values()):
                    close = getattr(stream, "close", None)
                    if close is not None:
                        close()
                        self._in_flight.clear()
                        break
            error = RuntimeError("the tagger gave fewer documents than it took texts")
        except Exception as caught:
            error = caught
        if self._in_flight:
            self._salvage(error)
        seconds = time.monotonic() - since_s
        if seconds > 0 and num_chars:
            self._note_speed(num_chars / seconds)

    def _note_speed(self, chars_per_s: float) -> None:
        before = self._chars_per_s
        self._chars_per_s = 0.7 * before + 0.3 * chars_per_s if before else chars_per_s

    def _is_wanted(self, number: int) -> bool:
        taken = self._in_flight.get(number)
        if taken is None or not taken[0].is_cancelled:
            return True
        del self._in_flight[number]
        return False

    def _salvage(self, error: Exception) -> None:
        """Read the texts of a failed round one by one, so that only those at fault fail."""
        log_error("a batch failed", error)
        self._gathered.clear()
        rest = list(self._in_flight.values())
        self._in_flight.clear()
        for job, index, _ in rest:
            if job.is_cancelled:
                continue
            result: Document | Exception = error
            if len(rest) > 1:
                try:
                    item = (job.texts[index], job.labels)
                    _, result = next(iter(self.tagger.pipe_as_done([item], threshold=0.0)))
                except Exception as caught:
                    result = caught
            self._hand_out(job, index, result)

    def _items(self) -> Iterator[tuple[str, LabelSet] | None]:
        while True:
            taken = self._take()
            if taken is None:
                self._note_batch()
                if not self._in_flight:
                    return
                yield None
                continue
            job, index = taken
            now_s = time.monotonic()
            self._in_flight[self._num_taken] = job, index, now_s
            self._num_taken += 1
            self._gathered.append(len(job.texts[index]))
            self._observer.waited(now_s - job.submitted_s)
            yield job.texts[index], job.labels

    def _take(self) -> tuple[Job, int] | None:
        with self._condition:
            if self._answered > 1 and not self._in_flight:
                self._gather()
            self._answered = 0
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            index = job.num_taken
            job.num_taken += 1
            if job.num_taken < len(job.texts):
                self._jobs.append(job)  # behind the others: they take turns
            self.waiting_texts -= 1
            self.waiting_chars -= len(job.texts[index])
            return job, index

    def _gather(self) -> None:
        """Wait a moment for callers who were answered together and are about to ask again.

        Without it, eight callers who ask again as soon as they are answered would be read as one,
        then seven, then one: at half the speed.
        """
        config = self.config
        most_s = min(config.max_gather_s, config.gather_share * self._text_s)
        until_s = self._answered_at_s + most_s
        while len(self._jobs) < self._answered and not self._is_closing:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            self._condition.wait(left_s)

    def _note_batch(self) -> None:
        if self._gathered:
            self._observer.batched(len(self._gathered), sum(self._gathered))
            self._gathered.clear()

    def _hand_out(self, job: Job, index: int, result: Document | Exception) -> None:
        if isinstance(result, Document):
            self._observer.finished(result)
        job.results[index] = result
        while job.num_done in job.results:
            index, job.num_done = job.num_done, job.num_done + 1
            result = job.results.pop(index)
            if job.num_done == len(job.texts):
                self._answered += 1
                self._answered_at_s = time.monotonic()
            if job.is_cancelled:
                continue
            try:
                job.deliver(index, result)
            except Exception as error:  # a caller's fault must not stop the others
                log_error("a document could not be delivered", error)
                self.cancel(job)


def log_error(what: str, error: BaseException) -> None:
    """Log where an error was raised, and its type; not its message, which may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    logger.error("%s: %s at %s", what, type(error).__name__, places or "(unknown)")
