"""How long a handler may take. What awaits something is cancelled after that, and has failed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, cast

from ensue.engine.endings import ends_handler
from ensue.errors import HandlerTimeout
from ensue.handler import Handler
from ensue.handling import finished


class HandlerLimit:
    """seconds: for one call of one handler; 0: any time."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def finished(self, handler: Handler, result: Any, run: Callable[..., Any]) -> Any:
        """As `handling.finished`; raises HandlerTimeout when it takes too long, whatever the handler makes of that.

        run: calls in the context in which the handler was called, which is of its message alone.
        """
        if result is None:
            return None
        rest = self.rest(handler, result, run)
        return None if rest is None else await rest

    def rest(self, handler: Handler, result: Any, run: Callable[..., Any]) -> Coroutine[Any, Any, Any] | None:
        """Go on with what a handler has returned until it waits for something. Return what remains of `finished`;
        None: nothing does, and nothing is returned."""
        coroutine = result if type(result) is CoroutineType else _finished(handler, result)
        try:
            waits_for = run(coroutine.send, None)
        except StopIteration as done:
            # Most handlers wait for nothing that is not there, and a timer for each of them would cost more than they.
            return None if done.value is None else self._returned(handler, done.value, run)
        return self._limited(handler, _Begun(coroutine, waits_for, run))

    async def _returned(self, handler: Handler, value: Any, run: Callable[..., Any]) -> Any:
        if inspect.isawaitable(value):
            return await self.finished(handler, value, run)
        return await _finished(handler, value)

    async def _limited(self, handler: Handler, begun: _Begun) -> Any:
        if not self.seconds:
            return await _finished(handler, await begun)
        limit = asyncio.timeout(self.seconds)
        try:
            async with limit:
                value = await _finished(handler, await begun)
        except BaseException as error:
            if not limit.expired() or ends_handler(error):
                raise
            raise self._too_late(handler) from error
        if limit.expired():
            raise self._too_late(handler)  # it has caught the cancellation, and may have left out what it waited for
        return value

    def _too_late(self, handler: Handler) -> HandlerTimeout:
        return HandlerTimeout(
            f"{handler.where} did not return within {self.seconds:g} s and was cancelled. Give what it waits for a "
            "limit of its own, or raise handler_limit_s",
            handler=handler.name,
            limit_s=self.seconds,
        )


def _finished(handler: Handler, result: Any) -> Coroutine[Any, Any, Any]:
    return finished(handler.where, result, answers=handler.answers)


class _Begun:
    """A coroutine that has run until it waited for something for the first time: await this to have the rest of it.

    waits_for: what it gave to the event loop. run: calls in the coroutine's context. Otherwise this is `yield from`,
    as PEP 380 defines it.
    """

    __slots__ = ("_coroutine", "_run", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, run: Callable[..., Any]) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._run = run

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, run, waits_for = self._coroutine, self._run, self._waits_for
        while True:
            try:
                value = yield waits_for
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as error:
                resume, value = cast("Callable[[Any], Any]", coroutine.throw), error
            else:
                resume = coroutine.send
            try:
                waits_for = run(resume, value)
            except StopIteration as done:
                return done.value
