"""How much a server carries, and what it takes badly.

    python benchmarks/serving.py load            # 1, 8, 64 clients against the tagger in a loop
    python benchmarks/serving.py abuse           # idle and slow clients, huge bodies, label churn
    python benchmarks/serving.py term            # SIGTERM under load
    python benchmarks/serving.py load --model default   # the same with the real model

Each result is one line of JSON. Server and clients are processes of their own on the same machine.
The scripted tagger takes a fixed time a batch and a little a text, as a model does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from nomina.batching import Tagger
from nomina.documents import Document
from nomina.entities import Entity, LabelSet, split_words

TEXTS = (
    "did george clooney make a musical in the 1980s",
    "show me slow science fiction films by denis villeneuve",
    "which pixar movie won best animated feature in 2004",
    "A 67-year-old woman with type 2 diabetes was given amoxicillin 1 g every eight hours.",
    "The monthly rent is EUR 1,240, due on the first working day of each month.",
    "Marta Kowalczyk scored twice as Legia Warszawa beat FC Porto in Gdańsk on Thursday night.",
)
LABELS = {"person": "", "place": "", "date": "a day or a year", "amount": ""}


class ScriptedTagger:
    """Takes `batch_s` a batch and `text_s` a text; capitals are entities."""

    name = "scripted"

    def __init__(self, batch_s: float, text_s: float, max_rows: int = 24) -> None:
        self.batch_s, self.text_s, self.max_rows = batch_s, text_s, max_rows

    def pipe_as_done(
        self, items: Any, *, threshold: float | None = None, is_wanted: Any = None
    ) -> Iterator[tuple[int, Document]]:
        """Yield documents batch by batch."""
        items, number = iter(items), itertools.count()
        todo = itertools.takewhile(lambda item: item is not None, items)
        while batch := list(itertools.islice(todo, self.max_rows)):
            todo = itertools.takewhile(lambda item: item is not None, items)
            time.sleep(self.batch_s + self.text_s * len(batch))
            for text, labels in batch:
                found = tuple(
                    Entity(text[a:b], labels[0].name, a, b, 0.9)
                    for a, b in split_words(text)
                    if text[a].isupper()
                )
                yield next(number), Document(text, found)


def make_tagger(options: argparse.Namespace) -> Tagger:
    if options.model == "scripted":
        return ScriptedTagger(options.batch_ms / 1000, options.text_ms / 1000)
    import nomina

    return nomina.load(None if options.model == "default" else options.model)


def serve(options: argparse.Namespace) -> None:
    from nomina import server
    from nomina.commands import serving
    from nomina.server_config import Limits, ServerConfig

    serving._log(True)
    limits = Limits.parse(options.limit)
    tagger = serving.load_aside(lambda: make_tagger(options))
    server.serve(tagger, ServerConfig(port=options.port, limits=limits))


# --------------------------------------------------------------------------------------------------
# Clients


class Connection:
    """One connection that is kept; does little, so that the server is what is timed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, body: bytes, path: str = "/v1/extract") -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer."""
        if self.writer is None:
            await self.open()
        assert self.writer is not None
        head = (
            f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: localhost\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        match = re.search(rb"content-length: (\d+)", answer)
        length = int(match.group(1)) if match else 0
        return int(answer[9:12]), await self.reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        if self.writer is not None:
            self.writer.transport.abort()


def body_of(texts: list[str], labels: Any = None) -> bytes:
    return json.dumps({"texts": texts, "labels": labels or LABELS}).encode()


async def honest(port: int, stop: asyncio.Event, make: Callable[[int], bytes]) -> list[float]:
    """Ask one text after the other; return how long each answer took."""
    connection = Connection(port)
    times = []
    number = 0
    try:
        while not stop.is_set():
            started = time.perf_counter()
            status, _ = await connection.ask(make(number))
            if status != 200:
                raise RuntimeError(f"status {status}")
            times.append(time.perf_counter() - started)
            number += 1
    finally:
        connection.close()
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    ranked = sorted(times)
    return {
        f"p{p}_ms": round(1000 * ranked[min(len(ranked) - 1, len(ranked) * p // 100)], 1)
        for p in (50, 95, 99)
    }


@contextlib.contextmanager
def server(options: argparse.Namespace, *limits: str) -> Iterator[tuple[int, int]]:
    """Run a server in a process of its own; yields its port and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["--model", options.model, "--port", str(port), "--batch-ms", str(options.batch_ms)]
    settings += ["--text-ms", str(options.text_ms)]
    settings += [part for limit in limits for part in ("--limit", limit)]
    process = subprocess.Popen([sys.executable, __file__, "serve", *settings])
    try:
        asyncio.run(ready(port))
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def ready(port: int, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        connection = Connection(port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await connection.ask(b"", "/readyz"))[0] == 200:
                connection.close()
                return
        if time.monotonic() > until:
            raise RuntimeError("the server did not come up")
        await asyncio.sleep(0.05)


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def show(**values: Any) -> None:
    print(json.dumps(values), flush=True)


# --------------------------------------------------------------------------------------------------
# What is measured


def load(options: argparse.Namespace) -> None:
    tagger = make_tagger(options)
    labels = LabelSet.of(LABELS)
    times: list[float] = []
    for text in TEXTS:  # warm
        for _ in tagger.pipe_as_done([(text, labels)], threshold=0.0):
            pass
    started = time.perf_counter()
    while time.perf_counter() - started < options.seconds:
        at = time.perf_counter()
        text = TEXTS[len(times) % len(TEXTS)]
        for _ in tagger.pipe_as_done([(text, labels)], threshold=0.0):
            pass
        times.append(time.perf_counter() - at)
    rate = len(times) / (time.perf_counter() - started)
    base = rate
    show(what="loop", model=options.model, texts_per_s=round(rate, 1), **percentiles(times))
    del tagger

    async def clients(port: int, count: int) -> tuple[list[float], float]:
        stop = asyncio.Event()
        tasks = [
            asyncio.ensure_future(
                honest(port, stop, lambda n, c=c: body_of([TEXTS[(n + c) % len(TEXTS)]]))  # type: ignore[misc]
            )
            for c in range(count)
        ]
        started = time.perf_counter()
        await asyncio.sleep(options.seconds)
        stop.set()
        found = await asyncio.gather(*tasks)
        return [x for times in found for x in times], time.perf_counter() - started

    with server(options) as (port, pid):
        asyncio.run(clients(port, 4))  # warm
        for count in options.clients:
            times, took = asyncio.run(clients(port, count))
            rate = len(times) / took
            show(
                what="http",
                model=options.model,
                clients=count,
                texts_per_s=round(rate, 1),
                against_loop=round(rate / base, 2),
                server_mib=round(resident_mib(pid)),
                **percentiles(times),
            )


async def idle(port: int) -> AsyncIterator[None]:
    """10,000 connections that say nothing."""
    found = []
    for _ in range(100):
        for _ in range(100):
            connection = socket.socket()
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.connect(("127.0.0.1", port))
            found.append(connection)
        await asyncio.sleep(0.01)
    yield
    for connection in found:
        connection.close()


async def slow_loris(port: int, head: bytes) -> AsyncIterator[None]:
    """500 connections that send a byte a second, and come back when they are cut off."""

    async def drip() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head)
                while not reader.at_eof() and not writer.is_closing():
                    writer.write(b"a")
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(reader.read(1000), 1.0)
                writer.transport.abort()
            await asyncio.sleep(0.1)

    tasks = [asyncio.ensure_future(drip()) for _ in range(500)]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def huge(port: int) -> AsyncIterator[None]:
    """Bodies of 100 MB, one after the other."""
    statuses: list[int] = []
    part = b" " * 1_000_000

    async def send() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: 100000000\r\n\r\n"
            )
            with contextlib.suppress(OSError):
                for _ in range(100):
                    writer.write(part)
                    await writer.drain()
            with contextlib.suppress(OSError):
                statuses.append(int((await reader.read(1000))[9:12]))
            writer.transport.abort()

    task = asyncio.ensure_future(send())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    show(what="100 MB bodies answered", statuses={str(x): statuses.count(x) for x in set(statuses)})


async def churn(port: int, num_labels: int) -> AsyncIterator[None]:
    """Four clients with a label set of their own in every request."""
    stop = asyncio.Event()

    def make(number: int) -> bytes:
        return body_of([TEXTS[0]], [f"label {number} {index}" for index in range(num_labels)])

    tasks = [asyncio.ensure_future(honest(port, stop, make)) for _ in range(4)]
    yield
    stop.set()
    await asyncio.gather(*tasks)


def abuse(options: argparse.Namespace) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loris_head = b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\nx: "
    loris_body = (
        b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 1000000\r\n\r\n"
    )
    attacks: dict[str, Callable[[int], AsyncIterator[None]] | None] = {
        "nothing": None,
        "10,000 idle connections": idle,
        "500 slow heads": lambda port: slow_loris(port, loris_head),
        "500 slow bodies": lambda port: slow_loris(port, loris_body),
        "100 MB bodies": huge,
        "4 clients, 5 new labels a request": lambda port: churn(port, 5),
        "4 clients, 1,000 new labels a request": lambda port: churn(port, 1000),
    }
    for name, attack in attacks.items():
        with server(options, "max_labels=1000", "max_label_chars=50000") as (port, pid):
            show(what=name, **asyncio.run(under(attack, port, pid, options.seconds)))


async def under(attack: Any, port: int, pid: int, seconds: float) -> dict[str, Any]:
    """What an honest client sees while others do not behave."""
    stop = asyncio.Event()
    before = resident_mib(pid)
    running = attack(port) if attack else None
    if running is not None:
        await anext(running)
    work = asyncio.ensure_future(honest(port, stop, lambda n: body_of([TEXTS[n % len(TEXTS)]])))
    most = before
    until = time.monotonic() + seconds
    while time.monotonic() < until and not work.done():
        most = max(most, resident_mib(pid))
        await asyncio.sleep(0.05)
    stop.set()
    times = await work
    if running is not None:
        await anext(running, None)
    await asyncio.sleep(0.5)
    return {
        "honest_texts_per_s": round(len(times) / seconds, 1),
        **percentiles(times),
        "slowest_ms": round(1000 * max(times), 1),
        "mib_before": round(before),
        "mib_most": round(most),
        "mib_after": round(resident_mib(pid)),
    }


def term(options: argparse.Namespace) -> None:
    """SIGTERM while 64 clients ask: each request is answered whole, or not accepted at all."""
    counts: dict[str, int] = {}

    async def ask(port: int, number: int) -> None:
        while True:
            connection = Connection(port)
            try:
                await connection.open()
            except OSError:
                return  # it listens no more
            try:
                status, data = await connection.ask(body_of([TEXTS[number % len(TEXTS)]] * 4))
                answer = json.loads(data)
                kind = "whole" if status != 200 or len(answer["documents"]) == 4 else "broken"
                kind = f"{status} {kind}"
            except asyncio.IncompleteReadError as error:
                kind = "broken off" if error.partial else "closed before a byte"
            except OSError:
                kind = "closed before a byte"
            finally:
                connection.close()
            counts[kind] = counts.get(kind, 0) + 1

    async def main(port: int, pid: int) -> float:
        tasks = [asyncio.ensure_future(ask(port, n)) for n in range(64)]
        await asyncio.sleep(options.seconds)
        os.kill(pid, signal.SIGTERM)
        started = time.monotonic()
        await asyncio.gather(*tasks)
        return time.monotonic() - started

    with server(options) as (port, pid):
        took = asyncio.run(main(port, pid))
    show(what="SIGTERM under 64 clients", answers=counts, seconds_to_end=round(took, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("command", choices=["load", "abuse", "term", "serve"])
    parser.add_argument("--model", default="scripted", help="scripted, default, or a name")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--text-ms", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--limit", action="append", default=[])
    options = parser.parse_args()
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "load": load,
        "abuse": abuse,
        "term": term,
        "serve": serve,
    }
    commands[options.command](options)


if __name__ == "__main__":
    main()
