"""A tagger over HTTP: `POST /v1/extract`, what operators need beside it, and the playground.

From outside to inside: connections (`server_connections`: slow and idle ones are closed), every
request (`_Guard`: host, headers, log, count), the routes (`create_app`), one extraction
(`server_service`: token, limits), and the queue of texts (`batching`).

Safe by default: it listens on loopback only unless there is a token, everything a request can make
large has a limit, nothing a request names is ever opened, and no text is ever logged.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, cast

from nomina.batching import Tagger, log_error
from nomina.documents import Document
from nomina.errors import MissingExtraError
from nomina.server_config import Limits, ServerConfig, ServerConfigError
from nomina.server_connections import GuardedProtocol
from nomina.server_messages import (
    SECURITY_HEADERS,
    ExtractAnswer,
    ExtractRequest,
    ModelsAnswer,
    Problem,
    ProblemAnswer,
    StatusAnswer,
    busy,
    document_answer,
    parse_request,
)
from nomina.server_service import Answers, ClientGoneError, Service, in_time

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.openapi.utils import get_openapi
    from prometheus_client import generate_latest
    from starlette.exceptions import HTTPException
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError(error.name or "fastapi", "serve") from error

logger = logging.getLogger("nomina.server")

# The page's own files; nothing else is ever read for a request.
_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


# --------------------------------------------------------------------------------------------------
# Answers


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _collect(answers: Answers, receive: Receive) -> list[Document]:
    """Wait for all documents, or for the client to leave."""

    async def collect() -> list[Document]:
        return [document async for document in answers]

    work = asyncio.ensure_future(collect())
    left = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGoneError
        return work.result()
    finally:
        work.cancel()
        left.cancel()
        answers.cancel()


class _Stream(Response):
    """Documents as lines of JSON (NDJSON), each sent as soon as it is there."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[dict[str, Any]], close: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._lines = lines
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        left = asyncio.ensure_future(_client_left(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGoneError
            work.result()
        finally:
            work.cancel()
            left.cancel()
            self._close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for line in self._lines:
            body = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Guard:
    """What holds for every request: host, security headers, one line of log, one count.

    It stands outside of all else, and lets no error through: what would say too much in a log or
    an answer becomes a plain 500 here.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = time.monotonic()
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                have = {key for key, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *(x for x in extra if x[0] not in have)]
            elif status == 413 and not message.get("more_body", False):
                # A client that is still sending would lose the answer if we hung up now
                await send({**message, "more_body": True})
                await _discard(receive, self.service.limits)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            if self._is_host_right(scope):
                await self.app(scope, receive, guarded)
            else:
                problem = Problem(
                    421, "wrong-host", "the server is not known by this name; see --allow-host"
                )
                await problem.response()(scope, receive, guarded)
        except ClientGoneError:
            self.service.metrics.gone.inc()
            status = status or 499  # as nginx writes it; nobody is there to read it
        except Exception as error:
            log_error("a request failed", error)
            if status:
                raise _AbortedError from None
            problem = Problem(500, "internal-error", "something went wrong; the log says more")
            await problem.response()(scope, receive, guarded)
        finally:
            seconds = time.monotonic() - started_s
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.service.metrics.requests.labels(route, method, str(status or 499)).inc()
            self.service.metrics.seconds.labels(route).observe(seconds)
            logger.info("%s %s %d %.1f ms", method, route, status or 499, 1000 * seconds)

    def _is_host_right(self, scope: Scope) -> bool:
        names = self.service.config.host_names
        if names is None:
            return True
        given = [value for key, value in scope["headers"] if key == b"host"]
        if len(given) != 1:
            return False
        host = given[0].decode("latin-1").lower()
        return (host if host.endswith("]") else host.rsplit(":", 1)[0]) in names


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _AbortedError(Exception):
    """An answer broke off; the connection is closed."""


async def _discard(receive: Receive, limits: Limits) -> None:
    """Read and forget the rest of a body, for a while."""
    until_s = time.monotonic() + min(10.0, limits.body_timeout_s)
    num_bytes = 0
    try:
        while num_bytes < 512 * 1024 * 1024:
            message = await in_time(receive(), until_s)
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            num_bytes += len(message.get("body", b""))
    except asyncio.TimeoutError:
        return


# --------------------------------------------------------------------------------------------------
# Routes

_EXAMPLE: dict[str, Any] = {
    "texts": ["did george clooney make a musical in the 1980s"],
    "labels": {"actor": "a person who plays a role in a film", "genre": "", "year": "a date"},
    "threshold": 0.5,
}
_EXAMPLE_DOCUMENT: dict[str, Any] = {
    "text": _EXAMPLE["texts"][0],
    "entities": [
        {"text": "george clooney", "label": "actor", "start": 4, "end": 18, "score": 0.97},
        {"text": "musical", "label": "genre", "start": 26, "end": 33, "score": 0.94},
        {"text": "1980s", "label": "year", "start": 41, "end": 46, "score": 0.91},
    ],
    "warnings": [],
}
_EXAMPLE_USAGE = {"texts": 1, "characters": 46, "seconds": 0.041}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}
    }
    about = {
        400: "The body is not JSON.",
        401: "A token is needed.",
        404: "There is no such model.",
        406: "Neither JSON nor NDJSON would be accepted.",
        408: "The body came too slowly.",
        413: "The body, a text, or the number of texts is above its limit.",
        415: "The body is not `application/json`, or is compressed.",
        421: "The server is not known by this name.",
        422: "The request is not as expected, or has too many labels.",
        429: "You have too many requests under way; see `Retry-After`.",
        500: "Something went wrong in the server.",
        503: "The server is full or shutting down; see `Retry-After`.",
    }
    return {status: {"description": about[status], "content": content} for status in statuses}


_EXTRACT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One document a text. As NDJSON: a line a document, then one of usage.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ExtractAnswer"},
                "example": {
                    "documents": [_EXAMPLE_DOCUMENT],
                    "model": "default",
                    "offset_unit": "codepoint",
                    "usage": _EXAMPLE_USAGE,
                },
            },
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": json.dumps({"index": 0, "document": _EXAMPLE_DOCUMENT})
                + '\n{"done": true, "model": "default", "offset_unit": "codepoint", "usage": '
                + json.dumps(_EXAMPLE_USAGE)
                + "}\n",
            },
        },
    },
    **_problems(400, 401, 404, 406, 408, 413, 415, 421, 422, 429, 500, 503),
}
_EXTRACT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ExtractRequest"},
                "examples": {
                    "definitions": {"summary": "Labels with definitions", "value": _EXAMPLE},
                    "names": {
                        "summary": "Names only, offsets for JavaScript",
                        "value": {
                            "texts": ["🎬 in Rome", "東京で"],
                            "labels": ["city"],
                            "offset_unit": "utf16",
                        },
                    },
                },
            }
        },
    },
}


def create_app(tagger: Tagger, config: ServerConfig | None = None) -> FastAPI:
    """Make the application around a tagger.

    Args:
        tagger: What reads texts; from now on only called by the application's own worker.
        config: Where it listens, and who may ask.

    Returns:
        An ASGI application. Its `state.service` is the `Service`.
    """
    service = Service(tagger, config or ServerConfig())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        service.is_draining = True
        close = functools.partial(service.batcher.close, service.limits.drain_timeout_s)
        await asyncio.get_running_loop().run_in_executor(None, close)

    app = FastAPI(
        title="nomina",
        version="1",
        summary="Exact, scored entity extraction with labels of your own.",
        docs_url=None,  # they load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(_Guard, service=service)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http)
    _add_api(app, service)
    _add_operations(app, service)
    _add_page(app)
    app.openapi = functools.partial(_openapi, app, service)  # type: ignore[method-assign]
    return app


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: "not-found", 405: "method-not-allowed"}
    details = {404: "there is nothing here; see /openapi.json", 405: "see the header `Allow`"}
    status = error.status_code
    detail = details.get(status, "see /openapi.json")
    return Problem(status, kinds.get(status, "http-error"), detail, error.headers).response()


def _openapi(app: FastAPI, service: Service) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in (ExtractRequest, ExtractAnswer, ProblemAnswer):
            found = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(found.pop("$defs", {}))
            schemas[model.__name__] = found
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        if service.config.tokens:
            for path in ("/v1/extract", "/v1/models", "/metrics"):
                for operation in schema["paths"][path].values():
                    operation["security"] = [{"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/extract",
        operation_id="extract",
        summary="Find entities in texts",
        response_model=None,
        responses=_EXTRACT_RESPONSES,
        openapi_extra=_EXTRACT_BODY,
    )
    async def extract(request: Request) -> Response:
        """Find entities of any labels in texts; see the examples.

        Ask for `Accept: application/x-ndjson` to be sent each document as soon as it is done.
        """
        client = service.authorize(request)
        is_stream = _check_headers(request)
        service.check_room(client)
        body = await service.read_body(request)
        asked, labels = parse_request(body, service.limits)
        del body
        if asked.model not in (None, service.name):
            raise Problem(
                404, "unknown-model", f"there is no such model here; there is {service.name!r}"
            )
        started_s = time.monotonic()
        threshold = service.default_threshold if asked.threshold is None else asked.threshold

        def summary() -> dict[str, Any]:
            return {
                "model": service.name,
                "offset_unit": asked.offset_unit,
                "usage": {
                    "texts": len(asked.texts),
                    "characters": sum(map(len, asked.texts)),
                    "seconds": round(time.monotonic() - started_s, 4),
                },
            }

        def shown(document: Document) -> dict[str, Any]:
            return document_answer(document, threshold, asked.offset_unit)

        if not is_stream:
            with service.slot(client):
                documents = await _collect(service.submit(asked.texts, labels), request.receive)
            return _json({"documents": [shown(x) for x in documents], **summary()})
        slot = service.slot(client)
        slot.__enter__()
        try:
            answers = service.submit(asked.texts, labels)
        except Problem:
            slot.__exit__(None, None, None)
            raise

        async def lines() -> AsyncIterator[dict[str, Any]]:
            try:
                index = 0
                async for document in answers:
                    yield {"index": index, "document": shown(document)}
                    index += 1
                yield {"done": True, **summary()}
            except Problem as problem:
                yield {"problem": problem.to_dict()}

        def close() -> None:
            answers.cancel()
            slot.__exit__(None, None, None)

        return _Stream(lines(), close)

    @app.get(
        "/v1/models",
        operation_id="models",
        summary="The models that can be asked, and their limits",
        response_model=ModelsAnswer,
        responses=_problems(401, 421),
    )
    async def models(request: Request) -> Response:
        service.authorize(request)
        limits = service.limits
        shown = {
            name: getattr(limits, name)
            for name in ("max_body_bytes", "max_text_chars", "max_texts", "max_labels")
        }
        model = {
            "id": service.name,
            "default_threshold": service.default_threshold,
            "limits": shown,
        }
        return _json({"models": [model]})


def _check_headers(request: Request) -> bool:
    """Check what is sent and what is wanted; return whether a stream is wanted.

    That the body must be called JSON also keeps web pages of other sites out: a browser then asks
    us first whether they may send it, and gets no answer.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(415, "not-json", "the body must be sent as `Content-Type: application/json`")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "compressed-body", "a body must be sent as it is, without compression")
    accepted = request.headers.get("accept", "*/*").lower()
    kinds = [part.partition(";")[0].strip() for part in accepted.split(",")]
    if "application/x-ndjson" in kinds or "application/ndjson" in kinds:
        return True
    if not {"application/json", "application/*", "*/*", ""} & set(kinds):
        raise Problem(
            406,
            "not-acceptable",
            "answers are `application/json` or `application/x-ndjson`; accept one of them",
        )
    return False


def _json(value: Any, status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status, {"cache-control": "no-store"}, "application/json")


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get(
        "/healthz",
        operation_id="health",
        summary="Whether the process lives",
        response_model=StatusAnswer,
        responses=_problems(421),
    )
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get(
        "/readyz",
        operation_id="ready",
        summary="Whether requests would be taken",
        response_model=StatusAnswer,
        responses=_problems(421, 503),
    )
    async def ready() -> Response:
        if service.is_draining or not service.batcher.is_ready:
            status = "shutting down" if service.is_draining else "not ready"
            raise busy(status.replace(" ", "-"), f"the server is {status}", 5)
        return _json({"status": "ok"})

    @app.get(
        "/metrics",
        operation_id="metrics",
        summary="Counters for Prometheus",
        response_model=None,
        responses={
            200: {
                "description": "Metrics.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **_problems(401, 421),
        },
    )
    async def metrics(request: Request) -> Response:
        service.authorize(request)
        text = generate_latest(service.metrics.registry)
        return Response(text, 200, {"cache-control": "no-store"}, "text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    """Serve the page's files, each under a route of its own, from memory."""
    for file in resources.files("nomina").joinpath("playground").iterdir():
        kind = _PAGE_TYPES.get(Path(file.name).suffix)
        if kind is None or not file.is_file():
            continue
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.add_api_route(
            path,
            _page_file(file.read_bytes(), kind),
            methods=["GET", "HEAD"],
            include_in_schema=False,
        )


def _page_file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"cache-control": "no-cache", "etag": tag}

    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers)
        return Response(content, 200, headers, kind)

    return page


class Server(uvicorn.Server):
    """uvicorn, told where the service is: not ready while it drains, and a clean end is exit 0."""

    def __init__(self, service: Service, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, finish those accepted, stop."""
        self._service.is_draining = True
        logger.info("shutting down: finishing what was accepted")
        await super().shutdown(sockets)
        self._captured_signals.clear()
        logger.info("stopped")


def make_server(tagger: Tagger, config: ServerConfig) -> Server:
    """Make a server that is ready to `run`; see `serve`."""
    app = create_app(tagger, config)
    service: Service = app.state.service
    limits = config.limits
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=cast(type[asyncio.Protocol], functools.partial(GuardedProtocol, service.gate)),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,  # ours names routes only
        proxy_headers=False,  # anybody can write them
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(limits.drain_timeout_s)),
        h11_max_incomplete_event_size=16 * 1024,
        backlog=1024,
    )
    return Server(service, settings)


def serve(tagger: Tagger, config: ServerConfig | None = None) -> None:
    """Serve a tagger over HTTP until SIGTERM or SIGINT; what was accepted is finished.

    Args:
        tagger: What reads texts.
        config: Where to listen, who may ask, and how much.

    Raises:
        ServerConfigError: If it cannot listen there.
    """
    config = config or ServerConfig()
    listener = _listen(config.host, config.port)
    server = make_server(tagger, config)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run([listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServerConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Give another --port or "
            "--host."
        ) from error
    return listener
