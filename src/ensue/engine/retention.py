"""Retention: old records leave outbox and log, a chunk at a time, without stopping anything.

Only what the relay has sent leaves the outbox, and the last record of it stays: by it the relay knows the store again
(see `restored`). What a slow subscriber still needs leaves with it, if it is slower than
the retention: it then stands in the LOST state and says so.
"""

from __future__ import annotations

from ensue.engine.context import Context
from ensue.message import CONTROL_TOPIC

_CHUNK = 1000


async def prune_once(context: Context) -> int:
    """Prune everything older than config.retention_s; return how many rows went. Raises RetryableError."""
    store, broker = context.store, context.broker
    before = context.clock.now() - context.config.retention_s
    through = await store.relay_load() - 1
    pruned = 0
    while count := await store.outbox_prune(before, through, _CHUNK):
        pruned += await _chunk(context, count)
    topics = await broker.topics()
    mine = {topic for topic, _ in await store.outbox_heads()} | {CONTROL_TOPIC}
    for topic in sorted(mine & set(topics)):
        for number in range(topics[topic]):
            while count := await broker.prune(topic, number, before, _CHUNK):
                pruned += await _chunk(context, count)
    while count := await store.inbox_prune(before, _CHUNK):
        pruned += await _chunk(context, count)
    while count := await store.responses_prune(before, _CHUNK):
        pruned += await _chunk(context, count)
    return pruned


async def _chunk(context: Context, count: int) -> int:
    context.faults.point("retention.pruned")
    await context.clock.sleep(0.001 * min(count, 10))  # let steps in between two chunks
    return count


async def prune_forever(context: Context) -> None:
    while True:
        await context.clock.sleep(context.config.retention_interval_s)
        await prune_once(context)
