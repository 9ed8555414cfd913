"""HTTP/1.1 as uvicorn speaks it, with limits on time and on the number of connections.

Slow heads, readers that take nothing, and connections beyond the limit are closed here. Knows
nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from nomina.errors import MissingExtraError
from nomina.server_config import Limits
from nomina.server_messages import SECURITY_HEADERS, Problem

try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError(error.name or "uvicorn", "serve") from error


class Gate:
    """The open connections of a server, the one silent for longest first.

    Args:
        limits: How many there may be and how long they may take.
        on_reject: Is told why a connection was closed.
    """

    def __init__(self, limits: Limits, on_reject: Callable[[str], None]) -> None:
        self.limits = limits
        self.on_reject = on_reject
        self.connections: OrderedDict[GuardedProtocol, None] = OrderedDict()

    def admit(self, newcomer: GuardedProtocol) -> None:
        """Take a connection in; beyond the limit the one idle for longest makes room."""
        self.connections[newcomer] = None
        if len(self.connections) > self.limits.max_connections:
            victim = next((item for item in self.connections if item.is_idle), newcomer)
            del self.connections[victim]
            self.on_reject("connection")
            victim.transport.abort()


class GuardedProtocol(H11Protocol):
    """One connection, with limits on the time that its client may take.

    Args:
        gate: The connections it is one of.
        *args: As uvicorn makes it.
        **kwargs: As uvicorn makes it.
    """

    def __init__(self, gate: Gate, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gate = gate
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no whole request of it is under way: closing it loses nothing."""
        return self._is_waiting_for_head or self.cycle.more_body

    @property
    def _is_waiting_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._gate.admit(self)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._gate.connections.pop(self, None)
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self in self._gate.connections:
            self._gate.connections.move_to_end(self)
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch_head()

    def _watch_head(self) -> None:
        # Between two requests uvicorn has a timer of its own, until the first byte of the next
        is_watched = self._is_waiting_for_head and self.timeout_keep_alive_task is None
        if is_watched and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._gate.limits.head_timeout_s, self._give_up)
        elif not is_watched and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._gate.on_reject("slow-client")
        self.transport.abort()

    def pause_writing(self) -> None:
        """Give the client some time to take what was sent."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._gate.limits.write_timeout_s, self._give_up)

    def resume_writing(self) -> None:
        """Send on."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as all else is answered: with problem details."""
        if not self._is_waiting_for_head:  # a body that is not as its head said
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        problem = Problem(400, "not-http", "this is not a request in HTTP/1.1, or its head is huge")
        body = json.dumps(problem.to_dict()).encode()
        head = [
            b"HTTP/1.1 400 Bad Request",
            b"content-type: application/problem+json",
            b"connection: close",
            b"content-length: %d" % len(body),
            *(f"{key}: {value}".encode() for key, value in SECURITY_HEADERS.items()),
        ]
        self.transport.write(b"\r\n".join([*head, b"", body]))
        self.transport.close()
