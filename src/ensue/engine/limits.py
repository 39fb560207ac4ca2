"""How long a handler may take. What awaits something is cancelled after that, and has failed."""

from __future__ import annotations

import asyncio
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
