"""Problem documents: errors over HTTP as RFC 9457 says, `application/problem+json`.

A document tells the client what went wrong and what to do; it never shows internals, and never echoes what the client
sent (which may be huge, or no JSON at all, like NaN).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ensue.integrations import problem_documents, request_headers
from ensue.integrations.problem_documents import BLANK as BLANK  # others take what there is of problems from here
from ensue.integrations.problem_documents import KEY_ANSWERED_MEANWHILE, KEY_USED_BEFORE, TEXT_MAX, Told
from ensue.integrations.problem_documents import MEDIA_TYPE as MEDIA_TYPE
from ensue.integrations.problem_documents import phrase as phrase
from ensue.integrations.problem_documents import printable as printable

#: Types of the problems that the integration itself reports.
AGGREGATE_EXISTS = "urn:ensue:problem:aggregate-exists"
VALIDATION = "urn:ensue:problem:validation"
MALFORMED_BODY = "urn:ensue:problem:malformed-body"
MALFORMED_HEADER = request_headers.MALFORMED_HEADER
BODY_TOO_LARGE = "urn:ensue:problem:body-too-large"
EVENT_REFUSED = "urn:ensue:problem:event-refused"
EVENT_TOO_LARGE = "urn:ensue:problem:event-too-large"
IDEMPOTENCY_CONFLICT = KEY_ANSWERED_MEANWHILE.type
IDEMPOTENCY_MISMATCH = KEY_USED_BEFORE.type
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

_ERRORS_MAX = 20


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


def response(
    request: Request,
    status: int,
    title: str = "",
    detail: str = "",
    *,
    type: str = BLANK,
    headers: Mapping[str, str] | None = None,
    detail_chars_max: int = TEXT_MAX,
    **extra: Any,
) -> Response:
    """Return the problem document as a response. `instance` is the path that was asked for."""
    document = problem_documents.document(
        request.scope["path"], status, title, detail, type=type, chars_max=detail_chars_max, **extra
    )
    answer = Response(document, status, headers, MEDIA_TYPE)
    if CORRELATION_ID in request.scope:
        answer.headers["X-Correlation-Id"] = request.scope[CORRELATION_ID]
    return answer


def told(request: Request, problem: Told) -> Response:
    return response(request, problem.status, problem.title, problem.detail, type=problem.type, headers=problem.headers)


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
