"""Problem documents: errors over HTTP as RFC 9457 says, `application/problem+json`.

A document tells the client what went wrong and what to do; it never shows internals, and never echoes what the client
sent (which may be huge, or no JSON at all, like NaN).
"""

from __future__ import annotations

import http
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ensue.integrations import request_headers

MEDIA_TYPE = "application/problem+json"

#: Types of the problems that the integration itself reports; "about:blank" says no more than the status does.
BLANK = "about:blank"
AGGREGATE_EXISTS = "urn:ensue:problem:aggregate-exists"
VALIDATION = "urn:ensue:problem:validation"
MALFORMED_BODY = "urn:ensue:problem:malformed-body"
MALFORMED_HEADER = request_headers.MALFORMED_HEADER
BODY_TOO_LARGE = "urn:ensue:problem:body-too-large"
EVENT_REFUSED = "urn:ensue:problem:event-refused"
EVENT_TOO_LARGE = "urn:ensue:problem:event-too-large"
IDEMPOTENCY_CONFLICT = "urn:ensue:problem:idempotency-conflict"
IDEMPOTENCY_MISMATCH = "urn:ensue:problem:idempotency-mismatch"
PRECONDITION_FAILED = "urn:ensue:problem:precondition-failed"
REPLY_TIMEOUT = "urn:ensue:problem:reply-timeout"
VIEW_NOT_READY = "urn:ensue:problem:view-not-ready"
HELD_BACK = "urn:ensue:problem:held-back"
NOT_CAUGHT_UP = "urn:ensue:problem:not-caught-up"
TOKEN_ENDED = "urn:ensue:problem:token-ended"
TOKEN_INVALID = "urn:ensue:problem:token-invalid"
TRY_AGAIN = "urn:ensue:problem:try-again"

#: Where a request's scope holds its correlation id, so that an error's answer names it too.
CORRELATION_ID = "ensue.correlation_id"

_TEXT_MAX = 300
_ERRORS_MAX = 20
_INSTANCE_MAX = 500
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Problem(HTTPException):
    """Raise it in a route to answer with a problem document: `raise Problem(404, detail=f"no order {order_id}")`.

    title: short, the same for each problem of its type; else the status's own phrase. detail: about this one.
    type: a URI that names the kind of problem. extra: further members of the document.
    The step of the request, if there is one, is rolled back.
    """

    def __init__(
        self,
        status: int,
        title: str = "",
        detail: str = "",
        *,
        type: str = BLANK,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail or title or phrase(status), headers)
        self.title = title or phrase(status)
        self.type = type
        self.extra = extra


def phrase(status: int) -> str:
    """Return the standard's words for a status, e.g. "Not Found"."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def response(
    request: Request,
    status: int,
    title: str = "",
    detail: str = "",
    *,
    type: str = BLANK,
    headers: Mapping[str, str] | None = None,
    detail_chars_max: int = _TEXT_MAX,
    **extra: Any,
) -> Response:
    """Return the problem document as a response. `instance` is the path that was asked for."""
    document = {
        "type": type,
        "title": title or phrase(status),
        "status": status,
        "detail": printable(detail, detail_chars_max),
        "instance": quote(request.scope["path"], safe="/:@!$&'()*+,;=-._~")[:_INSTANCE_MAX],
        **extra,
    }
    answer = Response(_encode(document), status, headers, MEDIA_TYPE)
    if CORRELATION_ID in request.scope:
        answer.headers["X-Correlation-Id"] = request.scope[CORRELATION_ID]
    return answer


def printable(text: str, length_max: int = _TEXT_MAX) -> str:
    """Return `text` cut to a length and free of lone surrogates, which no UTF-8 can carry."""
    return text[:length_max].encode("utf-8", "replace").decode()


def field_errors(errors: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, str]]:
    """Turn pydantic's errors into the document's list: where and why, without the input and its values."""
    found = []
    for error in errors:
        location = ".".join(printable(str(part), 100) for part in error.get("loc", ()))
        found.append(
            {"location": location, "message": printable(str(error.get("msg", ""))), "type": str(error.get("type", ""))}
        )
        if len(found) == _ERRORS_MAX:
            break
    return found
