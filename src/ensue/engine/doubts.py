"""Whether a source's database went back, as a subscriber of it sees it: what makes it doubt, and whom it tells.

A source's last tick lies below what was applied of it: an old tick, or its database is an older copy. The subscriber
cannot know. It tells the source what it has applied, which the source can compare (`witness.py`); what is certain is
decided there, before anything more is sent. Another message at a position that was applied is certain here, too.
"""

from __future__ import annotations

import logging

from ensue.engine.ask import say_seen
from ensue.engine.context import Context
from ensue.message import Checkpoint, Partition
from ensue.plan import Plan

log = logging.getLogger("ensue.consumer")


class Doubts:
    """Those of one partition. others: id of the message that a source has where another one was applied."""

    def __init__(self, partition: Partition, context: Context) -> None:
        self.others: dict[str, str] = {}
        self._partition = partition
        self._context = context
        self._low: dict[str, int] = {}  # source -> the position of its last tick
        self._told: dict[str, tuple[float, float]] = {}  # source -> when it is told again (monotonic), pause after that
        self._asked: set[str] = set()
        self._greeted = False

    @property
    def sources(self) -> list[str]:
        """Who has been told, and has not shown since that it is well."""
        return sorted(self._told)

    def note(self, todo: Plan) -> None:
        """Take note of what was read."""
        self._asked |= todo.asked
        for source in todo.watermarks:
            self._low.pop(source, None)
        for source, position in todo.doubts.items():
            if position is None:
                self._low.pop(source, None)
            else:
                self._low[source] = position
        for source, found in todo.others.items():
            self.others[source] = found
            log.error(
                "%s: %s has message %s at the position up to which it was applied, where another one was: its database "
                "went back to an older copy. Nothing more of it is applied; it is told", self._partition, source, found
            )  # fmt: skip

    async def greet(self, checkpoint: Checkpoint) -> None:
        """At the start tell all sources what was applied of them: they may have gone back while nobody was here."""
        if not self._greeted:
            await say_seen(self._context, self._partition, checkpoint, checkpoint.watermarks.keys())
            self._greeted = True

    async def tell(self, checkpoint: Checkpoint, at_the_end: bool) -> None:
        """Tell those who ask; and those who are doubted when the log is read to its end, ever more seldom."""
        told = set(self._asked)
        if at_the_end:
            told |= self._due(checkpoint)
        if told:
            await say_seen(self._context, self._partition, checkpoint, told)
            self._asked.clear()

    def _due(self, checkpoint: Checkpoint) -> set[str]:
        due: set[str] = set()
        config, now = self._context.config, self._context.clock.monotonic()
        doubted = self._low.keys() | self.others.keys()
        for source in self._told.keys() - doubted:
            log.info("%s: %s is where it should be again", self._partition, source)
            del self._told[source]
        for source in doubted:
            when, pause_s = self._told.get(source, (now, config.resend_interval_s))
            if now < when:
                continue
            if source not in self._told and source not in self.others:
                log.error(
                    "%s: %s says that its last position is %d, and position %d of it was applied: its database went "
                    "back to an older copy, or this is an old word of it. It is told, and can find out",
                    self._partition, source, self._low[source], checkpoint.watermarks.get(source, 0),
                )  # fmt: skip
            self._told[source] = (now + pause_s, min(2 * pause_s, max(config.tick_max_s, pause_s)))
            due.add(source)
        return due
