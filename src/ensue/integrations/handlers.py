"""Exceptions to problem documents: one handler for each kind of error. Needs Starlette alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from ensue.integrations.problem_documents import KEY_ANSWERED_MEANWHILE, KEY_USED_BEFORE
from ensue.integrations.problems import Problem
from ensue.texts import logger

log = logger("ensue.http")


def _http_exception(request: Request, error: Exception) -> Response:
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


def _idempotency_mismatch(request: Request, error: Exception) -> Response:
    return problems.told(request, KEY_USED_BEFORE)


def _idempotency_conflict(request: Request, error: Exception) -> Response:
    return problems.told(request, KEY_ANSWERED_MEANWHILE)


def _version_mismatch(request: Request, error: Exception) -> Response:
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


def _aggregate_exists(request: Request, error: Exception) -> Response:
    version = cast(AggregateExists, error).version
    return problems.response(request, 409, detail="It exists already", type=problems.AGGREGATE_EXISTS, version=version)


def _event_refused(request: Request, error: Exception) -> Response:
    refused = cast(EventRefused, error)
    log.info("%s was answered 422: %s", _where(request), error)
    detail = f"What was sent cannot be recorded: as an event's {refused.what}, {refused.expected} is expected"
    return problems.response(request, 422, "Event refused", detail, type=problems.EVENT_REFUSED)


def _event_too_large(request: Request, error: Exception) -> Response:
    refused = cast(EventTooLarge, error)
    log.info("%s was answered 413: %s", _where(request), error)
    detail = (
        f"What was sent cannot be recorded: it would be {refused.found} bytes of an event, "
        f"at most {refused.expected} are expected. Send less at once"
    )
    return problems.response(request, 413, "Event too large", detail, type=problems.EVENT_TOO_LARGE)


def _event_mismatch(request: Request, error: Exception) -> Response:
    """What JSON cannot carry comes from the client, if the types fit; a wrong type is a fault of the service."""
    refused = cast(EventMismatch, error)
    no_number = {refused.found, refused.expected} & {"nan", "inf", "-inf"}
    if not (no_number or isinstance(error.__cause__, UnicodeError | RecursionError)):
        raise error
    log.info("%s was answered 422: %s", _where(request), error)
    detail = "What was sent cannot be recorded: it holds NaN, an infinity, half a character, or is nested too deeply"
    return problems.response(request, 422, "Event refused", detail, type=problems.EVENT_REFUSED)


def _try_again(request: Request, error: Exception) -> Response:
    log.warning("%s was answered 503: %s", _where(request), error)
    detail = "The service could not do it now. Try again, with the same id or Idempotency-Key: it takes effect once"
    return problems.response(request, 503, detail=detail, type=problems.TRY_AGAIN, headers={"Retry-After": "1"})


def _view_not_ready(request: Request, error: Exception) -> Response:
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


def _reply_timeout(request: Request, error: Exception) -> Response:
    log.warning("%s was answered 504: %s", _where(request), error)
    detail = "Another service has not answered in time, and may do all the same what it was asked for: look first"
    return problems.response(request, 504, detail=detail, type=problems.REPLY_TIMEOUT)


def _token_invalid(request: Request, error: Exception) -> Response:
    return problems.response(request, 400, "Ensue-Token refused", str(error), type=problems.TOKEN_INVALID)


def _token_ended(request: Request, error: Exception) -> Response:
    ended = cast(TokenEnded, error)
    log.warning("%s was answered 409: %s", _where(request), error)
    detail = (
        f"What the token stands for may be lost: {ended.source} was put back from a copy, {ended.successor} is what "
        "there is now. Look what is there, without the token"
    )
    return problems.response(request, 409, "Token of another history", detail, type=problems.TOKEN_ENDED)


def _held_back(request: Request, error: Exception) -> Response:
    held = cast(HeldBack, error)
    log.warning("%s was answered 409: %s", _where(request), error)
    detail = (
        f"Held back by letter {held.letter} of {held.service}: what was written has perhaps not taken effect here, and "
        "somebody has to decide. Without the token the answer is what there is now"
    )
    return problems.response(
        request, 409, "Held back", detail, type=problems.HELD_BACK, service=held.service, letter=held.letter
    )


def _not_caught_up(request: Request, error: Exception) -> Response:
    late = cast(NotCaughtUp, error)
    log.warning("%s was answered 504: %s", _where(request), error)
    detail = (
        f"{late.service} has not seen within {late.timeout_s:g} s what the token stands for. Send the request again; "
        "without the token the answer is what there is now"
    )
    return problems.response(
        request, 504, "Not caught up", detail, type=problems.NOT_CAUGHT_UP, service=late.service, behind=late.behind
    )


def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so the server logs it with its traceback.
    return problems.response(request, 500, detail="The service has a fault; its log says more")


def _where(request: Request) -> str:
    """Method and path in one line of a log, whatever line breaks the path has."""
    return f"{request.method} {quote(request.scope['path'])}"


_Answers = Callable[[Request, Exception], Response]

#: What is answered to each kind of error.
_ANSWERS: dict[type[Exception], _Answers] = {
    HTTPException: _http_exception,
    IdempotencyMismatch: _idempotency_mismatch,
    IdempotencyConflict: _idempotency_conflict,
    EventRefused: _event_refused,
    EventTooLarge: _event_too_large,
    EventMismatch: _event_mismatch,
    ReplyTimeout: _reply_timeout,
    ViewNotReady: _view_not_ready,
    TokenInvalid: _token_invalid,
    TokenEnded: _token_ended,
    HeldBack: _held_back,
    NotCaughtUp: _not_caught_up,
    VersionMismatch: _version_mismatch,
    AggregateExists: _aggregate_exists,
    RetryableError: _try_again,
}


def add_handlers(app: Starlette) -> None:
    for kind, answers in {**_ANSWERS, Exception: _unexpected}.items():
        app.add_exception_handler(kind, _on_the_loop(answers))


def _on_the_loop(answers: _Answers) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Starlette takes a plain function into a thread, which is more than there is to do."""

    async def answered(request: Request, error: Exception) -> Response:
        return answers(request, error)

    return answered


def answer_to(request: Request, error: Exception) -> Response | None:
    """The problem document for an error of Ensue's, or one that was raised as `Problem`; None: it is another one."""
    for kind in type(error).__mro__:
        if answers := _ANSWERS.get(kind):
            try:
                return answers(request, error)
            except EventMismatch:
                return None  # of a wrong type: a fault of the service
    return None
