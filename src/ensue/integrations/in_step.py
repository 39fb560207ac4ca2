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
from ensue.integrations.kept_answers import again, keep
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
    Raises UsageError above another `in_step`, and when a request comes to an app in which nothing is installed.
    """

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
                raise UsageError(
                    f"{where}: @in_step({service.signs_as}) in an app in which nothing is installed: "
                    f"install(app, {service.signs_as}), of ensue.integrations.starlette, on the outermost app"
                )
            given.task = asyncio.current_task()  # a middleware of the application's may have begun another one
            given.guarded = False  # whoever stands before this has let the client in
            try:
                async with service.step() as step:
                    response = await called(*arguments, step)  # type: ignore[misc]  # an awaitable either way
                    if not isinstance(response, Response):
                        raise UsageError(f"{where} returned a {type(response).__name__}, expected a Response")
                    await keep(request, given, response, request.scope.get(TOKENS))
            except AlreadyAnswered as answer:
                return again(answer.response)
            finally:
                given.refused = False  # of this step alone: not of a second try, nor of a background task's
            return response

        setattr(answered, _IN_STEP, service.signs_as)
        return answered

    return decorate
