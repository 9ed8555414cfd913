"""A tagger that is somewhere else: `Client` has the call shape of a local one.

It speaks to `nomina serve` over HTTP with the standard library only. A request that was turned
away for want of room, or whose connection broke before an answer, is sent again after a while:
extracting has no effects, so that sending twice does no harm.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from nomina.documents import Document
from nomina.entities import Example, Label, LabelSet
from nomina.errors import LabelError, NominaError, TextError

Labels = LabelSet | Mapping[str, Any] | Iterable[str | Label]

# What one request carries at most: many texts that are read together, but an answer within seconds
_MAX_REQUEST_TEXTS = 32
_MAX_REQUEST_CHARS = 100_000


class ServerError(NominaError, RuntimeError):
    """A server cannot be reached, or refused or failed.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        problem: Problem details (RFC 9457) as the server sent them.
    """

    def __init__(
        self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class Client:
    """Finds entities of any labels in texts, on a server. May be shared by threads.

    Args:
        url: Where the server is, such as "http://127.0.0.1:8000".
        token: The token it asks for, if it does. Defaults to the environment's `NOMINA_TOKEN`.
        timeout: Seconds to wait for an answer.
        retries: How often a request is sent again that was turned away or lost.
        concurrency: Requests that `pipe` and `pipe_many` have under way at once.

    Example:
        >>> import nomina
        >>> tagger = nomina.Client("http://127.0.0.1:8000")          # doctest: +SKIP
        >>> tagger("did george clooney sing", ["actor"]).entities    # doctest: +SKIP
        (Entity(text='george clooney', label='actor', start=4, end=18, score=0.97),)
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 4,
        concurrency: int = 4,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(
                f"a server's address must be like http://127.0.0.1:8000, was: {url!r}"
            )
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise ServerError(
                "concurrency must be at least 1, retries at least 0 and timeout above 0, were: "
                f"{concurrency}, {retries}, {timeout}"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retries = retries
        self.concurrency = concurrency
        self._parts = parts
        token = os.environ.get("NOMINA_TOKEN") if token is None else token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._name: str | None = None

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections that are kept for the next request; later calls open new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @property
    def name(self) -> str:
        """Name of the server's model.

        Raises:
            ServerError: If the server cannot be asked.
        """
        if self._name is None:
            answer = self._send("GET", "/v1/models")
            try:
                self._name = str(answer["models"][0]["id"])
            except (KeyError, TypeError, IndexError):
                raise ServerError(f"{self.url} answers, but not as nomina does", 200) from None
        return self._name

    def __call__(
        self,
        text: str | Example,
        labels: Labels,
        *,
        threshold: float | None = None,
        definitions: bool = True,
    ) -> Document:
        """Find entities in one text.

        Args:
            text: Any string. Of an `Example` only the text is sent.
            labels: What to look for: names, or names with definitions.
            threshold: Entities scored below it are left out. Defaults to the model's own.
            definitions: Whether the model is shown definitions, where there are any.

        Raises:
            LabelError: If the labels cannot be used, or are too many for the server.
            TextError: If the text is not a string, or too long for the server.
            ServerError: If the server cannot be reached, or refused or failed.
        """
        label_set = _shown(LabelSet.of(labels), definitions)
        return self._extract([_text(text)], label_set, threshold)[0]

    def pipe(
        self,
        texts: Iterable[str | Example],
        labels: Labels,
        *,
        threshold: float | None = None,
        definitions: bool = True,
    ) -> Iterator[Document]:
        """Find entities in many texts; yields documents in order.

        Args:
            texts: Any iterable; it is read only a few requests ahead, so it may be endless.
            labels: As for a call.
            threshold: As for a call.
            definitions: As for a call.

        Raises:
            LabelError: If the labels cannot be used, or are too many for the server.
            TextError: If a text is not a string, or too long for the server.
            ServerError: If the server cannot be reached, or refused or failed.
        """
        if isinstance(texts, str):
            raise TextError("`pipe` takes many texts, was given one string. Call the client itself")
        label_set = LabelSet.of(labels)
        items = ((text, label_set) for text in texts)
        return self.pipe_many(items, threshold=threshold, definitions=definitions)

    def pipe_many(
        self,
        items: Iterable[tuple[str | Example, LabelSet]],
        *,
        threshold: float | None = None,
        definitions: bool = True,
    ) -> Iterator[Document]:
        """Find entities in many texts, each with a label set of its own; see `pipe`."""
        waiting: deque[Future[list[Document]]] = deque()
        with ThreadPoolExecutor(self.concurrency, "nomina-client") as pool:
            try:
                for texts, labels in _requests(items, definitions):
                    waiting.append(pool.submit(self._extract, texts, labels, threshold))
                    if len(waiting) > self.concurrency:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _extract(
        self, texts: list[str], labels: LabelSet, threshold: float | None
    ) -> list[Document]:
        body = {
            "texts": texts,
            "labels": {label.name: _table(label) for label in labels},
            "threshold": threshold,
        }
        answer = self._send("POST", "/v1/extract", json.dumps(body).encode())
        try:
            return [Document.from_dict(record) for record in answer["documents"]]
        except (KeyError, TypeError):
            raise ServerError(f"{self.url} answers, but not as nomina does", 200) from None

    def _send(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request, again if it was turned away or lost; return what was answered."""
        for attempt in range(self.retries + 1):
            error, wait_s = None, 0.0
            try:
                status, headers, data = self._send_once(method, path, body)
                if status == 200:
                    return json.loads(data)
                error = _error(status, data)
                if status not in (429, 503):
                    break
                wait_s = _seconds(headers.get("retry-after"))
            except TimeoutError as caught:
                raise ServerError(
                    f"{self.url} gave no answer within {self.timeout:g} seconds. Give a longer "
                    "`timeout`, or send shorter texts."
                ) from caught
            except (OSError, http.client.HTTPException) as caught:
                reason = str(caught) or type(caught).__name__
                error = ServerError(f"{self.url} cannot be reached: {reason}. Does it run?")
            except ValueError as caught:
                raise ServerError(f"{self.url} answers, but not as nomina does: {caught}") from None
            if attempt < self.retries:
                # Spread out, so that clients turned away together do not come back together
                time.sleep(max(wait_s, 0.05 * 2**attempt) * random.uniform(1.0, 1.5))
        assert error is not None
        raise error

    def _send_once(
        self, method: str, path: str, body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        headers = {**self._headers, "Accept": "application/json", "User-Agent": "nomina"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if kept is not None:
            try:
                return self._talk(kept, method, path, body, headers)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                pass  # the server had closed it meanwhile: a new one decides
        return self._talk(self._connect(), method, path, body, headers)

    def _talk(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            try:
                connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # It may have been refused before it was read: the answer says why
            response = connection.getresponse()
            data = response.read()
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        return response.status, response.headers, data

    def _connect(self) -> http.client.HTTPConnection:
        parts = self._parts
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                host, parts.port, timeout=self.timeout, context=context
            )
        return http.client.HTTPConnection(host, parts.port, timeout=self.timeout)


def _requests(
    items: Iterable[tuple[str | Example, LabelSet]], definitions: bool
) -> Iterator[tuple[list[str], LabelSet]]:
    """Put neighbours with the same labels into one request."""
    texts: list[str] = []
    num_chars = 0
    current: LabelSet | None = None
    for text, labels in items:
        raw = _text(text)
        is_full = len(texts) == _MAX_REQUEST_TEXTS or num_chars + len(raw) > _MAX_REQUEST_CHARS
        if current is not None and texts and (is_full or labels != current):
            yield texts, _shown(current, definitions)
            texts, num_chars = [], 0
        current = labels
        texts.append(raw)
        num_chars += len(raw)
    if current is not None and texts:
        yield texts, _shown(current, definitions)


def _text(text: str | Example) -> str:
    if isinstance(text, Example):
        return text.text
    if not isinstance(text, str):
        raise TextError(
            f"a text must be a string, was: {text!r:.60} ({type(text).__name__}). "
            'Example: client("in Paris", ["city"])'
        )
    return text


def _shown(labels: LabelSet, definitions: bool) -> LabelSet:
    return labels if definitions else LabelSet.of(labels.names)


def _table(label: Label) -> dict[str, Any]:
    table: dict[str, Any] = {"definition": label.definition}
    if label.examples:
        table["examples"] = list(label.examples)
    return table


def _seconds(value: str | None) -> float:
    return min(60.0, float(value)) if value and value.isdecimal() else 0.0


def _error(status: int, data: bytes) -> NominaError:
    """Turn an answer into the error that a local tagger would raise, if there is one."""
    try:
        problem = json.loads(data)
        kind = str(problem["type"]).rpartition(":")[2]
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"the server answered {status}, and not as nomina does", status)
    pointers = [str(fault.get("pointer", "")) for fault in problem.get("errors") or ()]
    if kind in ("label-error", "too-many-labels", "labels-too-long"):
        return LabelError(detail)
    if kind in ("text-error", "text-too-long") or any(x.startswith("#/texts") for x in pointers):
        return TextError(detail)
    if "#/threshold" in pointers:
        return TextError(f"threshold must be a probability from 0 to 1: {detail}")
    return ServerError(f"the server answered {status}: {detail}", status, problem)
