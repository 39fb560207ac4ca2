"""FastAPI: steps as dependencies, problem documents, a body limit, and the Idempotency-Key.

    app = FastAPI(lifespan=orders.lifespan)
    install(app)

    @app.post("/orders", status_code=201)
    async def create_order(new: NewOrder, step: Step = Depends(orders.step, scope="function")) -> OrderView: ...

With scope="function" FastAPI ends the step, which commits it, before the answer goes out: no client sees 201 before
the commit. The answer to a request with an Idempotency-Key is stored in that same step.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, cast

from ensue.errors import IdempotencyMismatch, RetryableError, UsageError
from ensue.message import StoredResponse
from ensue.origin import AlreadyAnswered, Origin, origin

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.routing import APIRoute
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise UsageError('ensue.integrations.fastapi: pip install "ensue[fastapi]"') from error

from ensue.integrations import problems
from ensue.integrations.body_limit import BodyLimit
from ensue.integrations.openapi import describe, problem_responses
from ensue.integrations.problems import Problem

__all__ = ["Problem", "StepRoute", "check_step_scope", "install", "problem_responses"]

log = logging.getLogger("ensue.http")

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HEADER_TEXT = re.compile(r"[ -~]{1,255}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KEPT_HEADERS = ("content-type", "location", "retry-after")


def install(app: FastAPI, *, body_bytes_max: int = 1_000_000) -> None:
    """Call it right after `FastAPI(...)`, before any route is declared.

    A router of your own needs the route class too: `APIRouter(route_class=StepRoute)`.
    body_bytes_max: longer request bodies are answered 413. Raises UsageError when routes are there already.
    """
    if any(isinstance(route, APIRoute) for route in app.routes):
        raise UsageError("install(app) came after the first route: call it right after FastAPI(...)")
    app.router.route_class = StepRoute
    app.add_middleware(BodyLimit, body_bytes_max=body_bytes_max)
    app.add_exception_handler(StarletteHTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(IdempotencyMismatch, _idempotency_mismatch)
    app.add_exception_handler(RetryableError, _try_again)
    app.add_exception_handler(Exception, _unexpected)
    describe(app)


class StepRoute(APIRoute):
    """Gives the steps of a request their origin, and keeps the answer with the step when the client sent a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_origin(request: Request) -> Response:
            # What this function does happens before FastAPI ends the function-scope dependencies, so before the
            # step commits: the stored answer is part of its transaction.
            given = await _origin_of(request)
            request.scope[problems.CORRELATION_ID] = given.correlation_id
            with origin(given):
                try:
                    response = await handle(request)
                except AlreadyAnswered as answered:
                    response = _again(answered.response)
                else:
                    if given.idempotency_key and given.step is not None and response.status_code < 500:
                        await given.step.transaction.response_save(_to_store(request, given, response))
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


# --------------------------------------------------------------------------------------------------- errors to problems


async def _http_exception(request: Request, error: Exception) -> Response:
    raised = cast(StarletteHTTPException, error)
    status = raised.status_code
    if status < 200 or status in (204, 205, 304):
        return Response(status_code=status, headers=raised.headers)
    if isinstance(raised, Problem):
        return problems.response(
            request, status, raised.title, raised.detail, type=raised.type, headers=raised.headers, **raised.extra
        )
    detail: Any = raised.detail  # FastAPI allows anything that JSON can say
    if isinstance(detail, str):
        return problems.response(request, status, detail=detail, headers=raised.headers)
    return problems.response(request, status, headers=raised.headers, info=detail)


async def _invalid_request(request: Request, error: Exception) -> Response:
    invalid = cast(RequestValidationError, error)
    first = invalid.errors()[0] if invalid.errors() else {}
    if first.get("type") == "json_invalid":
        why = problems.printable(str(first.get("ctx", {}).get("error", "")))
        detail = f"The body is no JSON: {why} at character {first['loc'][-1]}"
        return problems.response(request, 400, "Malformed body", detail, type=problems.MALFORMED_BODY)
    if isinstance(invalid.body, bytes):  # FastAPI leaves a body as it came when its content type is not JSON
        detail = "Send the body as JSON, with the header Content-Type: application/json"
        return problems.response(request, 415, detail=detail)
    return problems.response(
        request,
        422,
        "Invalid request",
        "Some fields are wrong, see errors",
        type=problems.VALIDATION,
        errors=problems.field_errors(invalid.errors()),
    )


async def _idempotency_mismatch(request: Request, error: Exception) -> Response:
    detail = "This Idempotency-Key came before with another request; a new request needs a new key"
    return problems.response(request, 422, "Idempotency-Key used before", detail, type=problems.IDEMPOTENCY_MISMATCH)


async def _try_again(request: Request, error: Exception) -> Response:
    log.warning("%s %s was answered 503: %s", request.method, request.scope["path"], error)
    detail = "The service could not do it now. Try again, with the same id or Idempotency-Key: it takes effect once"
    return problems.response(request, 503, detail=detail, type=problems.TRY_AGAIN, headers={"Retry-After": "1"})


async def _unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so the server logs it with its traceback.
    return problems.response(request, 500, detail="The service has a fault; its log says more")


# ------------------------------------------------------------------------------------------------------- start-up check


def check_step_scope(app: Any, step: Callable[..., Any]) -> None:
    """Check each route of `app` that depends on `step` (a service's `step`). Raises UsageError, naming the route, when

    - the dependency's scope is not "function": the step would commit after the answer was sent;
    - the app is installed, but the route is of another class: its Idempotency-Key would have no effect.
    """
    installed = app.router.route_class is StepRoute
    for where, dependant, original in _routes(app.routes, ""):
        scopes = [each.scope for each in _dependencies(dependant) if each.call == step]
        if any(scope != "function" for scope in scopes):
            raise UsageError(
                f'{where}: the step would commit after the answer was sent; write Depends(....step, scope="function")'
            )
        if scopes and installed and isinstance(original, APIRoute) and not isinstance(original, StepRoute):
            raise UsageError(f"{where}: its router needs the route class, write APIRouter(route_class=StepRoute)")


def _routes(routes: Iterable[Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each route that has dependencies, as (how to name it, its dependant, the route as it was declared).

    Newer FastAPI keeps an included router as one route that knows its own; older copies them into the app.
    """
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            yield from _routes(route.effective_route_contexts(), prefix)
        elif getattr(route, "dependant", None) is not None:
            methods = ",".join(sorted(getattr(route, "methods", None) or ("WEBSOCKET",)))
            yield f"{methods} {prefix}{route.path}", route.dependant, getattr(route, "original_route", route)
        elif getattr(route, "routes", None):
            yield from _routes(route.routes, prefix + getattr(route, "path", ""))


def _dependencies(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each
        yield from _dependencies(each)
