"""The loop that everything a worker does is: begin, turn after turn, end; with growing pauses while it cannot go on."""

from __future__ import annotations

import logging
from typing import ClassVar

from ensue.engine.context import Context
from ensue.engine.endings import ends_loop
from ensue.engine.stop import Stop
from ensue.errors import RetryableError, StoreRestored

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 5.0
#: After what nobody expected: more seldom, or the log fills with it.
_PAUSE_UNEXPECTED_MAX_S = 30.0


class Loop:
    """A subclass says what a turn is. `run` ends with `stop`, or with StoreRestored (an operator must act).

    troubled_since: when its first error came since it last got further, by the monotonic clock; None: it is well.
    trouble: the last one since then, in words, and failure: what it was.
    """

    log: ClassVar[logging.Logger]
    at_once: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors that say that others were quicker: no pause is needed, unless they come one after the other."""

    def __init__(self, name: str, context: Context) -> None:
        self.name = name
        self._context = context
        self._stop = Stop()
        self.troubled_since: float | None = None
        self.failure: type[BaseException] | None = None
        self.trouble = ""
        self._next_pause_s = _PAUSE_FIRST_S

    async def run(self) -> None:
        """Go on until `stop`. Errors of database and broker are waited out."""
        try:
            while not self._stop.asked:
                try:
                    await self._begin()
                    self._context.progress()  # where it stands is known only now, and that may be all there is to do
                    while not self._stop.asked:
                        await self._turn()
                        self._advanced()
                except self.at_once as error:
                    self.log.info("%s: %s; beginning anew", self.name, error)
                    again_s = self._again_s(_PAUSE_MAX_S)
                    if again_s > _PAUSE_FIRST_S:
                        await self._pause(again_s)
                except StoreRestored:
                    raise
                except RetryableError as error:
                    self._troubled(error)
                    again_s = self._again_s(_PAUSE_MAX_S)
                    self.log.warning("%s: %s; again in %.2f s", self.name, error, again_s)
                    await self._pause(again_s)
                except BaseException as error:
                    if ends_loop(error):
                        raise
                    self._troubled(error)
                    # A defect of ours or of an adapter: stay visible and alive, since the other loops may be well.
                    again_s = self._again_s(_PAUSE_UNEXPECTED_MAX_S)
                    self.log.exception("%s: unexpected; again in %.2f s", self.name, again_s)
                    await self._pause(again_s)
        finally:
            await self._let_go()
        await self._end()

    def _advanced(self) -> None:
        """A turn has ended, or something in it is done for good: the loop is well, and the pauses begin anew. On a
        database that fails now and then long turns would have the longest pause, although each gets further."""
        self._next_pause_s = _PAUSE_FIRST_S
        self.troubled_since, self.failure, self.trouble = None, None, ""

    def _again_s(self, max_s: float) -> float:
        """How long to pause now; the next time it is twice as long."""
        again_s, self._next_pause_s = self._next_pause_s, min(self._next_pause_s * 2, max_s)
        return again_s

    def _troubled(self, error: BaseException) -> None:
        self.failure, self.trouble = type(error), str(error) or type(error).__name__
        if self.troubled_since is None:
            self.troubled_since = self._context.clock.monotonic()

    def stop(self) -> None:
        """Finish the turn at hand and return from `run`; safe to repeat."""
        self._stop.ask()

    async def _pause(self, seconds: float) -> None:
        await self._stop.cuts(self._context.clock.sleep(seconds))

    async def _begin(self) -> None:
        """At the start, and anew after each error."""

    async def _turn(self) -> None:
        raise NotImplementedError  # each loop has its own

    async def _let_go(self) -> None:
        """Release what is held, however the loop ends."""

    async def _end(self) -> None:
        """After a stop: keep what would else be done again."""
