"""Retention: old records leave outbox and log, a chunk at a time, without stopping anything.

Only what the relay has sent leaves the outbox, and the last record of it stays: by it the relay knows the store again
(see `restored`). What a slow subscriber still needs leaves with it, if it is slower than
the retention: it then stands in the LOST state and says so. Up to when records were taken away is kept, since only by
that a subscriber can tell what it was owed: the setting may have been another one then.
"""

from __future__ import annotations

from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.message import CONTROL_TOPIC
from ensue.texts import logger

_CHUNK = 1000
#: So much may a clock differ from ours between two looks before it counts as put forward or back.
_DRIFT_S = 5.0


async def prune_once(context: Context, now: float | None = None) -> int:
    """Prune everything older than config.retention_s; return how many rows went. Raises RetryableError.

    now: by the database's clock, whose times the rows bear; it is asked when this is None.
    """
    store, books, broker = context.store, context.books, context.broker
    before = (await store.now() if now is None else now) - context.config.retention_s
    await books.note_pruning(before)
    through = await books.relay_position() - 1
    pruned = 0
    while count := await store.outbox_prune(before, through, _CHUNK):
        pruned += await _chunk(context, count)
    topics = await broker.topics()
    definition = context.dispatcher.definition
    mine = {topic for topic, _ in await store.outbox_heads()} | {CONTROL_TOPIC} | definition.prunes
    for topic in sorted((mine & set(topics)) - definition.stream_topics):
        for number in range(topics[topic]):
            while count := await broker.prune(topic, number, before, _CHUNK):
                pruned += await _chunk(context, count)
    while count := await books.prune_claims(before, _CHUNK):
        pruned += await _chunk(context, count)
    while count := await books.prune_answers(before, _CHUNK):
        pruned += await _chunk(context, count)
    while count := await books.prune_replies(before, _CHUNK):
        pruned += await _chunk(context, count)
    while count := await books.prune_sagas(before, _CHUNK):
        pruned += await _chunk(context, count)
    return pruned


async def _chunk(context: Context, count: int) -> int:
    context.faults.point("retention.pruned")
    await context.clock.sleep(0.001 * min(count, 10))  # let steps in between two chunks
    return count


class Retention(Loop):
    log = logger("ensue.retention")

    def __init__(self, context: Context) -> None:
        super().__init__(f"retention of {context.service}", context)
        self._looked: tuple[float, float] | None = None  # the database's clock, and ours that never jumps
        self._jumped_s = 0.0  # by so much the database's clock was put forward since the first look

    async def _turn(self) -> None:
        context = self._context
        if self._looked is None:
            self._looked = await context.store.now(), context.clock.monotonic()
        await self._pause(context.config.retention_interval_s)
        if not self._stop.asked:
            await prune_once(context, await self._passed())

    async def _passed(self) -> float:
        """The database's clock without what it was put forward: that makes nothing old. Put back, it counts again."""
        clock = self._context.clock
        assert self._looked is not None
        then, at = self._looked
        self._looked = theirs, ours = await self._context.store.now(), clock.monotonic()
        jump_s = (theirs - then) - (ours - at)
        if abs(jump_s) > _DRIFT_S:
            self._jumped_s = max(self._jumped_s + jump_s, 0.0)
        if jump_s > _DRIFT_S:
            self.log.warning(
                "%s: the database's clock went %.0f s forward in %.0f s: that time is not counted as the records' age",
                self.name, theirs - then, ours - at,
            )  # fmt: skip
        return theirs - self._jumped_s
