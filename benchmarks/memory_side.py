"""The Ensue side without a database: the real consumer, and if wanted the relay, over store and broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from benchmarks.ensue_side import append_events
from benchmarks.rounds import Sample, Stopwatch
from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.consumer import PartitionConsumer
from ensue.engine.lane import Lane
from ensue.engine.relay import Relay
from ensue.engine.runtime import Runtime
from ensue.message import Partition
from ensue.stores.memory import MemoryStore


async def drain_memory(service: Service, events: Sequence[Event], *, relays: bool, published: int) -> Sample:
    """Time from the start of the loops until all events are handled, and with `relays` what follows is in the log.

    published: how many events the handlers publish in all.
    """
    count = len(events)
    finished = asyncio.Event()

    def progress() -> None:
        if consumer.offset >= count and (not relays or relay.position >= published):
            finished.set()

    settings = Settings(database="memory:", broker="memory:", partitions=1)
    runtime = Runtime(service, MemoryStore(service.name), MemoryBroker("memory:"), settings, progress=progress)
    [topic] = service.subscribed_topics
    lane = Lane(runtime.context, Random(1))
    consumer = PartitionConsumer(Partition(service.name, topic, 0), runtime.context, lane, Random(1))
    relay = Relay(runtime.context)
    await runtime.start(work=False)
    try:
        await append_events(runtime.broker, events, partitions=1)
        loops: list[PartitionConsumer | Relay] = [consumer, relay] if relays else [consumer]
        watch = Stopwatch()
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        async with asyncio.timeout(600):
            await finished.wait()
        sample = watch.stop(count)
        for loop in loops:
            loop.stop()
        await asyncio.gather(*tasks)
        heads = await runtime.store.outbox_heads()
        assert max(heads.values(), default=0) == published
    finally:
        await runtime.stop()
    return sample
