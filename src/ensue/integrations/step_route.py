"""The route class that gives a request's steps their origin and keeps answers for Idempotency-Keys."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.problems import Problem
from ensue.message import StoredResponse
from ensue.origin import AlreadyAnswered, Origin, coming_from

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HEADER_TEXT = re.compile(r"[ -~]{1,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KEPT_HEADERS = ("content-type", "location", "retry-after")


class StepRoute(APIRoute):
    """Gives the steps of a request their origin, and keeps the answer with the step when the client sent a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_origin(request: Request) -> Response:
            # What this function does happens before FastAPI ends the function-scope dependencies, so before the
            # step commits: the stored answer is part of its transaction.
            given = await _origin_of(request)
            request.scope[problems.CORRELATION_ID] = given.correlation_id
            with coming_from(given):
                try:
                    response = await handle(request)
                except AlreadyAnswered as answered:
                    response = _again(answered.response)
                else:
                    if given.idempotency_key and given.step is not None:
                        if response.status_code < 500:
                            await given.step.transaction.response_save(_to_store(request, given, response))
                        given.settled = True
            # A task that the request began inherits its origin; the key belongs to the request alone.
            given.idempotency_key = given.fingerprint = ""
            response.headers["X-Correlation-Id"] = given.correlation_id
            return response

        return handle_with_origin


async def _origin_of(request: Request) -> Origin:
    """Read the headers that matter to a step. Raises Problem 400 for a malformed one."""
    headers = request.headers
    correlation_id = headers.get("x-correlation-id")
    if correlation_id is None:
        correlation_id = uuid.uuid4().hex
    else:
        _check_header("X-Correlation-Id", correlation_id)
    traceparent = headers.get("traceparent", "")
    if traceparent and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = ""  # W3C Trace Context: one that cannot be read is left out, and a new trace begins
    given = Origin(correlation_id, traceparent)
    key = headers.get("idempotency-key")
    if key is not None and request.method in _CHANGING:
        _check_header("Idempotency-Key", key)
        given.idempotency_key = key
        given.fingerprint = await _fingerprint(request)
    return given


def _check_header(name: str, value: str) -> None:
    if not _HEADER_TEXT.fullmatch(value):
        raise Problem(
            400,
            "Malformed header",
            f"{name} wants 1 to 255 printable ASCII characters",
            type=problems.MALFORMED_HEADER,
            header=name,
        )


async def _fingerprint(request: Request) -> str:
    """Hash what makes two requests the same: method, path with query, body."""
    scope = request.scope
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise Problem(400, detail="The connection ended before the body did") from error
    target = b"\n".join((scope["method"].encode(), scope["path"].encode("utf-8", "replace"), scope["query_string"]))
    return hashlib.sha256(target + b"\n" + body).hexdigest()


def _to_store(request: Request, given: Origin, response: Response) -> StoredResponse:
    body = getattr(response, "body", None)
    if not isinstance(body, bytes):
        raise UsageError(
            f"{request.method} {request.scope['path']}: a {type(response).__name__} has no body that could be kept "
            "for its Idempotency-Key; return a response with a body"
        )
    headers = {name: value for name in _KEPT_HEADERS if (value := response.headers.get(name)) is not None}
    return StoredResponse(given.idempotency_key, given.fingerprint, response.status_code, headers, body)


def _again(stored: StoredResponse) -> Response:
    return Response(stored.body, stored.status, {**stored.headers, "Idempotency-Replayed": "true"})
