"""The client: the same calls and errors as a local tagger, over HTTP."""

import http.server
import itertools
import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs nomina[serve]")

from test_server import TOKEN, ScriptedTagger, running

from nomina.client import Client, ServerError
from nomina.entities import Example, LabelSet
from nomina.errors import LabelError, TextError
from nomina.server_config import Limits, ServerConfig


@pytest.fixture(scope="module")
def served():
    tagger = ScriptedTagger()
    limits = Limits(max_text_chars=1000, max_labels=5)
    with running(tagger, ServerConfig(port=0, limits=limits)) as server:
        yield tagger, f"http://127.0.0.1:{server.port}"


@pytest.fixture
def client(served):
    with Client(served[1]) as found:
        yield found


def test_a_client_answers_as_the_tagger_does(served, client):
    tagger, _ = served
    texts = ["🎬 in Paris", "Rome", "", "none", "שלום in Köln"]
    labels = LabelSet.of({"city": "a town", "other": {"examples": ["x"]}})
    want = list(tagger.pipe_many([(text, labels) for text in texts]))
    assert [client(text, labels) for text in texts] == want
    assert list(client.pipe(texts, labels)) == want
    assert list(client.pipe_many([(text, labels) for text in texts])) == want
    assert client.name == "scripted"
    assert client(Example.from_tags(["in", "Paris"], ["O", "O"]), ["x"]).text == "in Paris"
    assert [e.text for e in client("Paris Rome", ["a"], threshold=0.5)] == ["Paris"]


def test_definitions_can_be_left_out(served, client):
    client("Rome", {"city": "a town"})
    assert served[0].label_sets[-1][0].definition == "a town"
    client("Rome", {"city": "a town"}, definitions=False)
    assert served[0].label_sets[-1][0].definition == ""
    assert [d.text for d in client.pipe(["a"], {"b": "c"}, definitions=False)] == ["a"]
    assert served[0].label_sets[-1][0].definition == ""


def test_pipe_is_lazy_and_in_order(client):
    num_read = 0

    def texts():
        nonlocal num_read
        for number in itertools.count():
            num_read += 1
            yield f"Text{number}"

    stream = client.pipe(texts(), ["x"])
    assert [next(stream).text for _ in range(100)] == [f"Text{i}" for i in range(100)]
    stream.close()
    assert num_read < 500


def test_pipe_many_keeps_label_sets_apart(client):
    items = [(f"Text{i}", LabelSet.of([f"label {i // 3}"])) for i in range(60)]
    for (text, labels), document in zip(items, client.pipe_many(items), strict=True):
        assert document.text == text
        assert document.entities[0].label == labels.names[0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c("a", []), LabelError, "at least one"),
        (lambda c: c("a", ["a", "A"]), LabelError, "are the same"),
        (lambda c: c("a", [f"label {i}" for i in range(6)]), LabelError, "at most 5 labels"),
        (lambda c: c(7, ["a"]), TextError, "must be a string, was: 7"),
        (lambda c: c("a" * 1001, ["a"]), TextError, "at most 1000 characters"),
        (lambda c: c("\ud800", ["a"]), TextError, "surrogate"),
        (lambda c: c("ODD", ["a"]), TextError, "must be even"),
        (lambda c: c("a", ["a"], threshold=2), TextError, "threshold"),
        (lambda c: c("FAIL", ["a"]), ServerError, "answered 500"),
        (lambda c: c.pipe("abc", ["a"]), TextError, "many texts"),
        (lambda c: list(c.pipe(["a", 7], ["a"])), TextError, "was: 7"),
    ],
)
def test_errors_are_those_of_a_local_tagger(client, call, error, message):
    with pytest.raises(error, match=message):
        call(client)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "/etc/passwd"])
def test_an_address_must_be_one(url):
    with pytest.raises(ServerError, match="must be like http://"):
        Client(url)
    with pytest.raises(ServerError, match="concurrency"):
        Client("http://a", concurrency=0)


def test_a_server_that_is_not_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServerError, match=r"cannot be reached.*Does it run"):
        Client(f"http://127.0.0.1:{port}", retries=1)("a", ["b"])


def test_tokens_come_from_the_argument_or_the_environment(monkeypatch):
    with running(config=ServerConfig(port=0, tokens=(TOKEN,))) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(ServerError, match="asks for a token") as caught, Client(url) as client:
            client("a", ["b"])
        assert caught.value.status == 401
        assert caught.value.problem["type"] == "urn:nomina:problem:token-needed"
        with Client(url, TOKEN) as client:
            assert client("a", ["b"]).text == "a"
        monkeypatch.setenv("NOMINA_TOKEN", TOKEN)
        with Client(url) as client:
            assert client.name == "scripted"


def test_a_full_server_is_asked_again():
    tagger = ScriptedTagger()
    limits = Limits(max_requests=1, max_client_requests=1)
    with running(tagger, ServerConfig(port=0, limits=limits)) as server:
        url = f"http://127.0.0.1:{server.port}"
        first = Client(url)
        thread = threading.Thread(target=first, args=("BLOCK", ["a"]))
        thread.start()
        until = time.monotonic() + 5
        while "BLOCK" not in tagger.taken:
            assert time.monotonic() < until
            time.sleep(0.005)
        with Client(url, retries=0) as hasty, pytest.raises(ServerError, match="under way"):
            hasty("Rome", ["a"])
        threading.Timer(0.2, tagger.gate.set).start()
        with Client(url) as second:
            assert second("Rome", ["a"]).entities[0].text == "Rome"
        thread.join()
        first.close()


class Flaky(http.server.BaseHTTPRequestHandler):
    """Hangs up on the first requests of each connection after the first answer."""

    protocol_version = "HTTP/1.1"
    num_requests = 0

    def do_POST(self):
        Flaky.num_requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        if Flaky.num_requests == 2:
            self.close_connection = True
            return
        body = {"documents": [{"text": "a", "entities": [], "warnings": []}]}
        data = json.dumps(body).encode() if Flaky.num_requests < 4 else b"<html>"
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Other(http.server.BaseHTTPRequestHandler):
    """Somebody else's server, which answers everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"hello": "world"}')

    do_GET = do_POST

    def log_message(self, *args):
        pass


def test_another_server_is_named():
    server = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ServerError, match="not as nomina does"):
        client("a", ["b"])
    with pytest.raises(ServerError, match="not as nomina does"):
        client.name  # noqa: B018
    client.close()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("wait_s", [0, 2])
def test_nobody_comes_back_before_the_time_that_the_server_says(monkeypatch, wait_s):
    waited, headers = [], {"retry-after": str(wait_s)}
    client = Client("http://127.0.0.1:1", retries=6)
    monkeypatch.setattr(client, "_send_once", lambda *_: (503, headers, b"{}"))
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(ServerError):
        client("a", ["b"])
    assert len(waited) == 6
    assert all(w >= wait_s for w in waited)


def test_a_broken_connection_is_opened_again():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}/") as client:
            assert client("a", ["b"]).text == "a"
            assert client("a", ["b"]).text == "a"  # on a connection that is closed under it
            assert Flaky.num_requests == 3
            with pytest.raises(ServerError, match="not as nomina does"):
                client("a", ["b"])
        server.shutdown()
        thread.join()


def test_threads_may_share_a_client(client):
    have = {}

    def call(number):
        for turn in range(10):
            text = f"Text{number} {turn}"
            have[text] = client(text, [f"label {number}"])

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(have) == 80
    assert all(text == document.text for text, document in have.items())


def test_a_real_tagger_answers_the_same_over_http(tagger):
    """From the model to the client and back, with the engine's own batching in between."""
    texts = ["did george clooney make a musical", "🎬 in the 1980s ?", "", "the actor " * 30]
    sets = [LabelSet.of({"actor": "a person"}), LabelSet.of(["year", "genre"])]
    items = [(text, sets[i % 2]) for i, text in enumerate(texts * 2)]
    want = list(tagger.pipe_many(items, threshold=0.0))
    assert any(document.entities for document in want)
    with running(tagger) as server, Client(f"http://127.0.0.1:{server.port}") as client:
        assert client.name == tagger.name
        for have, document in zip(client.pipe_many(items, threshold=0.0), want, strict=True):
            assert have.text == document.text
            assert [(e.start, e.end, e.label) for e in have] == [
                (e.start, e.end, e.label) for e in document
            ]
            for one, other in zip(have, document, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-3)
        have = {}

        def call(number):
            have[number] = client(*items[number], threshold=0.0)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(len(items))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [[e.text for e in have[n]] for n in range(len(items))] == [
            [e.text for e in document] for document in want
        ]
        service = server._service
        assert service.metrics.registry.get_sample_value("nomina_model_tokens") > 0
