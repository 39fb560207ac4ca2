"""One request and its answer in an app of Starlette: the origin of its steps, tokens, and what the answer says of them.

It stands right around the router, inside of what turns errors into answers, and in the task that runs the route.
"""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensue.integrations import problems
from ensue.integrations.answer_start import with_plain_headers
from ensue.integrations.request_origin import no_step_left_open, origin_of
from ensue.integrations.tokens import TOKENS, Tokens
from ensue.origin import coming_from, current_origin

_CORRELATION_ID = "X-Correlation-Id"
#: In a request's scope: the tokens of the app that has waited.
_WAITED = "ensue.tokens_waited"


def exchange_around(app: Starlette) -> None:
    """Every request of the app, and of those that are mounted in it, goes through an `Exchange`."""
    app.router.middleware_stack = Exchange(app.router.middleware_stack)


class Exchange:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        given = await origin_of(request)
        given.task = asyncio.current_task()
        if problems.CORRELATION_ID in scope and (outer := current_origin()) is not None:
            # Of an app that is mounted in another one: who asks, and which tokens there are, is what this one says.
            given.correlation_id, given.committed = outer.correlation_id, outer.committed
        scope[problems.CORRELATION_ID] = given.correlation_id
        tokens: Tokens | None = scope.get(TOKENS)
        if tokens is not None and scope.get(_WAITED) is not tokens:  # else the outer app has waited
            scope[_WAITED] = tokens
            await tokens.wait(request, given)

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                no_step_left_open(request, given)
                message = with_plain_headers(message)
                headers = MutableHeaders(scope=message)
                headers.setdefault(_CORRELATION_ID, given.correlation_id)
                if tokens is not None:
                    await tokens.tell(given, headers)
                # What the request began in the background inherits its origin; the key belongs to the request alone.
                given.idempotency_key = given.fingerprint = ""
            await send(message)

        with coming_from(given):
            await self.app(scope, await _again(request, receive) if given.fingerprint else receive, answering)


async def _again(request: Request, receive: Receive) -> Receive:
    """The body, which was read for the fingerprint, once more for the route; then what follows it."""
    body: bytes | None = await request.body()

    async def receive_again() -> Message:
        nonlocal body
        if body is None:
            return await receive()
        message = {"type": "http.request", "body": body, "more_body": False}
        body = None
        return message

    return receive_again
