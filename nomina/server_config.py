"""Where the server listens, who may ask, and how much.

Knows nothing of HTTP beyond names; needs nothing that is not in the standard library.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomina.errors import NominaError

MIN_TOKEN_CHARS = 16


class ServerConfigError(NominaError, ValueError):
    """A server cannot be run as it was told: an unsafe address, a limit, a file of tokens."""


@dataclass(frozen=True)
class Limits:
    """How large and how many things may be; beyond each stands the answer it gives.

    Attributes:
        max_body_bytes: Bytes of a request's body (413).
        max_buffered_bytes: Bytes of all bodies that are being received (503).
        max_text_chars: Characters of a text (413). One text is read without a break: a longer one
            holds up others for longer.
        max_texts: Texts of a request (413).
        max_labels: Labels of a request (422).
        max_label_chars: Characters of all labels and definitions of a request (422).
        max_requests: Extractions under way (503).
        max_client_requests: Extractions under way of one token, or of one address (429).
        max_waiting_texts: Texts in the queue (503).
        max_waiting_chars: Characters in the queue (503).
        max_connections: Open connections; beyond it the one idle for longest is closed.
        head_timeout_s: Seconds for a connection to send its first line and headers (closed).
        body_timeout_s: Seconds for a body to arrive (408).
        write_timeout_s: Seconds without the client taking any of the answer (closed).
        drain_timeout_s: Seconds that requests get to finish on shutdown.
    """

    max_body_bytes: int = 8 * 1024 * 1024
    max_buffered_bytes: int = 64 * 1024 * 1024
    max_text_chars: int = 50_000
    max_texts: int = 1_000
    max_labels: int = 200
    max_label_chars: int = 20_000
    max_requests: int = 256
    max_client_requests: int = 128
    max_waiting_texts: int = 10_000
    max_waiting_chars: int = 4_000_000
    max_connections: int = 2_000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    drain_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if getattr(self, item.name) <= 0:
                raise ServerConfigError(
                    f"limit {item.name} must be above 0, was: {getattr(self, item.name)}"
                )

    @staticmethod
    def parse(settings: Sequence[str]) -> Limits:
        """Read limits from `NAME=VALUE` strings; what is not named keeps its default.

        Example:
            >>> Limits.parse(["max_labels=500", "body_timeout_s=2.5"]).max_labels
            500

        Raises:
            ServerConfigError: If a name is unknown, or a value not a number above 0.
        """
        known = {
            item.name: float if isinstance(item.default, float) else int
            for item in dataclasses.fields(Limits)
        }
        values: dict[str, Any] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name.strip() not in known:
                raise ServerConfigError(
                    f"a limit must be NAME=VALUE, was: {setting!r}. Names: {', '.join(known)}"
                )
            try:
                values[name.strip()] = known[name.strip()](value)
            except ValueError:
                raise ServerConfigError(
                    f"limit {name.strip()} must be a number, was: {value!r}"
                ) from None
        return Limits(**values)


@dataclass(frozen=True)
class ServerConfig:
    """Where the server listens, and who may ask.

    Attributes:
        host: Address to listen on. Anything but loopback needs a token.
        port: Port to listen on; 0 for any free one.
        tokens: Tokens, one of which must be sent as `Authorization: Bearer TOKEN`. Empty for none.
        allowed_hosts: Names the server may be called by (`Host`); empty for loopback names, or for
            any name if there is a token. Keeps web pages from reaching a local server through a
            name of their own (DNS rebinding).
        limits: How large and how many things may be.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for token in self.tokens:
            if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable():
                raise ServerConfigError(
                    f"a token must be {MIN_TOKEN_CHARS} or more printable ASCII characters, one "
                    f"has {len(token)}. "
                    'Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
        if not self.tokens and not is_loopback(self.host):
            raise ServerConfigError(
                f"listening on {self.host!r}, which others can reach, needs a token. Write one "
                "into a file and give it: --token-file FILE"
            )

    @property
    def host_names(self) -> frozenset[str] | None:
        """Names the server may be called by; None for any."""
        if self.allowed_hosts:
            return frozenset(name.lower() for name in self.allowed_hosts)
        if self.tokens:
            return None
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host.lower()})


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address means this machine only.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
        (True, True, False, False)
    """
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None)
        return all(ipaddress.ip_address(str(x[4][0]).split("%")[0]).is_loopback for x in found)
    except (OSError, ValueError):
        return False


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a file of tokens: one a line; blank lines and lines that start with `#` do not count.

    Raises:
        ServerConfigError: If it cannot be read or has no token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerConfigError(f"{path}: the file of tokens cannot be read: {error}") from error
    stripped = (line.strip() for line in lines)
    tokens = tuple(line for line in stripped if line and not line.startswith("#"))
    if not tokens:
        raise ServerConfigError(
            f"{path}: has no token. Write one a line: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))" > tokens.txt'
        )
    return tokens
