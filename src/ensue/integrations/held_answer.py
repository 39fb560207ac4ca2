"""A step around a part of any ASGI application: its answer is held until the step has committed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensue.app import Service
from ensue.errors import UsageError
from ensue.integrations.answer_start import with_plain_headers
from ensue.integrations.handlers import answer_to
from ensue.integrations.kept_answers import again, keep
from ensue.integrations.request_identity import CHANGING
from ensue.integrations.tokens import TOKENS
from ensue.origin import AlreadyAnswered, Origin, current_origin
from ensue.step import Step

#: Where the request's step is, in its scope.
_STEP = "ensue.step"
#: Ways of answering that would pass by what holds the answer.
_PASS_BY = frozenset({"http.response.pathsend", "http.response.trailers", "http.response.zerocopysend"})
#: So much of an answer is held in memory.
HELD_BYTES_MAX = 16_000_000
_NOT_SENT = "the answer was not sent, since its step has not committed"


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    step: Step
    given: Origin


class InStep:
    """An ASGI middleware: requests that may change something run in a step of a service, see `in_step`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in CHANGING:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        where, name = f"{scope['method']} {scope['path']}", self._service.signs_as
        if isinstance(outer := scope.get(_STEP), _Opened):
            raise UsageError(
                f"{where}: in_step({name}) within a step of {outer.step.outgoing.service}: a request has one step, "
                "since two services commit one after the other. Publish an event, and let the other service handle it"
            )
        given = current_origin()
        if given is None:
            raise UsageError(
                f"{where}: in_step({name}) in an app around which nothing is installed: serve "
                f"install_around(app, {name}), of ensue.integrations.asgi, in place of the app"
            )
        given.task = asyncio.current_task()
        held = _Held(request, given, send, where)
        try:
            step = await held.stack.enter_async_context(self._service.step())
            scope[_STEP] = _Opened(step, given)
            scope["extensions"] = {
                name: each for name, each in (scope.get("extensions") or {}).items() if name not in _PASS_BY
            }
            await held.run(self.app, scope, receive)
        except Exception as error:
            if isinstance(error, AlreadyAnswered):
                answer: Response | None = again(error.response, scope.get(TOKENS))
            else:
                answer = answer_to(request, error)
            if held.sent or answer is None:
                raise
            await answer(scope, receive, send)
        finally:
            scope.pop(_STEP, None)  # what runs in the background has none
            given.refused = given.settled = False
            given.earlier = None


class _Held:
    """One answer. stack: has the open step. sent: it is on its way."""

    def __init__(self, request: Request, given: Origin, send: Send, where: str) -> None:
        self.stack = AsyncExitStack()
        self.sent = False
        self._request, self._given, self._send, self._where = request, given, send, where
        self._messages: list[Message] = []
        self._bytes = 0
        self._over = False
        self._gone = False
        self._failed: BaseException | None = None
        self._refused: UsageError | None = None

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Raises what the app does, unless it has answered, and what became of the step."""
        try:
            await app(scope, self._heard(receive), self._hold)
        except BaseException as error:
            if self._failed is not None and isinstance(error, Exception):
                raise self._failed from None  # the app was told by an error that nobody hears it
            if self._over:
                raise  # after its answer: in the background
            if not isinstance(error, Exception) or self._given.earlier is None or self._given.guarded:
                self._over = True
                async with self.stack:
                    raise
            # It has asked for the step, which left it by `earlier`: whatever it has made of that (a group of errors,
            # one of its own), the client has its answer there.
        if self._nobody_waits():
            self._over = self._given.refused = True
            await self.stack.aclose()
        if not self._over:
            # Its last part came from another task than that which has the step, or it never came.
            await self._finish()
        if self._failed is not None:
            raise self._failed

    def _heard(self, receive: Receive) -> Receive:
        """Note that the client has gone."""

        async def receiving() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] == "http.disconnect"
            return message

        return receiving

    def _nobody_waits(self) -> bool:
        """The app has ended without an answer, as it may when it was told that the client has gone."""
        ended_well = not self._over and self._refused is None and self._given.earlier is None
        return self._gone and ended_well and not self._complete()

    async def _hold(self, message: Message) -> None:
        if self._failed is not None:
            raise OSError(_NOT_SENT)  # an app that answers its own error gets nothing out before `run` says what it was
        if self._over:
            await self._send(message)
            return
        self._check(message)
        if message["type"] == "http.response.start":
            message = with_plain_headers(message)
        self._messages.append(message)
        self._bytes += len(message.get("body", b""))
        if _last(message) and asyncio.current_task() is self._given.task:
            await self._finish()
            if self._failed is not None:
                raise OSError(_NOT_SENT)  # as if nobody were there

    def _check(self, message: Message) -> None:
        """Raise UsageError for what cannot be part of the answer. It is remembered, and raised again for whatever comes
        then: an app that catches it has not answered, so that its step is rolled back."""
        if self._refused is None:
            started = any(each["type"] == "http.response.start" for each in self._messages)
            wrong = ""
            if message["type"] == "http.response.start" and started:
                wrong = (
                    "starts a second time, and what the first one said is not to be committed: an app that fails once "
                    "its answer has begun has to raise the error"
                )
            elif message["type"] == "http.response.body" and not started:
                wrong = "has a body before its http.response.start"
            elif message["type"] == "http.response.body" and self._complete():
                wrong = "goes on after the part of its body that said it was the last one"
            elif self._bytes + len(message.get("body", b"")) > HELD_BYTES_MAX:
                wrong = (
                    f"is longer than {HELD_BYTES_MAX} bytes, the most that is held until a step has committed: answer "
                    "without a step, or with less"
                )
            if wrong:
                self._refused = UsageError(f"{self._where}: its answer {wrong}")
        if self._refused is not None:
            raise self._refused

    def _complete(self) -> bool:
        return any(_last(each) for each in self._messages)

    async def _finish(self) -> None:
        """Commit or roll back, then send. Of what fails before it is sent, `run` tells."""
        self._over = True
        try:
            await self._settle()
        except BaseException as error:
            self._failed = error
            if not isinstance(error, Exception):
                raise
            return
        self.sent = True
        for message in self._messages:
            await self._send(message)

    async def _settle(self) -> None:
        given = self._given
        async with self.stack:
            if given.earlier is None or given.guarded:
                # Guarded: nobody has asked for the step, since whoever lets clients in has refused, or needed none.
                response = self._response()
                if response.status_code >= 400:
                    given.refused = True
                elif given.guarded:
                    given.settled = True
                else:
                    await keep(self._request, given, response, self._request.scope.get(TOKENS))
        if given.earlier is not None and not given.guarded:
            raise given.earlier  # its step is undone

    def _response(self) -> Response:
        """The answer in one piece."""
        if self._refused is not None:
            raise self._refused
        if not self._complete():
            raise UsageError(f"{self._where}: the app ended without an answer; nothing is committed")
        start = next(each for each in self._messages if each["type"] == "http.response.start")
        body = b"".join(each.get("body", b"") for each in self._messages if each["type"] == "http.response.body")
        response = Response(body, start["status"])
        response.raw_headers = list(start.get("headers", ()))
        return response


def _last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def step_in(scope: Mapping[str, object]) -> Step:
    """The open step of a request, by its ASGI scope. Ask for it where the client has been let in, since an answer that
    was given before is given from here: the error that is raised then is for `in_step`, whatever the framework makes
    of it.

    Raises UsageError where the request is in no step.
    """
    opened = scope.get(_STEP)
    if not isinstance(opened, _Opened):
        where = f"{scope.get('method', scope['type'])} {scope.get('path', '')}".rstrip()  # a lifespan has neither
        raise UsageError(
            f"{where} is in no step: in_step(service), of ensue.integrations.asgi, is a middleware around the route or "
            f"the app, for {', '.join(sorted(CHANGING))}; other requests take service.query() or .rows()"
        )
    opened.given.admit()
    return opened.step
