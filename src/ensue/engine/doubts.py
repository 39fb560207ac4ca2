"""Whether a source's database went back, as a subscriber of it sees it: what makes it doubt, and whom it tells.

A source's last tick lies below what was applied of it: an old tick, or its database is an older copy. The subscriber
cannot know. It tells the source what it has applied, which the source can compare (`witness.py`); what is certain is
decided there, before anything more is sent. Another message at a position that was applied is certain here, too.

Or somebody else has written a record in the name of the source, far ahead of it: then all that it writes is skipped as
a duplicate. A source that never falls silent does not tick; so what is skipped for longer than a tick may be late, with
nothing at the watermark meanwhile, counts as a low tick does. See docs/adr/0035.
"""

from __future__ import annotations

from collections.abc import Collection

from ensue.engine.ask import say_seen
from ensue.engine.context import Context
from ensue.errors import RetryableError, UsageError
from ensue.message import CONTROL_TOPIC, Checkpoint, Partition
from ensue.plan import Plan
from ensue.texts import logger

log = logger("ensue.consumer")


class Doubts:
    """Those of one partition. others: id of the message that a source has where another one was applied."""

    def __init__(self, partition: Partition, context: Context) -> None:
        self.others: dict[str, str] = {}
        self._partition = partition
        self._context = context
        self._low: dict[str, int] = {}  # source -> the position of its last tick
        self._behind: dict[str, float] = {}  # source -> since when (monotonic) all that is read of it is skipped
        self._told: dict[str, tuple[float, float]] = {}  # source -> when it is told again (monotonic), pause after that
        self._asked: set[str] = set()
        self._ended: set[str] = set()  # sources after which their service has begun another epoch
        self._greeted = False
        self._pause_s = 0.0  # before the next try to tell anybody anything, after one that failed
        self._next = 0.0

    @property
    def sources(self) -> list[str]:
        """Who has been told, and has not shown since that it is well."""
        return sorted(self._told)

    def note(self, todo: Plan) -> None:
        """Take note of what was read."""
        self._asked |= todo.asked
        for source in todo.watermarks:
            self._is_well(source)
            self._follows(source)
        for source, position in todo.doubts.items():
            if position is None:
                self._is_well(source)
            else:
                self._low[source] = position
        now, config = self._context.clock.monotonic(), self._context.config
        for source, position in todo.behind.items():
            if source in todo.watermarks or source in todo.doubts:
                continue
            if now - self._behind.setdefault(source, now) > config.tick_max_s + config.resend_interval_s:
                self._low[source] = position
        for source, found in todo.others.items():
            self.others[source] = found
            log.error(
                "%s: %s has message %s at the position up to which it was applied, where another one was: its database "
                "went back to an older copy. Nothing more of it is applied; it is told", self._partition, source, found
            )  # fmt: skip

    def _is_well(self, source: str) -> None:
        self._low.pop(source, None)
        self._behind.pop(source, None)

    def rewound(self, before: Checkpoint, after: Checkpoint) -> None:
        """The checkpoint was loaded anew: what was found at a watermark that an operator took back says nothing now."""
        for source in [each for each in self.others if each in after.watermarks]:
            if after.watermarks[source] < before.watermarks.get(source, 0):
                del self.others[source]

    def _follows(self, source: str) -> None:
        """Something new of `source` was read: an epoch of the same service before it says nothing any more."""
        for each in [each for each in self._low.keys() | self.others.keys() if _service(each) == _service(source)]:
            if each != source:
                self._ended.add(each)
                self._is_well(each)
                self._told.pop(each, None)
        self._ended.discard(source)

    async def greet(self, checkpoint: Checkpoint) -> None:
        """At the start tell all sources what was applied of them: they may have gone back while nobody was here."""
        if not self._greeted:
            self._greeted = await self._say(checkpoint, checkpoint.watermarks.keys())

    async def tell(self, checkpoint: Checkpoint, at_the_end: bool) -> None:
        """Tell those who ask; and those who are doubted when the log is read to its end, ever more seldom."""
        if self._context.clock.monotonic() < self._next:
            return
        await self.greet(checkpoint)
        told = set(self._asked)
        if at_the_end:
            told |= self._due(checkpoint)
        if told and await self._say(checkpoint, told):
            self._asked.clear()

    async def _say(self, checkpoint: Checkpoint, sources: Collection[str]) -> bool:
        """Say what was applied. Nothing that this subscriber does depends on whether it can."""
        config = self._context.config
        try:
            await say_seen(self._context, self._partition, checkpoint, sources)
        except (RetryableError, UsageError) as error:
            if not self._pause_s:
                log.warning(
                    "%s: cannot tell %s what was applied, which would show that a database went back: %s. Tried again "
                    "now and then; this process needs the right to append to topic %s",
                    self._partition, ", ".join(sorted(sources)), error, CONTROL_TOPIC,
                )  # fmt: skip
            self._pause_s = min(max(2 * self._pause_s, config.resend_interval_s), max(config.tick_max_s, 1.0))
            self._next = self._context.clock.monotonic() + self._pause_s
            return False
        self._pause_s = 0.0
        return True

    def _due(self, checkpoint: Checkpoint) -> set[str]:
        due: set[str] = set()
        config, now = self._context.config, self._context.clock.monotonic()
        doubted = (self._low.keys() | self.others.keys()) - self._ended
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
                    "back to an older copy, or somebody else has written as %s, and all that it writes now is skipped; "
                    "or this is an old word of it. It is told, and says in its log what it finds. If it did not write "
                    "position %d: ensue gaps rewind MODULE:%s --topic %s --partition %d --source %s",
                    self._partition, source, self._low[source], checkpoint.watermarks.get(source, 0), source,
                    checkpoint.watermarks.get(source, 0), *self._partition, source,
                )  # fmt: skip
            self._told[source] = (now + pause_s, min(2 * pause_s, max(config.tick_max_s, pause_s)))
            due.add(source)
        return due


def _service(source: str) -> str:
    return source.rpartition("/")[0]
