"""A route of Starlette in a step: the answer is made inside of it, and goes out when it is committed."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ensue.app import Service
from ensue.errors import UsageError
from ensue.integrations.installing import is_fastapi
from ensue.integrations.kept_answers import again, keep
from ensue.integrations.request_origin import PRINCIPAL
from ensue.integrations.tokens import TOKENS
from ensue.origin import AlreadyAnswered, current_origin

Endpoint = Callable[..., Awaitable[Response] | Response]
#: What an endpoint in a step has: whose step it is.
_IN_STEP = "__ensue_in_step__"


def in_step(service: Service) -> Callable[[Endpoint], Callable[..., Coroutine[Any, Any, Response]]]:
    """Run an endpoint in a step of a service, `async def create_order(request: Request, step: Step) -> Response`.

    The step is one local transaction. It commits when the endpoint has returned its answer, before that goes out; it is
    rolled back when the endpoint raises, or answers 5xx. The answer to a request with an Idempotency-Key is kept in it,
    and given again to the same request: the endpoint is not called then. So what lets a client in or not stands above
    this (a middleware, or a decorator such as `requires`).

    A plain `def` runs in a thread. A method of an HTTPEndpoint is decorated in the same way.
    Raises UsageError without a service, above another `in_step`, and when a request comes to an app in which nothing is
    installed.
    """
    if not isinstance(service, Service):
        raise UsageError(f"@in_step wants the service whose step it is, write @in_step(orders): got {service!r:.80}")

    def decorate(endpoint: Endpoint) -> Callable[..., Coroutine[Any, Any, Response]]:
        if (inner := getattr(endpoint, _IN_STEP, None)) is not None:  # functools.wraps hands it on
            raise UsageError(
                f"@in_step({service.signs_as}) above @in_step({inner}): an endpoint has one step, since two services "
                "commit one after the other. Publish an event, and let the other service handle it"
            )
        is_async = inspect.iscoroutinefunction(endpoint)
        called = endpoint if is_async else functools.partial(run_in_threadpool, endpoint)

        @functools.wraps(endpoint)
        async def answered(*arguments: Any) -> Response:
            request: Request = arguments[-1]  # before it comes `self`, of a method
            where = f"{request.method} {request.scope['path']}"
            given = current_origin()
            if given is None:
                raise UsageError(f"{where}: {_not_installed(request, service)}")
            given.task = asyncio.current_task()  # a middleware of the application's may have begun another one
            given.guarded = False  # whoever stands before this has let the client in
            try:
                async with service.step() as step:
                    response = await called(*arguments, step)  # type: ignore[misc]  # an awaitable either way
                    if not isinstance(response, Response):
                        raise UsageError(f"{where} returned a {type(response).__name__}, expected a Response")
                    await keep(request, given, response, request.scope.get(TOKENS))
                if given.settled:
                    given.answered.add(service.name)
            except AlreadyAnswered as answer:
                given.answered.add(service.name)
                return again(answer.response, request.scope.get(TOKENS))
            finally:
                # Of this step alone: not of a second try, nor of another step in the same request.
                given.refused = given.settled = False
                given.earlier = None
            return response

        setattr(answered, _IN_STEP, service.signs_as)
        return answered

    return decorate


def _not_installed(request: Request, service: Service) -> str:
    """What to do about it, in the app that the route stands in."""
    step = service.signs_as
    if is_fastapi(request.scope.get("app")):
        return (
            f"@in_step({step}) in an app of FastAPI, where the step of a request is a dependency: a parameter "
            f"`step: Annotated[Step, step_of({step})]` of a route, with install and step_of of "
            "ensue.integrations.fastapi. A Starlette app with @in_step may be mounted in it, and is installed by itself"
        )
    if PRINCIPAL in request.scope:
        return (
            f"@in_step({step}) in an app of Starlette that is mounted in one of FastAPI: install(app, {step}), of "
            "ensue.integrations.starlette, on the mounted app too"
        )
    return (
        f"@in_step({step}) in an app in which nothing is installed: install(app, {step}), of "
        "ensue.integrations.starlette, on the outermost app, or on this one where it is mounted in one of FastAPI"
    )
