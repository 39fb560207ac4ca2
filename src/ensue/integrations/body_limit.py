"""A limit on request bodies: an ASGI middleware that answers 413 and never holds more than the limit in memory.

What the client still sends is read and thrown away before the answer (up to a bound): a server that closes the
connection on unread bytes resets it, and the client sees a broken pipe instead of the answer.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensue.integrations import problems

DRAIN_BYTES_MAX = 32_000_000
BODY_BYTES_MAX = 1_000_000
#: In a request's scope: its body is counted while it is read.
_COUNTED = "ensue.body_counted"


class BodyLimit:
    """Bodies longer than `body_bytes_max` are answered with a 413 problem document.

    A Content-Length over the limit never reaches the app; a body without one (chunked) is counted while it is read.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int) -> None:
        self.app = app
        self.body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > self.body_bytes_max:
            # A client that waits for "100 Continue" has sent nothing yet: reading would ask it to begin.
            waits = headers.get("expect", "").lower() == "100-continue"
            drained = not waits and len(length) < 20 and int(length) <= DRAIN_BYTES_MAX and await _drain(receive)
            problem = _too_large(self.body_bytes_max, drained)
            answer = problems.response(
                Request(scope), 413, problem.title, problem.detail, type=problem.type, headers=problem.headers
            )
            await answer(scope, receive, send)
            return

        scope[_COUNTED] = True
        await self.app(scope, _counted(receive, self.body_bytes_max), send)


def bounded(request: Request) -> Request:
    """The request, with the usual limit for its body where no `BodyLimit` stands before it: an app without `install`.

    Reading more raises Problem 413.
    """
    if _COUNTED in request.scope:
        return request
    return Request(request.scope, _counted(request.receive, BODY_BYTES_MAX))


def _counted(receive: Receive, body_bytes_max: int) -> Receive:
    read = 0

    async def receive_counted() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > body_bytes_max:
                raise _too_large(body_bytes_max, not message.get("more_body", False) or await _drain(receive))
        return message

    return receive_counted


def _too_large(body_bytes_max: int, drained: bool) -> problems.Problem:
    return problems.Problem(
        413,
        "Body too large",
        f"The body is longer than {body_bytes_max} bytes, the most that is accepted here",
        type=problems.BODY_TOO_LARGE,
        headers=None if drained else {"Connection": "close"},
    )


async def _drain(receive: Receive) -> bool:
    """Read the rest of the body and drop it; return False when there is more than we care to read."""
    read = 0
    while read <= DRAIN_BYTES_MAX:
        message = await receive()
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return True
    return False
