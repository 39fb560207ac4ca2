"""How long a killed process's partitions stand still: one of two is killed again and again, under a steady trickle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec

from benchmarks import workload
from benchmarks.ensue_side import SOURCE
from benchmarks.scale_child import PARTITIONS, Child, end, opened, start, tell
from benchmarks.workload import IN, TransferMade
from ensue.adapters import make_broker
from ensue.chain import partition_of
from ensue.codec import encode_envelope
from ensue.engine.leases import Held
from ensue.event import event_type
from ensue.message import Envelope, OutboxRecord
from ensue.ports import Broker
from ensue.seal import sealed

#: Between two events of a partition.
PAUSE_S = 0.05
_ENOUGH_S = 60
_LEASES = "SELECT state FROM ensue_lease"
_OFFSETS = "SELECT id, log_offset FROM ensue_checkpoint WHERE id LIKE 'transfers/%'"


async def take_over(database: str, broker_url: str, where: str, kills: int) -> list[float]:
    """Return, for each kill, the seconds until the last partition of the killed process has moved on."""
    import asyncpg

    random = Random(1)
    connection = await asyncpg.connect(database)
    running: list[Child] = []
    try:
        async with _trickle(broker_url) as broker:
            running += [start(database, broker_url, where) for _ in range(2)]
            for each in running:
                await asyncio.to_thread(opened, each)
                tell(each)
            times: list[float] = []
            for _ in range(kills):
                async with asyncio.timeout(_ENOUGH_S):
                    await _shared(connection, running)
                    await asyncio.sleep(random.uniform(0, 1))  # anywhere between two heartbeats
                    victim = running.pop(random.randrange(2))
                    times.append(await _kill(connection, broker, victim))
                    running.append(start(database, broker_url, where))
                    await asyncio.to_thread(opened, running[-1])
                    tell(running[-1])
            return times
    finally:
        for each in running:
            end(each)
        await connection.close()


async def _shared(connection: Any, running: list[Child]) -> None:
    """Wait until both processes have half of the partitions."""
    while True:
        held = Counter((await _holders(connection)).values())
        if held == {str(each.pid): PARTITIONS // 2 for each in running}:
            return
        await asyncio.sleep(0.02)


async def _holders(connection: Any) -> dict[int, str]:
    """The process id of whoever holds a partition, by its number."""
    return {
        _number(name): owner.split(":")[-2]
        for (state,) in await connection.fetch(_LEASES)
        for name, (owner, _) in msgspec.json.decode(state, type=Held).leases.items()
        if name.startswith("transfers/")
    }


def _number(place: str) -> int:
    return int(place.rpartition("/")[2])


async def _kill(connection: Any, broker: Broker, victim: Child) -> float:
    partitions = [number for number, pid in (await _holders(connection)).items() if pid == str(victim.pid)]
    end(victim, kill=True)
    began = time.perf_counter()
    # What is beyond these ends was appended after the kill.
    ends = {each: (await broker.bounds(IN, each)).last for each in partitions}
    while True:
        offsets = {_number(place): int(offset) for place, offset in await connection.fetch(_OFFSETS)}
        if all(offsets.get(each, -1) > ends[each] for each in partitions):
            return time.perf_counter() - began
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _trickle(url: str) -> AsyncIterator[Broker]:
    """Appends an event to each partition again and again, as the relay of a source does, until its block ends."""
    broker = make_broker(url)
    await broker.open()
    try:
        await broker.ensure_topic(IN, PARTITIONS)
        feeding = asyncio.create_task(_feed(broker))
        try:
            yield broker
        finally:
            feeding.cancel()
            await asyncio.wait((feeding,))
            if not feeding.cancelled():
                feeding.result()  # it ended before its time: say why
    finally:
        await broker.close()


async def _feed(broker: Broker) -> None:
    spec = event_type(TransferMade)
    sample = {partition_of(spec.key_of(each), PARTITIONS): each for each in workload.transfers(1000)}
    heads: dict[int, int] = dict.fromkeys(sample, 0)
    position = 0
    while True:
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for partition, event in sample.items():
            position += 1
            envelope = encode_envelope(Envelope(f"0123456789abcdef-{position:x}", spec.type, "2011-12-09T12:50:00Z"))
            record = OutboxRecord(
                IN, partition, spec.key_of(event), envelope, spec.write(event), position, heads[partition]
            )
            heads[partition] = position
            batches[(IN, partition)] = [sealed(IN, partition, SOURCE, record)]
        await broker.append_many(SOURCE, batches)
        await asyncio.sleep(PAUSE_S)
