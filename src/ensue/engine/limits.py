"""How long a handler may take. What awaits something is cancelled after that, and has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import CoroutineType
from typing import Any

from ensue.engine.endings import ends_handler
from ensue.errors import HandlerTimeout
from ensue.handler import Handler
from ensue.handling import finished


class HandlerLimit:
    """seconds: for one call of one handler; 0: any time."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def finished(self, handler: Handler, result: Any) -> Any:
        """As `handling.finished`; raises HandlerTimeout when it takes too long, whatever the handler makes of that."""
        if not self.seconds:
            return await finished(handler.where, result)
        if type(result) is CoroutineType:
            # Most handlers wait for nothing that is not there, and a timer for each of them would cost more than they.
            try:
                result = _Begun(result, result.send(None))
            except StopIteration as done:
                result = done.value
                if result is None:
                    return None
        limit = asyncio.timeout(self.seconds)
        try:
            async with limit:
                return await finished(handler.where, result)
        except BaseException as error:
            if not limit.expired() or ends_handler(error):
                raise
            raise HandlerTimeout(
                f"{handler.where} did not return within {self.seconds:g} s and was cancelled. Give what it waits for a "
                "limit of its own, or raise handler_limit_s",
                handler=handler.name,
                limit_s=self.seconds,
            ) from error


class _Begun:
    """A coroutine that has run until it waited for something for the first time: await this to have the rest of it.

    waits_for: what it gave to the event loop. Otherwise this is `yield from`, as PEP 380 defines it.
    """

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                yield waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                try:
                    waits_for = coroutine.throw(error)
                except StopIteration as done:
                    return done.value
            else:
                return (yield from coroutine.__await__())
