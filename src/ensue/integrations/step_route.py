"""The route class that gives a request's steps their origin and keeps answers for Idempotency-Keys."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from anyio import from_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute

from ensue.integrations import problems
from ensue.integrations.body_limit import bounded
from ensue.integrations.kept_answers import again, keep
from ensue.integrations.request_origin import no_step_left_open, origin_of
from ensue.integrations.tokens import TOKENS, Tokens
from ensue.origin import AlreadyAnswered, Origin, coming_from, current_origin


class StepRoute(APIRoute):
    """Gives the steps of a request their origin, and keeps the answer with the step when the client sent a key.

    An earlier answer is given when all dependencies of the route have passed, authentication among them, and only to
    the principal who was given it first. The route's own function does not run then.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # FastAPI calls the endpoint once all dependencies and parameters are good, and has no other hook there.
        super().__init__(path, _admitted(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_origin(request: Request) -> Response:
            # What this function does happens before FastAPI ends the function-scope dependencies, so before the
            # step commits: the stored answer is part of its transaction.
            if "idempotency-key" in request.headers:  # then the whole body is read, whatever the route reads of it
                request = bounded(request)
            given = await origin_of(request)
            given.task = asyncio.current_task()
            request.scope[problems.CORRELATION_ID] = given.correlation_id
            tokens: Tokens | None = request.scope.get(TOKENS)
            response: Response | None = None

            async def at_the_end(kind: type[BaseException] | None, *_: object) -> None:
                if kind is None:
                    no_step_left_open(request, given)
                    if tokens is not None and response is not None:
                        await tokens.tell(given, response.headers)

            # It runs when the last dependency of scope "function" has ended, right before the answer is sent.
            request.scope["fastapi_function_astack"].push_async_exit(at_the_end)
            if tokens is not None:
                await tokens.wait(request, given)
            with coming_from(given):
                try:
                    response = await handle(request)
                except AlreadyAnswered as answered:
                    response = again(answered.response, tokens)
                else:
                    await keep(request, given, response, tokens)
            # A task that the request began inherits its origin; the key belongs to the request alone.
            given.idempotency_key = given.fingerprint = ""
            response.headers["X-Correlation-Id"] = given.correlation_id
            return response

        return handle_with_origin


def _admitted(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint (of any kind: FastAPI looks through the wrapper), for requests that were not answered before."""

    @functools.wraps(endpoint)
    def admitted(*args: Any, **kwargs: Any) -> Any:
        given = current_origin()
        if given is None:
            return endpoint(*args, **kwargs)
        given.admit()
        returned = endpoint(*args, **kwargs)
        if inspect.isawaitable(returned):
            return _flushed(returned, given)
        if given.steps and not (inspect.isgenerator(returned) or inspect.isasyncgen(returned)):
            from_thread.run(given.flush)  # a plain function, which FastAPI runs in a thread
        return returned

    return admitted


async def _flushed(returned: Awaitable[Any], given: Origin) -> Any:
    """What a route returns, when the database has been told: a row that is part of it then has the id that it got."""
    result = await returned
    await given.flush()
    return result
