"""What the server is asked and what it answers: requests, documents, problems (RFC 9457).

The models say what the OpenAPI document says; `parse_request` reads a body by them. Knows nothing
of routes, queues or taggers.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from nomina.documents import Document
from nomina.entities import Entity, LabelSet
from nomina.errors import LabelError, MissingExtraError, NominaError
from nomina.server_config import Limits

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError(error.name or "fastapi", "serve") from error

PROBLEM_PREFIX = "urn:nomina:problem:"
# The page needs no outside host and no inline script or style.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class LabelTable(BaseModel):
    """What may be said of a label."""

    model_config = ConfigDict(extra="forbid", strict=True)

    definition: str = Field("", description="One sentence that says what belongs to it.")
    guideline: str = Field("", description="What does not, and what to do in doubt.")
    examples: list[str] = Field(default=[], description="Surfaces that are of this type.")
    color: str = Field("", description="For displays; not looked at here.")


_LabelNames = Annotated[list[str], Field(min_length=1)]
_LabelTables = Annotated[dict[str, str | LabelTable | None], Field(min_length=1)]


class ExtractRequest(BaseModel):
    """Texts, and what to look for in them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[str] = Field(min_length=1, description="What to read, in any language.")
    labels: _LabelNames | _LabelTables = Field(
        description="Names of entity types; or an object of names and their definitions."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Entities scored below it are left out. Defaults to the model's own.",
    )
    offset_unit: Literal["codepoint", "utf16"] = Field(
        "codepoint",
        description=(
            "What `start` and `end` count: Unicode code points (Python) or UTF-16 code units "
            "(JavaScript, Java, C#). They differ behind an emoji."
        ),
    )
    model: str | None = Field(None, description="A name of `GET /v1/models`. Defaults to the one.")


class EntityAnswer(BaseModel):
    """An entity: `text[start:end]` of its document, in the unit that was asked for."""

    text: str
    label: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: float = Field(ge=0, le=1)


class DocumentAnswer(BaseModel):
    """A text and its entities, sorted, not overlapping."""

    text: str
    entities: list[EntityAnswer]
    warnings: list[str] = Field(description="What you should know, such as text not read.")


class UsageAnswer(BaseModel):
    """What was read."""

    texts: int
    characters: int
    seconds: float = Field(description="From the whole request to the last document.")


class ExtractAnswer(BaseModel):
    """One document a text, in order."""

    documents: list[DocumentAnswer]
    model: str
    offset_unit: Literal["codepoint", "utf16"]
    usage: UsageAnswer


class ModelAnswer(BaseModel):
    """A model that can be asked."""

    id: str
    default_threshold: float
    limits: dict[str, float]


class ModelsAnswer(BaseModel):
    """The models that can be asked."""

    models: list[ModelAnswer]


class StatusAnswer(BaseModel):
    """Whether the server is well."""

    status: str


class FaultAnswer(BaseModel):
    """A place in the request and what is wrong with it."""

    pointer: str = Field(description="JSON pointer into the request.")
    detail: str


class ProblemAnswer(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FaultAnswer] | None = None


class Problem(NominaError):
    """An answer that says what is wrong, as RFC 9457 has it.

    Args:
        status: HTTP status.
        kind: Name of the problem; its `type` is `urn:nomina:problem:` and this.
        detail: What was expected, what was given, what to do. Quotes no text.
        headers: Headers of the answer.
        errors: Places in the request that are wrong.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors

    def response(self) -> Response:
        """Return the answer."""
        return Response(
            json.dumps(self.to_dict(), ensure_ascii=True),
            self.status,
            {"cache-control": "no-store", **self.headers},
            "application/problem+json",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as a JSON-ready dict."""
        shown: dict[str, Any] = {
            "type": PROBLEM_PREFIX + self.kind,
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            shown["errors"] = list(self.errors)
        return shown


def busy(kind: str, detail: str, retry_after_s: int, status: int = 503) -> Problem:
    """Return a problem that passes: come back after so many seconds."""
    return Problem(status, kind, detail, {"retry-after": str(retry_after_s)})


def parse_request(body: bytes, limits: Limits) -> tuple[ExtractRequest, LabelSet]:
    """Read and check the body of `POST /v1/extract`.

    Raises:
        Problem: If it is not JSON (400), too large (413), or not what was expected (422).
    """
    try:
        data = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except _DoubleKeyError as error:
        raise Problem(422, "double-key", str(error)) from None
    except UnicodeDecodeError as error:
        raise Problem(
            400, "not-json", f"the body must be UTF-8: byte {error.start} is not"
        ) from None
    except json.JSONDecodeError as error:
        raise Problem(
            400,
            "not-json",
            f"the body must be JSON, but is not at line {error.lineno}, column {error.colno}: "
            f"{error.msg}",
        ) from None
    except (ValueError, RecursionError):
        raise Problem(
            400, "not-json", "the body must be JSON without NaN, deep nesting or huge numbers"
        ) from None
    _check_size(data, limits)
    try:
        request = ExtractRequest.model_validate(data)
    except ValidationError as error:
        faults = _faults(error)
        detail = "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in faults[:3])
        raise Problem(422, "invalid-request", detail, errors=faults) from None
    _check_unicode(request)
    labels: Any = request.labels
    if isinstance(labels, dict):
        labels = {k: v.model_dump() if isinstance(v, LabelTable) else v for k, v in labels.items()}
    try:
        return request, LabelSet.of(labels)
    except LabelError as error:
        faults = [{"pointer": "#/labels", "detail": str(error)}]
        raise Problem(422, "label-error", str(error), errors=faults) from None


def _check_unicode(request: ExtractRequest) -> None:
    """Refuse halves of surrogate pairs, which JSON can write and UTF-8 cannot."""
    places = [(f"#/texts/{index}", text) for index, text in enumerate(request.texts)]
    labels = request.model_dump(include={"labels"})
    for pointer, text in (*places, ("#/labels", json.dumps(labels, ensure_ascii=False))):
        try:
            text.encode()
        except UnicodeEncodeError:
            message = "must be Unicode, has half of a surrogate pair"
            faults = [{"pointer": pointer, "detail": message}]
            detail = f"{pointer}: {message}"
            raise Problem(422, "invalid-request", detail, errors=faults) from None


class _DoubleKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _DoubleKeyError(f"the key {name!r} stands twice in an object. Remove one of them.")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _check_size(data: Any, limits: Limits) -> None:
    """Refuse what is too large, before anything looks at it closely."""
    if not isinstance(data, dict):
        return
    texts, labels = data.get("texts"), data.get("labels")
    if isinstance(texts, list):
        if len(texts) > limits.max_texts:
            raise Problem(
                413,
                "too-many-texts",
                f"a request may have at most {limits.max_texts} texts, has {len(texts)}. "
                "Send several requests.",
            )
        for index, text in enumerate(texts):
            if isinstance(text, str) and len(text) > limits.max_text_chars:
                raise Problem(
                    413,
                    "text-too-long",
                    f"a text may have at most {limits.max_text_chars} characters, number {index} "
                    f"has {len(text)}. Cut it, say at its chapters.",
                    errors=[{"pointer": f"#/texts/{index}", "detail": "too long"}],
                )
    if isinstance(labels, list | dict):
        if len(labels) > limits.max_labels:
            raise Problem(
                422,
                "too-many-labels",
                f"a request may have at most {limits.max_labels} labels, has {len(labels)}",
                errors=[{"pointer": "#/labels", "detail": "too many"}],
            )
        num_chars = len(json.dumps(labels, ensure_ascii=False))
        if num_chars > limits.max_label_chars:
            raise Problem(
                422,
                "labels-too-long",
                f"labels and definitions may have at most {limits.max_label_chars} characters "
                f"in all, have {num_chars}",
                errors=[{"pointer": "#/labels", "detail": "too long"}],
            )


def _faults(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong where, without the values given, at most ten places."""
    faults: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        place = item["loc"]
        if place[:1] == ("labels",):
            place = ("labels",)
            message = (
                "must be a list of names, or an object of names and definitions, such as "
                '{"actor": "a person who plays a role in a film"}, and not be empty'
            )
        elif item["type"] == "extra_forbidden":
            known = ", ".join(ExtractRequest.model_fields)
            message = f"is not known; known are {known}. Check for a typo."
        else:
            message = item["msg"][:1].lower() + item["msg"][1:]
        steps = (str(x).replace("~", "~0").replace("/", "~1")[:100] for x in place)
        pointer = "#" + "".join(f"/{step}" for step in steps)
        faults.setdefault(pointer.encode("utf-8", "replace").decode(), message)
    return [{"pointer": key, "detail": value} for key, value in list(faults.items())[:10]]


def document_answer(document: Document, threshold: float, offset_unit: str) -> dict[str, Any]:
    """Return a document as it is answered.

    Args:
        document: With entities of any score.
        threshold: Entities scored below it are left out.
        offset_unit: "codepoint" or "utf16".

    Example:
        >>> document = Document("🎬 in Rome", (Entity("Rome", "city", 5, 9, 0.9),))
        >>> entity = document_answer(document, 0.5, "utf16")["entities"][0]
        >>> entity["start"], entity["end"]
        (6, 10)
    """
    kept = tuple(entity for entity in document.entities if entity.score >= threshold)
    if offset_unit == "utf16":
        kept = tuple(_in_utf16(document.text, kept))
    return Document(document.text, kept, document.warnings).to_dict()


def _in_utf16(text: str, entities: Sequence[Entity]) -> Iterator[Entity]:
    position = shift = 0
    for entity in entities:  # sorted and not overlapping: one walk over the text
        shift += _num_astral(text[position : entity.start])
        inside = _num_astral(text[entity.start : entity.end])
        yield dataclasses.replace(
            entity, start=entity.start + shift, end=entity.end + shift + inside
        )
        shift, position = shift + inside, entity.end


def _num_astral(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2 - len(text)
