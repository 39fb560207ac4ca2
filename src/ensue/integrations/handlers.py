"""Exceptions to problem documents: one handler for each kind of error. Needs Starlette alone."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ensue.errors import (
    AggregateExists,
    EventMismatch,
    EventRefused,
    EventTooLarge,
    HeldBack,
    IdempotencyConflict,
    IdempotencyMismatch,
    NotCaughtUp,
    ReplyTimeout,
    RetryableError,
    TokenEnded,
    TokenInvalid,
    VersionMismatch,
    ViewNotReady,
)
from ensue.integrations import problems
from ensue.integrations.paths import allowed_methods
from ensue.integrations.problems import Problem
from ensue.texts import logger

log = logger("ensue.http")


def add_handlers(app: Starlette) -> None:
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(IdempotencyMismatch, _idempotency_mismatch)
    app.add_exception_handler(IdempotencyConflict, _idempotency_conflict)
    app.add_exception_handler(EventRefused, _event_refused)
    app.add_exception_handler(EventTooLarge, _event_too_large)
    app.add_exception_handler(EventMismatch, _event_mismatch)
    app.add_exception_handler(ReplyTimeout, _reply_timeout)
    app.add_exception_handler(ViewNotReady, _view_not_ready)
    app.add_exception_handler(TokenInvalid, _token_invalid)
    app.add_exception_handler(TokenEnded, _token_ended)
    app.add_exception_handler(HeldBack, _held_back)
    app.add_exception_handler(NotCaughtUp, _not_caught_up)
    app.add_exception_handler(VersionMismatch, _version_mismatch)
    app.add_exception_handler(AggregateExists, _aggregate_exists)
    app.add_exception_handler(RetryableError, _try_again)
    app.add_exception_handler(Exception, _unexpected)


async def _http_exception(request: Request, error: Exception) -> Response:
    raised = cast(HTTPException, error)
    status = raised.status_code
    if status < 200 or status in (204, 205, 304):
        return Response(status_code=status, headers=raised.headers)
    headers = dict(raised.headers or {})
    if status == 405:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        headers["Allow"] = ", ".join(sorted(allowed_methods(request.app, path))) or headers.get("Allow", "")
    if isinstance(raised, Problem):
        return problems.response(
            request, status, raised.title, raised.detail, type=raised.type, headers=headers, **raised.extra
        )
    detail: Any = raised.detail  # with FastAPI it is anything that JSON can say
    if isinstance(detail, str):
        return problems.response(request, status, detail=detail, headers=headers)
    return problems.response(request, status, headers=headers, info=detail)


async def _idempotency_mismatch(request: Request, error: Exception) -> Response:
    detail = "This Idempotency-Key came before with another request; a new request needs a new key"
    return problems.response(request, 422, "Idempotency-Key used before", detail, type=problems.IDEMPOTENCY_MISMATCH)


async def _idempotency_conflict(request: Request, error: Exception) -> Response:
    detail = "A request with this Idempotency-Key was answered meanwhile; send this one again to get that answer"
    headers = {"Retry-After": "1"}
    return problems.response(request, 409, detail=detail, type=problems.IDEMPOTENCY_CONFLICT, headers=headers)


async def _version_mismatch(request: Request, error: Exception) -> Response:
    found = cast(VersionMismatch, error).found
    detail = (
        f"It is at version {found} now, another one than If-Match says: read it again, and decide by what it is now"
        if found
        else "It does not exist"
    )
    headers = {"ETag": f'"{found}"'} if found else None
    return problems.response(
        request, 412, detail=detail, type=problems.PRECONDITION_FAILED, headers=headers, version=found
    )


async def _aggregate_exists(request: Request, error: Exception) -> Response:
    version = cast(AggregateExists, error).version
    return problems.response(request, 409, detail="It exists already", type=problems.AGGREGATE_EXISTS, version=version)


async def _event_refused(request: Request, error: Exception) -> Response:
    refused = cast(EventRefused, error)
    log.info("%s was answered 422: %s", _where(request), error)
    detail = f"What was sent cannot be recorded: as an event's {refused.what}, {refused.expected} is expected"
    return problems.response(request, 422, "Event refused", detail, type=problems.EVENT_REFUSED)


async def _event_too_large(request: Request, error: Exception) -> Response:
    refused = cast(EventTooLarge, error)
    log.info("%s was answered 413: %s", _where(request), error)
    detail = (
        f"What was sent cannot be recorded: it would be {refused.found} bytes of an event, "
        f"at most {refused.expected} are expected. Send less at once"
    )
    return problems.response(request, 413, "Event too large", detail, type=problems.EVENT_TOO_LARGE)


async def _event_mismatch(request: Request, error: Exception) -> Response:
    """What JSON cannot carry comes from the client, if the types fit; a wrong type is a fault of the service."""
    refused = cast(EventMismatch, error)
    no_number = {refused.found, refused.expected} & {"nan", "inf", "-inf"}
    if not (no_number or isinstance(error.__cause__, UnicodeError | RecursionError)):
        raise error
    log.info("%s was answered 422: %s", _where(request), error)
    detail = "What was sent cannot be recorded: it holds NaN, an infinity, half a character, or is nested too deeply"
    return problems.response(request, 422, "Event refused", detail, type=problems.EVENT_REFUSED)


async def _try_again(request: Request, error: Exception) -> Response:
    log.warning("%s was answered 503: %s", _where(request), error)
    detail = "The service could not do it now. Try again, with the same id or Idempotency-Key: it takes effect once"
    return problems.response(request, 503, detail=detail, type=problems.TRY_AGAIN, headers={"Retry-After": "1"})


async def _view_not_ready(request: Request, error: Exception) -> Response:
    refused = cast(ViewNotReady, error)
    log.info("%s was answered 503: %s", _where(request), error)
    far = f", which has read {refused.done} of {refused.total} records" if refused.total else ""
    detail = (
        f"Version {refused.version} of view {refused.view} is not the one to ask{far}. Ask version {refused.active}"
    )
    return problems.response(
        request, 503, "View not ready", detail, type=problems.VIEW_NOT_READY, headers={"Retry-After": "1"},
        view=refused.view, version=refused.version, active=refused.active, done=refused.done, total=refused.total,
    )  # fmt: skip


async def _reply_timeout(request: Request, error: Exception) -> Response:
    log.warning("%s was answered 504: %s", _where(request), error)
    detail = "Another service has not answered in time, and may do all the same what it was asked for: look first"
    return problems.response(request, 504, detail=detail, type=problems.REPLY_TIMEOUT)


async def _token_invalid(request: Request, error: Exception) -> Response:
    return problems.response(request, 400, "Ensue-Token refused", str(error), type=problems.TOKEN_INVALID)


async def _token_ended(request: Request, error: Exception) -> Response:
    ended = cast(TokenEnded, error)
    log.warning("%s was answered 409: %s", _where(request), error)
    detail = (
        f"What the token stands for may be lost: {ended.source} was put back from a copy, {ended.successor} is what "
        "there is now. Look what is there, without the token"
    )
    return problems.response(request, 409, "Token of another history", detail, type=problems.TOKEN_ENDED)


async def _held_back(request: Request, error: Exception) -> Response:
    held = cast(HeldBack, error)
    log.warning("%s was answered 409: %s", _where(request), error)
    detail = (
        f"Held back by letter {held.letter} of {held.service}: what was written has perhaps not taken effect here, and "
        "somebody has to decide. Without the token the answer is what there is now"
    )
    return problems.response(
        request, 409, "Held back", detail, type=problems.HELD_BACK, service=held.service, letter=held.letter
    )


async def _not_caught_up(request: Request, error: Exception) -> Response:
    late = cast(NotCaughtUp, error)
    log.warning("%s was answered 504: %s", _where(request), error)
    detail = (
        f"{late.service} has not seen within {late.timeout_s:g} s what the token stands for. Send the request again; "
        "without the token the answer is what there is now"
    )
    return problems.response(
        request, 504, "Not caught up", detail, type=problems.NOT_CAUGHT_UP, service=late.service, behind=late.behind
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so the server logs it with its traceback.
    return problems.response(request, 500, detail="The service has a fault; its log says more")


def _where(request: Request) -> str:
    """Method and path in one line of a log, whatever line breaks the path has."""
    return f"{request.method} {quote(request.scope['path'])}"
