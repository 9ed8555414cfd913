"""What is behind the routes: who may ask, how much at once, the queue, and what is counted.

Knows nothing of paths and status lines beyond the problems it raises.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

from nomina.batching import (
    Batcher,
    Observer,
    QueueClosedError,
    QueueConfig,
    QueueFullError,
    Tagger,
)
from nomina.documents import Document
from nomina.entities import LabelSet
from nomina.errors import LabelError, MissingExtraError, TextError
from nomina.server_config import ServerConfig
from nomina.server_connections import Gate
from nomina.server_messages import Problem, busy

try:
    from prometheus_client import (
        CollectorRegistry,
        Gauge,
        Histogram,
        ProcessCollector,
    )
    from prometheus_client import Counter as CounterMetric
    from starlette.requests import Request
    from starlette.types import Message
except ImportError as error:
    raise MissingExtraError(error.name or "fastapi", "serve") from error

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics(Observer):
    """What is counted for Prometheus.

    Names of routes and reasons come from fixed sets, so that no request can add a series.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "method", "status")
        self.seconds = self._histogram(
            "request_seconds", "Time to answer a request.", _SECONDS, "route"
        )
        self.rejected = self._counter("rejected", "Requests turned away.", "reason")
        self.gone = self._counter("clients_gone", "Clients that left before their answer.")
        self.texts = self._counter("texts", "Texts read.")
        self.characters = self._counter("characters", "Characters read.")
        self.entities = self._counter("entities", "Entities found, whatever their score.")
        self.queue_seconds = self._histogram("queue_seconds", "Time texts waited.", _SECONDS)
        sizes = tuple(2.0**power for power in range(11))
        self.batch_texts = self._histogram("batch_texts", "Texts taken in one go.", sizes)
        self.batch_characters = self._histogram(
            "batch_characters", "Characters taken in one go.", tuple(64.0 * x for x in sizes)
        )
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> CounterMetric:
        return CounterMetric(f"nomina_{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(f"nomina_{name}", about, labels, buckets=buckets, registry=self.registry)

    def watch(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when it is asked for."""
        Gauge(f"nomina_{name}", about, registry=self.registry).set_function(read)

    def waited(self, seconds: float) -> None:
        """Count the time a text waited."""
        self.queue_seconds.observe(seconds)

    def batched(self, num_texts: int, num_chars: int) -> None:
        """Count a batch."""
        self.batch_texts.observe(num_texts)
        self.batch_characters.observe(num_chars)

    def finished(self, document: Document) -> None:
        """Count a document."""
        self.texts.inc()
        self.characters.inc(len(document.text))
        self.entities.inc(len(document.entities))


# --------------------------------------------------------------------------------------------------
# One extraction


class Answers:
    """Documents of one job, handed over from the worker's thread to the event loop."""

    def __init__(self, batcher: Batcher, texts: Sequence[str], labels: LabelSet) -> None:
        loop = asyncio.get_running_loop()
        results: asyncio.Queue[Document | Exception] = asyncio.Queue()

        def deliver(index: int, result: Document | Exception) -> None:
            loop.call_soon_threadsafe(results.put_nowait, result)

        self._results = results
        self._num_left = len(texts)
        self._batcher = batcher
        self._job = batcher.submit(texts, labels, deliver)

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> Document:
        if not self._num_left:
            raise StopAsyncIteration
        result = await self._results.get()
        self._num_left -= 1
        if isinstance(result, LabelError):
            raise Problem(422, "label-error", str(result)) from result
        if isinstance(result, TextError):
            raise Problem(422, "text-error", str(result)) from result
        if isinstance(result, Exception):
            raise Problem(
                500, "internal-error", "a text could not be read; the server's log says more"
            ) from result
        return result

    def cancel(self) -> None:
        """Give up what is left."""
        self._batcher.cancel(self._job)


class ClientGoneError(Exception):
    """The client left before its answer."""


class Service:
    """All that is behind the routes: the tagger's queue, limits, tokens, metrics.

    Args:
        tagger: What reads texts; from now on only called by the queue's worker.
        config: Who may ask, and for how much.
    """

    def __init__(self, tagger: Tagger, config: ServerConfig) -> None:
        self.config = config
        self.limits = limits = config.limits
        self.metrics = Metrics()
        self.name = _public_name(tagger.name)
        self.default_threshold = _default_threshold(tagger)
        queue = QueueConfig(limits.max_waiting_texts, limits.max_waiting_chars)
        self.batcher = Batcher(tagger, queue, self.metrics)
        self.is_draining = False
        self.gate = Gate(limits, self._reject_connection)
        self._token_hashes = [_hash(token) for token in config.tokens]
        self._num_buffered_bytes = 0
        self._clients: Counter[str] = Counter()
        # Equal label sets become one object, which is what taggers keep prepared prompts by.
        self._label_sets: OrderedDict[LabelSet, LabelSet] = OrderedDict()
        watch = self.metrics.watch
        watch("queue_texts", "Texts that wait.", lambda: self.batcher.waiting_texts)
        watch("queue_characters", "Characters that wait.", lambda: self.batcher.waiting_chars)
        watch("reading_texts", "Texts being read.", lambda: self.batcher.num_in_flight)
        watch("extractions", "Extractions under way.", lambda: self._clients.total())
        watch("connections", "Open connections.", lambda: len(self.gate.connections))
        watch("label_sets", "Label sets kept.", lambda: len(self._label_sets))
        usage = getattr(getattr(tagger, "engine", None), "usage", None)
        for name, about in (("tokens", "Tokens read."), ("passes", "Readings of the model.")):
            if hasattr(usage, name):
                read = functools.partial(getattr, usage, name)
                watch(f"model_{name}", f"{about} Grows only.", read)

    def authorize(self, request: Request) -> str:
        """Check the token, and return who asks: which token, or which address.

        Raises:
            Problem: If there is no right token (401).
        """
        address = request.client.host if request.client else "unknown"
        if not self._token_hashes:
            return address
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = _hash(token.strip()) if scheme.lower() == "bearer" else b""
        found = -1
        for number, known in enumerate(self._token_hashes):  # all of them: no early way out
            if hmac.compare_digest(known, given):
                found = number
        if found < 0:
            self.metrics.rejected.labels("token").inc()
            raise Problem(
                401,
                "token-needed",
                "this server asks for a token: send `Authorization: Bearer TOKEN`",
                {"www-authenticate": 'Bearer realm="nomina"'},
            )
        return f"token {found}"

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Take one of the places for extractions under way.

        Raises:
            Problem: If there is none (503), or the client has its share (429).
        """
        self.check_room(client)
        self._clients[client] += 1
        try:
            yield
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def check_room(self, client: str) -> None:
        """Refuse a client if there is no place for it now; see `slot`."""
        limits = self.limits
        if self.is_draining:
            raise self._turn_away("shutting-down", "the server is shutting down", 5)
        if self._clients.total() >= limits.max_requests:
            raise self._turn_away(
                "too-busy",
                f"{limits.max_requests} requests are under way, which is all there may be. "
                "Try again later.",
                self.batcher.retry_after_s(),
            )
        if self._clients[client] >= limits.max_client_requests:
            raise self._turn_away(
                "too-many-requests",
                f"you have {limits.max_client_requests} requests under way, which is all you may "
                "have. Wait for one to end.",
                self.batcher.retry_after_s(),
                429,
            )

    def _turn_away(self, kind: str, detail: str, retry_after_s: int, status: int = 503) -> Problem:
        self.metrics.rejected.labels(kind).inc()
        return busy(kind, detail, retry_after_s, status)

    def _reject_connection(self, reason: str) -> None:
        self.metrics.rejected.labels(reason).inc()

    def submit(self, texts: Sequence[str], labels: LabelSet) -> Answers:
        """Put texts into the queue.

        Raises:
            Problem: If it is full or closed (503).
        """
        try:
            return Answers(self.batcher, texts, self._intern(labels))
        except QueueFullError as error:
            raise self._turn_away("queue-full", str(error), error.retry_after_s) from None
        except QueueClosedError as error:
            raise self._turn_away("shutting-down", str(error), 5) from None

    def _intern(self, labels: LabelSet) -> LabelSet:
        found = self._label_sets.setdefault(labels, labels)
        self._label_sets.move_to_end(found)
        if len(self._label_sets) > 256:
            self._label_sets.popitem(last=False)
        return found

    async def read_body(self, request: Request) -> bytes:
        """Receive a body, within limits of size, of time, and of all bodies together.

        Raises:
            Problem: If it is too large (413), too slow (408), or too much is under way (503).
            ClientGoneError: If the client leaves.
        """
        limits = self.limits
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > limits.max_body_bytes:
            raise self._too_large()
        until_s = time.monotonic() + limits.body_timeout_s
        parts: list[bytes] = []
        num_bytes = 0
        try:
            while True:
                message = await in_time(request.receive(), until_s)
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part: bytes = message.get("body", b"")
                parts.append(part)
                num_bytes += len(part)
                self._num_buffered_bytes += len(part)
                if num_bytes > limits.max_body_bytes:
                    raise self._too_large()
                if self._num_buffered_bytes > limits.max_buffered_bytes:
                    raise self._turn_away(
                        "too-busy", "too much is being received. Try again later.", 1
                    )
                if not message.get("more_body", False):
                    return b"".join(parts)
        except asyncio.TimeoutError:
            self.metrics.rejected.labels("slow-body").inc()
            raise Problem(
                408,
                "slow-body",
                f"a body must arrive within {limits.body_timeout_s:g} seconds",
                {"connection": "close"},
            ) from None
        finally:
            self._num_buffered_bytes -= num_bytes

    def _too_large(self) -> Problem:
        self.metrics.rejected.labels("body-too-large").inc()
        return Problem(
            413,
            "body-too-large",
            f"a body may have at most {self.limits.max_body_bytes} bytes. Send several requests.",
            {"connection": "close"},
        )


async def in_time(awaitable: Awaitable[Message], until_s: float) -> Message:
    """Wait for a message, until a time on the monotonic clock."""
    return await asyncio.wait_for(awaitable, max(0.0, until_s - time.monotonic()))


def _hash(token: str) -> bytes:
    # Equal lengths, so that a comparison's time does not tell a token's length
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _public_name(name: str) -> str:
    """Return a model's name without the folders it lies in, which concern nobody outside."""
    return PurePath(name).name if name.startswith(("/", ".", "~")) or "\\" in name else name


def _default_threshold(tagger: Tagger) -> float:
    config = getattr(getattr(tagger, "model", None), "config", None)
    return float(getattr(config, "threshold", 0.0))
