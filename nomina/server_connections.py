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


def _protocol(service: Service) -> type[H11Protocol]:
    """HTTP/1.1 as uvicorn speaks it, with limits on time and on the number of connections."""
    limits = service.limits
    connections: OrderedDict[Any, None] = OrderedDict()  # the one silent for longest first

    class GuardedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connections[self] = None
            service.num_connections = len(connections)
            self._watch_head()
            if len(connections) > limits.max_connections:
                victim = next((x for x in connections if x._is_idle()), self)
                service.metrics.rejected.labels("connection").inc()
                victim.transport.abort()
                connections.pop(victim, None)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            connections.pop(self, None)
            service.num_connections = len(connections)
            for timer in (self._head_timer, self._write_timer):
                if timer is not None:
                    timer.cancel()

        def data_received(self, data: bytes) -> None:
            if self in connections:
                connections.move_to_end(self)
            super().data_received(data)
            self._watch_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch_head()

        def _is_waiting_for_head(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _is_idle(self) -> bool:
            """Whether no whole request of it is under way: closing it loses nothing."""
            return self._is_waiting_for_head() or self.cycle.more_body

        def _watch_head(self) -> None:
            is_waiting = self._is_waiting_for_head() and self.timeout_keep_alive_task is None
            if is_waiting and self._head_timer is None:
                self._head_timer = self.loop.call_later(limits.head_timeout_s, self._give_up)
            elif not is_waiting and self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            service.metrics.rejected.labels("slow-client").inc()
            self.transport.abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(limits.write_timeout_s, self._give_up)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def send_400_response(self, msg: str) -> None:
            problem = Problem(400, "not-http", "this is not a request in HTTP/1.1")
            body = json.dumps(problem.to_dict()).encode()
            head = [
                b"HTTP/1.1 400 Bad Request",
                b"content-type: application/problem+json",
                b"connection: close",
                b"content-length: %d" % len(body),
                *(f"{key}: {value}".encode() for key, value in _SECURITY_HEADERS.items()),
            ]
            self.transport.write(b"\r\n".join([*head, b"", body]))
            self.transport.close()

    return GuardedProtocol
