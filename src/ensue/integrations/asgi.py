"""Any ASGI framework: the service in the app, routes in steps, the Idempotency-Key, tokens, and problem documents.

    app = install_around(Litestar([create_order], exception_handlers={Exception: problem}), orders)   # serve this one

    @post("/orders", middleware=[in_step(orders)])
    async def create_order(data: NewOrder, scope: Scope) -> OrderView:
        step = step_in(scope)

What is here knows no routes, requests and answers but those of ASGI itself. For Starlette and FastAPI there is more.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import Scope

from ensue.app import Service
from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.handlers import answer_to
from ensue.integrations.held_answer import InStep, step_in
from ensue.integrations.inner_lifespan import lifespan_of
from ensue.integrations.installing import Options
from ensue.integrations.problems import Problem
from ensue.integrations.starlette import install
from ensue.origin import AlreadyAnswered
from ensue.texts import logger

__all__ = ["Options", "Problem", "ProblemAnswer", "in_step", "install_around", "problem_of", "step_in"]

log = logger("ensue.http")

#: As of any framework: each has types of its own for what a scope and messages are.
App = Callable[[Any, Any, Any], Awaitable[None]]


def install_around(app: App, service: Service, **options: Unpack[Options]) -> Starlette:
    """Return an ASGI application around an app: serve it in the app's place. options: see `Options`.

    - The service runs while the app does: it is up before the app starts, and until the app has ended.
    - Requests have a correlation id, may carry an Idempotency-Key and tokens, and their bodies have a limit.
    - Errors that come out of the app are problem documents; those that its framework answers are what that makes of
      them, see `problem_of`. Paths that `health`, `metrics` and `asyncapi` ask for are answered before the app is.

    What it returns is an application of Starlette: `ensue.integrations.starlette.install(...)` adds another service.
    Raises UsageError for what is no service, and for an option that there is not.
    """

    @asynccontextmanager
    async def lifespan(around: Starlette) -> AsyncIterator[Any]:
        async with lifespan_of(app) as state:
            yield state or None  # a server need not have state in its lifespan, and is asked for it only by an app's

    around = Starlette(routes=[Mount("/", app=app)], lifespan=lifespan)
    install(around, service, **options)
    return around


def in_step(service: Service) -> Callable[[Any], App]:
    """Return a middleware, of a route or of a whole app, `wrapped = in_step(orders)(app)`: each POST, PUT, PATCH and
    DELETE runs in a step of a service, which `step_in(scope)` gives.

    The step is one local transaction. It commits when the answer is complete, before that goes out, and is rolled back
    for an answer of 4xx or 5xx, and when the app raises: over ASGI nobody can tell an error that was returned from one
    that was raised. The answer to a request with an Idempotency-Key is kept in the step where that commits, and given
    again to the same request. What runs in the background after the answer has steps of its own.

    The answer is held in memory until then, so it must not be a stream without an end. An app whose answer is too long,
    or begins twice, has not answered: the step is rolled back, whatever the app sends then. One that another task sends
    than the route's goes out when the app has ended, background included.
    Raises UsageError, for each request, in an app without `install_around`, and within another `in_step`.
    """
    if not isinstance(service, Service):
        raise UsageError(f"in_step(...) wants the service whose step it is, got {service!r:.80}")
    return functools.partial(InStep, service=service)


@dataclasses.dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """An answer for a framework to send. headers: without the media type and the length of the body."""

    status_code: int
    headers: Mapping[str, str]
    media_type: str
    body: bytes


def problem_of(scope: Mapping[str, object], error: Exception) -> ProblemAnswer:
    """What to answer to an error that a route has raised, for an exception handler of your framework.

    scope: of the request. An error of Ensue's, and a `Problem`, say what is wrong; so does one that has a `status_code`
    of 4xx, by its `detail`, and its `extra` where it has one, as `info`. Another one is 500, which tells the client
    nothing, and is logged with its traceback.
    """
    request = Request(cast(Scope, scope))
    answer = answer_to(request, error)
    if answer is None:
        status = getattr(error, "status_code", 500)
        if isinstance(status, int) and 400 <= status < 500:
            info = {"info": extra} if (extra := getattr(error, "extra", None)) else {}
            headers = getattr(error, "headers", None)
            detail = str(getattr(error, "detail", ""))
            answer = problems.response(request, status, detail=detail, headers=headers, **info)
        else:
            if not isinstance(error, AlreadyAnswered):  # which `in_step` answers, whatever is made of it here
                log.error("%s %r was answered 500", scope["method"], scope["path"], exc_info=error)
            answer = problems.response(request, 500, detail="The service has a fault; its log says more")
    headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
    return ProblemAnswer(answer.status_code, headers, str(answer.media_type), bytes(answer.body))
