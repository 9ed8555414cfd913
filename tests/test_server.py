"""The server: what it answers, what it refuses, and that it stays up."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from random import Random

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="needs nomina[serve]")

import nomina
from nomina.batching import Batcher, QueueClosedError, QueueConfig, QueueFullError
from nomina.commands import serving
from nomina.documents import Document
from nomina.entities import Entity, LabelSet, split_words
from nomina.errors import TextError
from nomina.server import create_app, make_server, serve
from nomina.server_config import (
    Limits,
    ServerConfig,
    ServerConfigError,
    is_loopback,
    read_tokens,
)
from nomina.server_messages import Problem, document_answer, parse_request

TOKEN = "a-token-of-the-tests-0123456789"


class ScriptedTagger:
    """Every word that starts with a capital is an entity of the first label.

    Takes `seconds` a batch whatever is in it, as a model does that is not at its limit. A text with
    FAIL in it raises; one with BLOCK waits until `gate` is set.
    """

    name = "scripted"

    def __init__(self, seconds=0.0, max_rows=16):
        self.seconds = seconds
        self.max_rows = max_rows
        self.batches = []
        self.label_sets = []
        self.gate = threading.Event()
        self.taken = []

    def pipe_as_done(self, items, *, threshold=None, is_wanted=None):
        todo = iter(items)
        number = 0
        while True:
            batch = []
            for item in todo:
                if item is None:
                    break
                batch.append(item)
                if len(batch) == self.max_rows:
                    break
            if not batch:
                return
            self.batches.append(len(batch))
            if self.seconds:
                time.sleep(self.seconds)
            for text, labels in batch:
                self.taken.append(text)
                self.label_sets.append(labels)
                document = self._document(text, labels, threshold)
                yield number, document
                number += 1

    def pipe_many(self, items, *, threshold=None):
        return (document for _, document in self.pipe_as_done(items, threshold=threshold))

    def _document(self, text, labels, threshold):
        if "FAIL" in text:
            raise RuntimeError(f"the secret text was {text}")
        if "ODD" in text:
            raise TextError("a text must be even")
        if "BLOCK" in text:
            assert self.gate.wait(10)
        entities = [
            Entity(text[a:b], labels[i % len(labels)].name, a, b, 0.9 if b - a > 4 else 0.4)
            for i, (a, b) in enumerate(split_words(text))
            if text[a].isupper() or text[a] > "\u0590"
        ]
        return Document(text, tuple(e for e in entities if e.score >= (threshold or 0)))


@contextlib.contextmanager
def running(tagger=None, config=None):
    """A real server on a real port, in a thread."""
    config = config or ServerConfig(port=0)
    server = make_server(tagger or ScriptedTagger(), config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not (server.started and server._service.batcher.is_ready):
        assert time.monotonic() < until
        assert thread.is_alive()
        time.sleep(0.005)
    server.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


def ask(server, method="GET", path="/", body=None, headers=None):
    """One request; returns status, headers, body (parsed if it is JSON)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    if isinstance(body, dict | list):
        body = json.dumps(body)
        headers = {"content-type": "application/json", **(headers or {})}
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data = response.read()
        if "json" in response.headers.get("content-type", "") and data:
            if "ndjson" not in response.headers["content-type"]:
                data = json.loads(data)
        return response.status, response.headers, data
    finally:
        connection.close()


def extract(server, texts, labels=("name",), headers=None, **more):
    body = {"texts": texts, "labels": labels, **more}
    return ask(server, "POST", "/v1/extract", body, headers)


# --------------------------------------------------------------------------------------------------
# Extracting


def test_extract_answers_documents(server):
    status, headers, data = extract(server, ["in Paris and Rome", "none"], {"city": "a town"})
    assert status == 200
    assert data["model"] == "scripted"
    assert data["offset_unit"] == "codepoint"
    assert data["documents"] == [
        {
            "text": "in Paris and Rome",
            "entities": [
                {"text": "Paris", "label": "city", "start": 3, "end": 8, "score": 0.9},
                {"text": "Rome", "label": "city", "start": 13, "end": 17, "score": 0.4},
            ],
            "warnings": [],
        },
        {"text": "none", "entities": [], "warnings": []},
    ]
    assert data["usage"]["texts"] == 2
    assert data["usage"]["characters"] == 21
    assert headers["cache-control"] == "no-store"


def test_threshold_leaves_entities_out(server):
    _, _, data = extract(server, ["in Paris and Rome"], threshold=0.5)
    assert [e["text"] for e in data["documents"][0]["entities"]] == ["Paris"]


@pytest.mark.parametrize("text", ["🎬 Rome 👩‍👩‍👧 Paris", "שלום Rome", "𠮷野家 Rome", "Rome", ""])
def test_offsets_are_right_in_both_units(server, text):
    _, _, data = extract(server, [text])
    for entity in data["documents"][0]["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
    _, _, data = extract(server, [text], offset_unit="utf16")
    assert data["offset_unit"] == "utf16"
    units = text.encode("utf-16-le")
    for entity in data["documents"][0]["entities"]:
        have = units[2 * entity["start"] : 2 * entity["end"]].decode("utf-16-le")
        assert have == entity["text"]


def test_utf16_offsets_of_adjacent_entities():
    text = "🎬🎬🎬"
    document = Document(text, tuple(Entity("🎬", "x", i, i + 1) for i in range(3)))
    have = [(e["start"], e["end"]) for e in document_answer(document, 0, "utf16")["entities"]]
    assert have == [(0, 2), (2, 4), (4, 6)]


def test_stream_sends_documents_as_they_are_done():
    tagger = ScriptedTagger()
    with running(tagger) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        body = json.dumps({"texts": ["Paris", "BLOCK Rome"], "labels": ["city"]})
        headers = {"content-type": "application/json", "accept": "application/x-ndjson"}
        connection.request("POST", "/v1/extract", body, headers)
        response = connection.getresponse()
        assert response.headers["content-type"] == "application/x-ndjson"
        first = json.loads(response.readline())  # while the second text is still being read
        assert first["index"] == 0
        assert first["document"]["entities"][0]["text"] == "Paris"
        tagger.gate.set()
        second, last = json.loads(response.readline()), json.loads(response.readline())
        assert second["index"] == 1
        assert last["done"] is True
        assert last["usage"]["texts"] == 2
        assert response.read() == b""
        connection.close()


def test_a_failing_text_fails_alone():
    tagger = ScriptedTagger()
    with running(tagger) as server:
        tagger.gate.clear()
        have = {}

        def call(name, texts):
            have[name] = extract(server, texts)

        calls = [("block", ["BLOCK"]), ("good", ["Rome"]), ("bad", ["FAIL"]), ("odd", ["ODD"])]
        threads = [threading.Thread(target=call, args=item) for item in calls]
        for thread in threads:  # the first holds the worker, so that the rest is one batch
            thread.start()
            time.sleep(0.05)
        tagger.gate.set()
        for thread in threads:
            thread.join()
        assert have["good"][0] == have["block"][0] == 200
        assert have["bad"][0] == 500
        assert have["bad"][2]["type"] == "urn:nomina:problem:internal-error"
        assert have["odd"][0] == 422
        assert have["odd"][2]["detail"] == "a text must be even"
        status, _, data = extract(
            server, ["Rome", "FAIL"], headers={"accept": "application/x-ndjson"}
        )
        lines = [json.loads(line) for line in data.splitlines()]
        assert lines[0]["index"] == 0
        assert lines[1]["problem"]["status"] == 500
        assert status == 200


def test_no_text_is_ever_logged(caplog):
    caplog.set_level(logging.DEBUG)
    with running() as server:
        extract(server, ["canary FAIL"])
        extract(server, ["canary"], "canary")
        extract(server, ["canary"], ["canary", "canary"])
        ask(server, "GET", "/canary?canary=canary")
        ask(server, "POST", "/v1/extract", b"canary", {"content-type": "application/json"})
    assert "canary" not in caplog.text
    assert "RuntimeError" in caplog.text


# --------------------------------------------------------------------------------------------------
# What is refused


LIMITS = Limits(
    max_body_bytes=20_000,
    max_text_chars=1_000,
    max_texts=5,
    max_labels=3,
    max_label_chars=300,
    head_timeout_s=0.5,
    body_timeout_s=0.6,
)


@pytest.fixture(scope="module")
def strict_server():
    with running(config=ServerConfig(port=0, limits=LIMITS)) as found:
        yield found


@pytest.mark.parametrize(
    ("body", "status", "kind", "detail"),
    [
        (b"", 400, "not-json", "line 1"),
        (b"{", 400, "not-json", "line 1"),
        (b"\xff", 400, "not-json", "UTF-8"),
        (b'{"texts": [NaN], "labels": ["a"]}', 400, "not-json", "NaN"),
        (b"[" * 10_000, 400, "not-json", "nesting"),
        (b"1" * 10_000, 400, "not-json", "huge"),
        (b'{"labels": {"a": "x", "a": "y"}, "texts": []}', 422, "double-key", "'a'"),
        (b"[]", 422, "invalid-request", "dictionary"),
        (b"{}", 422, "invalid-request", "#/texts"),
        (b'{"texts": [], "labels": ["a"]}', 422, "invalid-request", "#/texts"),
        (b'{"texts": [1], "labels": ["a"]}', 422, "invalid-request", "#/texts/0"),
        (b'{"texts": ["\\ud800"], "labels": ["a"]}', 422, "invalid-request", "surrogate"),
        (b'{"texts": ["a"], "labels": ["\\ud800"]}', 422, "invalid-request", "surrogate"),
        (b'{"texts": ["a"], "labels": "person"}', 422, "invalid-request", "list of names"),
        (b'{"texts": ["a"], "labels": []}', 422, "invalid-request", "#/labels"),
        (b'{"texts": ["a"], "labels": {}}', 422, "invalid-request", "#/labels"),
        (b'{"texts": ["a"], "labels": ["a", "A"]}', 422, "label-error", "'A'"),
        (b'{"texts": ["a"], "labels": ["a\\nb"]}', 422, "label-error", "one line"),
        (b'{"texts": ["a"], "labels": {"a": {"oops": 1}}}', 422, "invalid-request", "#/labels"),
        (b'{"texts": ["a"], "labels": ["a"], "threshold": 2}', 422, "invalid-request", "less"),
        (b'{"texts": ["a"], "labels": ["a"], "treshold": 0}', 422, "invalid-request", "typo"),
        (b'{"texts": ["a"], "labels": ["a"], "model": "/etc/passwd"}', 404, "unknown-model", ""),
        (b'{"texts": ["a","b","c","d","e","f"], "labels": ["a"]}', 413, "too-many-texts", "has 6"),
        (b'{"texts": ["%s"], "labels": ["a"]}' % (b"a" * 1001), 413, "text-too-long", "1001"),
        (b'{"texts": ["a"], "labels": ["a","b","c","d"]}', 422, "too-many-labels", "has 4"),
        (b'{"texts": ["a"], "labels": ["%s"]}' % (b"a" * 400), 422, "labels-too-long", "404"),
        (b'{"texts": ["%s"], "labels": ["a"]}' % (b"a" * 20_000), 413, "body-too-large", "20000"),
    ],
)
def test_a_wrong_body_is_answered_with_a_problem(strict_server, body, status, kind, detail):
    headers = {"content-type": "application/json"}
    have, sent, data = ask(strict_server, "POST", "/v1/extract", body, headers)
    assert (have, data["type"]) == (status, f"urn:nomina:problem:{kind}")
    assert sent["content-type"] == "application/problem+json"
    assert data["status"] == status
    assert detail in data["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "accept": "text/html"}, 406),
        ({"content-type": "application/json", "host": "evil.example"}, 421),
        ({"content-type": "application/json", "accept": "text/html, */*;q=0.1"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_headers_are_checked(strict_server, headers, status):
    body = json.dumps({"texts": ["Rome"], "labels": ["a"]})
    assert ask(strict_server, "POST", "/v1/extract", body, headers)[0] == status


def test_unknown_paths_and_methods(strict_server):
    status, headers, data = ask(strict_server, "GET", "/v1/extract")
    assert (status, headers["allow"]) == (405, "POST")
    assert data["status"] == 405
    for path in ("/nothing", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/docs"):
        status, headers, data = ask(strict_server, "GET", path)
        assert (status, data["type"]) == (404, "urn:nomina:problem:not-found")
        assert "script-src 'self'" in headers["content-security-policy"]


def talk(server, data, seconds=5.0):
    """Send bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)


def test_slow_heads_and_slow_bodies_are_cut_off(strict_server):
    started = time.monotonic()
    assert talk(strict_server, b"GET / HTTP/1.1\r\nhost: loc") == b""
    assert talk(strict_server, b"") == b""
    head = b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    answer = talk(strict_server, head + b"content-length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"slow-body" in answer
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 100_000,
        b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\nconnection: close\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_and_closed(strict_server, data):
    answer = talk(strict_server, data)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 421 "))
    assert answer.count(b"HTTP/1.1 4") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {"texts": st.lists(st.text(max_size=9), max_size=3) | JSON},
    optional={
        "labels": st.lists(st.text(max_size=9), max_size=3)
        | st.dictionaries(st.text(max_size=9), st.text(max_size=9) | JSON, max_size=3)
        | JSON,
        "threshold": st.floats() | JSON,
        "offset_unit": st.sampled_from(["codepoint", "utf16", "byte"]),
        "model": st.text(max_size=9),
    },
)


@given(st.binary(max_size=60) | (FIELDS | JSON).map(json.dumps).map(str.encode))
def test_any_body_is_a_request_or_a_problem(body):
    """Also what has NaN, half surrogates, odd types and names: never another error, never a 5xx."""
    found = None
    try:
        request, labels = parse_request(body, LIMITS)
    except Problem as problem:
        found = problem
    if found is not None:
        assert 400 <= found.status < 500
        json.loads(found.response().body)
    else:
        assert labels
        assert [text.encode() for text in request.texts]


def test_broken_requests_do_no_harm(strict_server):
    """A right request with bytes lost, doubled, changed and cut, 300 times."""
    random = Random(7)
    body = b'{"texts": ["in Paris"], "labels": ["city"]}'
    right = (
        b"POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"accept: application/json\r\nconnection: close\r\ncontent-length: 43\r\n\r\n" + body
    )
    statuses = Counter()
    for _ in range(300):
        data = bytearray(right)
        for _ in range(random.choice((0, 1, 1, 2, 5))):
            at = random.randrange(len(data))
            how = random.randrange(4)
            if how == 0:
                del data[at : at + random.randrange(1, 9)]
            elif how == 1:
                data[at:at] = data[at : at + random.randrange(1, 40)]
            elif how == 2:
                data[at] = random.randrange(256)
            else:
                del data[at:]
            data = data or bytearray(b"x")
        with socket.create_connection(("127.0.0.1", strict_server.port), timeout=5) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                if not data.endswith(body):  # what waits for more is told that there is none
                    connection.shutdown(socket.SHUT_WR)
                statuses[connection.recv(65536)[9:12]] += 1
    assert statuses[b"200"] > 50
    assert {status for status in statuses if status >= b"5"} == set(), statuses
    assert extract(strict_server, ["Rome"])[0] == 200
    assert not strict_server._service._clients


def test_a_large_body_is_refused_with_an_answer(strict_server):
    size = 30_000_000  # sent whole by http.client before it reads
    headers = {"content-type": "application/json"}
    status, sent, data = ask(strict_server, "POST", "/v1/extract", b" " * size, headers)
    assert (status, data["type"]) == (413, "urn:nomina:problem:body-too-large")
    assert sent["connection"] == "close"
    # The same without a length known in advance
    chunks = (b" " * 10_000 for _ in range(100))
    connection = http.client.HTTPConnection("127.0.0.1", strict_server.port, timeout=10)
    connection.request("POST", "/v1/extract", chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_tokens():
    config = ServerConfig(port=0, tokens=("another-token-0123456789", TOKEN))
    with running(config=config) as server:
        for given in (
            None,
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN}",
            "Bearer é",
            f"bearer {TOKEN}x",
        ):
            headers = {"authorization": given.encode()} if given else {}
            status, sent, data = extract(server, ["Rome"], headers=headers)
            assert (status, data["type"]) == (401, "urn:nomina:problem:token-needed")
            assert sent["www-authenticate"] == 'Bearer realm="nomina"'
        right = {"authorization": f"bearer {TOKEN}"}
        assert extract(server, ["Rome"], headers=right)[0] == 200
        assert ask(server, "GET", "/metrics")[0] == 401
        assert ask(server, "GET", "/metrics", headers=right)[0] == 200
        assert ask(server, "GET", "/v1/models")[0] == 401
        assert ask(server, "GET", "/healthz")[0] == 200
        assert ask(server, "GET", "/")[0] == 200
        # With a token, names of the outside are fine: a page of another site does not have it
        assert ask(server, "GET", "/healthz", headers={"host": "ner.example"})[0] == 200


def test_places_are_limited_for_each_client_and_for_all():
    tagger = ScriptedTagger()
    limits = Limits(max_requests=3, max_client_requests=2)
    config = ServerConfig(port=0, tokens=(TOKEN, TOKEN + "2"), limits=limits)
    with running(tagger, config) as server:
        first = {"authorization": f"Bearer {TOKEN}"}
        second = {"authorization": f"Bearer {TOKEN}2"}
        threads = []
        for headers in (first, first, second):
            threads.append(
                threading.Thread(
                    target=extract, args=(server, ["BLOCK"]), kwargs={"headers": headers}
                )
            )
            threads[-1].start()
            until = time.monotonic() + 5
            while server._service._clients.total() < len(threads):
                assert time.monotonic() < until
                time.sleep(0.005)
            if len(threads) == 2:
                status, sent, data = extract(server, ["a"], headers=first)
                assert (status, data["type"]) == (429, "urn:nomina:problem:too-many-requests")
                assert int(sent["retry-after"]) >= 1
        status, sent, data = extract(server, ["a"], headers=second)
        assert (status, data["type"]) == (503, "urn:nomina:problem:too-busy")
        assert int(sent["retry-after"]) >= 1
        tagger.gate.set()
        for thread in threads:
            thread.join()
        assert extract(server, ["a"], headers=second)[0] == 200
        assert server._service._clients == {}


def test_a_full_queue_answers_503():
    tagger = ScriptedTagger(max_rows=1)
    with running(tagger, ServerConfig(port=0, limits=Limits(max_waiting_texts=3))) as server:
        thread = threading.Thread(target=extract, args=(server, ["BLOCK", "b", "c"]))
        thread.start()
        until = time.monotonic() + 5
        while "BLOCK" not in tagger.taken:
            assert time.monotonic() < until
            time.sleep(0.005)
        status, headers, data = extract(server, ["d", "e"])
        assert (status, data["type"]) == (503, "urn:nomina:problem:queue-full")
        assert int(headers["retry-after"]) >= 1
        tagger.gate.set()
        thread.join()
        assert extract(server, ["d", "e"])[0] == 200


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_client_that_leaves_frees_its_work(accept):
    tagger = ScriptedTagger(max_rows=1)
    with running(tagger) as server:
        body = json.dumps({"texts": ["BLOCK"] + ["never"] * 50, "labels": ["a"]})
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        headers = {"content-type": "application/json", "accept": accept}
        connection.request("POST", "/v1/extract", body, headers)
        until = time.monotonic() + 5
        while "BLOCK" not in tagger.taken:
            assert time.monotonic() < until
            time.sleep(0.005)
        assert server._service.batcher.waiting_texts == 50
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        while server._service.batcher.waiting_texts or server._service._clients:
            assert time.monotonic() < until
            time.sleep(0.005)
        tagger.gate.set()
        assert extract(server, ["Rome"])[0] == 200
        assert "never" not in tagger.taken
        assert b"nomina_clients_gone_total 1.0" in ask(server, "GET", "/metrics")[2]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_client_that_takes_nothing_is_cut_off(accept):
    with running(config=ServerConfig(port=0, limits=Limits(write_timeout_s=0.3))) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            body = json.dumps({"texts": ["a" * 49_000] * 160, "labels": ["x"]}).encode()
            head = (
                "POST /v1/extract HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                f"accept: {accept}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            until = time.monotonic() + 8
            service = server._service
            while (
                b'rejected_total{reason="slow-client"} 1.0' not in ask(server, path="/metrics")[2]
            ):
                assert time.monotonic() < until
                time.sleep(0.05)
            while service._clients or service.batcher.waiting_texts:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_idle_connections_make_room():
    limits = Limits(max_connections=20)
    with running(config=ServerConfig(port=0, limits=limits)) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        assert extract(server, ["Rome"])[0] == 200
        assert len(server._service.gate.connections) <= 20
        for connection in idle:
            connection.close()


# --------------------------------------------------------------------------------------------------
# Operations


def test_health_models_and_metrics(server):
    assert ask(server, "GET", "/healthz")[2] == {"status": "ok"}
    assert ask(server, "GET", "/readyz")[2] == {"status": "ok"}
    model = ask(server, "GET", "/v1/models")[2]["models"][0]
    assert model["id"] == "scripted"
    assert model["limits"]["max_texts"] == 1000
    extract(server, ["in Paris"])
    ask(server, "GET", "/some/other/path")
    status, headers, data = ask(server, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    text = data.decode()
    for name in (
        'nomina_requests_total{method="POST",route="/v1/extract",status="200"}',
        'nomina_requests_total{method="GET",route="other",status="404"}',
        'nomina_request_seconds_bucket{le="0.005",route="/v1/extract"}',
        "nomina_queue_texts 0.0",
        "nomina_batch_texts_sum",
        "nomina_characters_total",
        "nomina_queue_seconds_count",
        "process_resident_memory_bytes",
    ):
        assert name in text
    assert "/some" not in text


def test_a_folder_is_not_told():
    tagger = ScriptedTagger()
    tagger.name = "/home/somebody/models/my-model"
    service = create_app(tagger).state.service
    assert service.name == "my-model"
    tagger.name = "owner/name"
    assert create_app(tagger).state.service.name == "owner/name"


def test_security_headers_are_on_every_answer(server):
    for path in ("/", "/v1/models", "/nothing", "/metrics", "/openapi.json"):
        headers = ask(server, "GET", path)[1]
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_page_files_are_cached_by_tag(server):
    _, headers, body = ask(server, "GET", "/")
    assert headers["content-type"] == "text/html; charset=utf-8"
    status, _, data = ask(server, "GET", "/", headers={"if-none-match": headers["etag"]})
    assert (status, data) == (304, b"")
    status, sent, data = ask(server, "HEAD", "/")
    assert (status, data, int(sent["content-length"])) == (200, b"", len(body))


def test_openapi_names_everything(server):
    schema = ask(server, "GET", "/openapi.json")[2]
    assert set(schema["paths"]) == {"/v1/extract", "/v1/models", "/healthz", "/readyz", "/metrics"}
    operation = schema["paths"]["/v1/extract"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    # The examples are requests that work, and the example of an answer is what the model says
    for example in content["examples"].values():
        assert ask(server, "POST", "/v1/extract", example["value"])[0] == 200
    assert {"413", "422", "429", "503"} <= set(operation["responses"])
    text = json.dumps(schema)
    for name in set(part.split('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert name in schema["components"]["schemas"]


def test_label_sets_are_shared_and_bounded():
    tagger = ScriptedTagger()
    with running(tagger) as server:
        for _ in range(2):
            extract(server, ["Rome"], {"city": "a town"})
        assert tagger.label_sets[-1] is tagger.label_sets[-2]
        for number in range(300):
            service = server._service
            service._intern(LabelSet.of([f"label {number}"]))
        assert len(service._label_sets) == 256


# --------------------------------------------------------------------------------------------------
# The queue


class Caller:
    """Submits texts and collects what is delivered."""

    def __init__(self, batcher, texts, labels=("x",)):
        self.results = []
        self.done = threading.Event()
        self.num = len(texts)
        self.job = batcher.submit(texts, LabelSet.of(labels), self.take)

    def take(self, index, result):
        assert index == len(self.results)
        self.results.append(result)
        if len(self.results) == self.num:
            self.done.set()


def test_many_callers_share_batches_and_get_their_own():
    tagger = ScriptedTagger(0.005)
    batcher = Batcher(tagger)
    batcher.start()
    callers = []
    lock = threading.Lock()

    def call(number):
        for turn in range(5):
            caller = Caller(batcher, [f"Text{number} {turn}"] * 2, [f"label {number}"])
            assert caller.done.wait(5)
            with lock:
                callers.append((number, turn, caller))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert len(callers) == 40
    for number, turn, caller in callers:
        for document in caller.results:
            assert document.text == f"Text{number} {turn}"
            assert document.entities[0].label == f"label {number}"
    # 80 texts, alone 80 batches, all together 5; the first of 81 is the warm-up
    assert len(tagger.batches) < 25


def test_jobs_take_turns():
    tagger = ScriptedTagger(max_rows=1)
    batcher = Batcher(tagger)
    batcher.start()
    big = Caller(batcher, ["BLOCK"] + ["big"] * 100)
    small = Caller(batcher, ["small"])
    tagger.gate.set()
    assert small.done.wait(5)
    assert big.done.wait(5)
    assert tagger.taken.index("small") <= 4
    batcher.close()


def test_a_long_text_does_not_hold_up_short_ones(build_model):
    batcher = Batcher(nomina.Tagger(build_model("llama")))
    batcher.start()
    long = Caller(batcher, ["word in Paris " * 400, "and more"])
    while not batcher.num_in_flight:
        time.sleep(0.001)
    for _ in range(3):
        assert Caller(batcher, ["a short one"]).done.wait(30)
        assert not long.done.is_set()
    batcher.cancel(long.job)  # its windows are not read to the end
    batcher.close()
    assert long.results == []
    assert batcher.num_in_flight == 0


def test_a_lone_caller_is_not_made_to_wait():
    batcher = Batcher(ScriptedTagger(), QueueConfig(max_gather_s=5.0, gather_share=100.0))
    batcher.start()
    started = time.monotonic()
    for _ in range(20):
        assert Caller(batcher, ["a"]).done.wait(5)
    assert time.monotonic() - started < 1
    batcher.close()


def test_the_queue_is_bounded_but_takes_one_large_job():
    tagger = ScriptedTagger(max_rows=1)
    batcher = Batcher(tagger, QueueConfig(max_texts=2, max_chars=10))
    with pytest.raises(QueueClosedError):
        Caller(batcher, ["early"])
    batcher.start()
    held = Caller(batcher, ["BLOCK"])
    while "BLOCK" not in tagger.taken:
        time.sleep(0.001)
    large = Caller(batcher, ["a" * 100])
    with pytest.raises(QueueFullError, match="1 texts wait") as caught:
        Caller(batcher, ["b"])
    assert 1 <= caught.value.retry_after_s <= 60
    tagger.gate.set()
    assert held.done.wait(5)
    assert large.done.wait(5)
    assert Caller(batcher, ["b"]).done.wait(5)
    assert batcher.waiting_texts == batcher.waiting_chars == 0
    batcher.close()


def test_cancelled_jobs_are_not_read():
    tagger = ScriptedTagger(max_rows=1)
    batcher = Batcher(tagger)
    batcher.start()
    held = Caller(batcher, ["BLOCK", "rest"])
    other = Caller(batcher, ["other"])
    while "BLOCK" not in tagger.taken:
        time.sleep(0.001)
    batcher.cancel(held.job)
    batcher.cancel(held.job)
    tagger.gate.set()
    assert other.done.wait(5)
    batcher.close()
    assert "rest" not in tagger.taken
    assert held.results == []
    assert batcher.waiting_texts == batcher.waiting_chars == 0


def test_close_finishes_what_was_taken():
    tagger = ScriptedTagger(0.002, max_rows=2)
    batcher = Batcher(tagger)
    batcher.start()
    callers = [Caller(batcher, ["a", "b", "c"]) for _ in range(10)]
    batcher.close()
    assert all(len(caller.results) == 3 for caller in callers)
    with pytest.raises(QueueClosedError):
        Caller(batcher, ["late"])
    assert not batcher.is_ready


def test_a_tagger_that_gives_too_few_documents_is_an_error():
    class Short:
        name = "short"

        def pipe_as_done(self, items, *, threshold=None, is_wanted=None):
            next(iter(items))
            return iter(())

    batcher = Batcher(Short())
    batcher.start()
    caller = Caller(batcher, ["a"])
    assert caller.done.wait(5)
    assert isinstance(caller.results[0], RuntimeError)
    batcher.close()


# --------------------------------------------------------------------------------------------------
# Configuration and the command


def test_listening_beyond_loopback_needs_a_token(tmp_path):
    with pytest.raises(ServerConfigError, match="needs a token"):
        ServerConfig(host="0.0.0.0")
    with pytest.raises(ServerConfigError, match="16 or more"):
        ServerConfig(tokens=("short",))
    assert ServerConfig(host="0.0.0.0", tokens=(TOKEN,)).host_names is None
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n\n{TOKEN}\n")
    assert read_tokens(path) == (TOKEN,)
    path.write_text("# none\n")
    with pytest.raises(ServerConfigError, match="has no token"):
        read_tokens(path)


@pytest.mark.parametrize("setting", ["oops=1", "max_labels", "max_labels=many", "max_labels=0"])
def test_limits_are_checked(setting):
    with pytest.raises(ServerConfigError, match="limit"):
        Limits.parse([setting])
    assert Limits.parse(["max_labels=7", "body_timeout_s=1.5"]).max_labels == 7


def test_the_command_refuses_what_is_not_safe(tmp_path):
    app = typer.Typer()
    serving.register(app)
    app.command("other")(lambda: None)
    for args in (["--host", "0.0.0.0"], ["--limit", "x=1"], ["--token-file", str(tmp_path / "no")]):
        result = CliRunner().invoke(app, ["serve", *args])
        assert result.exit_code == 1
        assert result.output.startswith("error: ")


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(ScriptedTagger(), ServerConfig(port=port))


SERVE = """
import sys
sys.path.insert(0, {tests!r})
from test_server import ScriptedTagger
from nomina.commands import serving
from nomina import server
from nomina.server_config import ServerConfig
serving._log(False)
server.serve(ScriptedTagger(0.05, max_rows=4), ServerConfig(port={port}))
"""


def test_sigterm_finishes_what_was_accepted():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = SERVE.format(tests=os.path.dirname(__file__), port=port)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    have = []

    class Port:
        pass

    Port.port = port
    until = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            if ask(Port, "GET", "/readyz")[0] == 200:
                break
        assert time.monotonic() < until
        time.sleep(0.05)

    def call(number):
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.connect()
            except OSError:
                connection.close()
                return  # it does not listen any more
            body = json.dumps({"texts": [f"Text{number}"] * 4, "labels": ["x"]})
            try:
                connection.request(
                    "POST", "/v1/extract", body, {"content-type": "application/json"}
                )
                response = connection.getresponse()
                data = json.loads(response.read())
            except (ConnectionError, http.client.RemoteDisconnected):
                have.append("refused")  # not a byte of an answer: never accepted
                return
            finally:
                connection.close()
            have.append(response.status)
            assert response.status == 503 or len(data["documents"]) == 4

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.6)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    log = process.communicate(timeout=20)[1]
    assert process.returncode == 0, log
    answered = [line for line in log.splitlines() if "POST /v1/extract" in line]
    # Every request that the server counted was answered whole
    assert len(answered) == len([x for x in have if x != "refused"])
    assert have.count(200) >= 8
    assert "stopped" in log


def test_the_app_runs_under_any_asgi_server():
    """A plain ASGI call without our connections, as tests of users do with httpx."""
    import httpx

    async def main():
        app = create_app(ScriptedTagger())
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                calls = (
                    client.post("/v1/extract", json={"texts": [f"Text{i}"], "labels": ["x"]})
                    for i in range(20)
                )
                return await asyncio.gather(*calls)

    have = asyncio.run(main())
    assert [x.json()["documents"][0]["text"] for x in have] == [f"Text{i}" for i in range(20)]


def test_workers_are_for_the_tagger(monkeypatch):
    app, asked = typer.Typer(), {}
    serving.register(app)
    app.command("other")(lambda: None)
    monkeypatch.setattr("nomina.load", lambda name, **options: asked.update(options), raising=False)
    monkeypatch.setattr("nomina.server.serve", lambda tagger, config: None)
    assert CliRunner().invoke(app, ["serve", "--quiet", "--workers", "3"]).exit_code == 0
    assert asked == {"num_workers": 3}
