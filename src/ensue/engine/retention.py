"""Retention: old records leave outbox and log, a chunk at a time, without stopping anything.

Only what the relay has sent leaves the outbox, and the last record of it stays: by it the relay knows the store again
(see `restored`). What a slow subscriber still needs leaves with it, if it is slower than
the retention: it then stands in the LOST state and says so.
"""

from __future__ import annotations

import logging

from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.message import CONTROL_TOPIC

_CHUNK = 1000


async def prune_once(context: Context) -> int:
    """Prune everything older than config.retention_s; return how many rows went. Raises RetryableError."""
    store, books, broker = context.store, context.books, context.broker
    before = context.clock.now() - context.config.retention_s
    through = await books.relay_position() - 1
    pruned = 0
    while count := await store.outbox_prune(before, through, _CHUNK):
        pruned += await _chunk(context, count)
    topics = await broker.topics()
    mine = {topic for topic, _ in await store.outbox_heads()} | {CONTROL_TOPIC}
    for topic in sorted(mine & set(topics)):
        for number in range(topics[topic]):
            while count := await broker.prune(topic, number, before, _CHUNK):
                pruned += await _chunk(context, count)
    while count := await books.prune_claims(before, _CHUNK):
        pruned += await _chunk(context, count)
    while count := await books.prune_answers(before, _CHUNK):
        pruned += await _chunk(context, count)
    return pruned


async def _chunk(context: Context, count: int) -> int:
    context.faults.point("retention.pruned")
    await context.clock.sleep(0.001 * min(count, 10))  # let steps in between two chunks
    return count


class Retention(Loop):
    log = logging.getLogger("ensue.retention")

    def __init__(self, context: Context) -> None:
        super().__init__(f"retention of {context.service}", context)

    async def _turn(self) -> None:
        await self._pause(self._context.config.retention_interval_s)
        if not self._stop.asked:
            await prune_once(self._context)
