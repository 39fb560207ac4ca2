"""A relay that meets nothing but errors leaves its lease to another process, which may have a way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.unit.engine.workbench import config, store_of

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.loops import RELAY
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable
from ensue.ports import Entry

ENGINE = config(lease_ttl_s=0.1)


class Rang(Event, topic="calls", key="number"):
    number: int


class CutOff(MemoryBroker):
    """Nothing that is appended arrives, as behind a firewall that the other process is not behind."""

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        raise BrokerUnavailable("no way to the broker from here")


def runtime(directory: Path, broker: MemoryBroker) -> Runtime:
    settings = Settings(database="", broker="", partitions=1, engine=ENGINE)
    return Runtime(Service("phone", publishes=[Rang]), store_of(directory, "phone"), broker, settings)


@pytest.mark.parametrize("others", [0, 1])
async def test_a_relay_without_a_way_is_left_to_a_process_that_has_one(tmp_path: Path, others: int) -> None:
    log = "memory:calls"
    async with AsyncExitStack() as stack:
        whole = MemoryBroker(log)
        await whole.open()
        stack.push_async_callback(whole.close)
        first = runtime(tmp_path, CutOff(log))
        await first.start()
        stack.push_async_callback(first.stop)
        await first.ready()
        assert first.worker is not None
        assert RELAY in first.worker.loops.names
        if others:
            second = runtime(tmp_path, MemoryBroker(log))
            await second.start()
            stack.push_async_callback(second.stop)
        async with first.step() as step:
            step.publish(Rang(number=1))
        if others:
            async with asyncio.timeout(10):
                while not (await whole.bounds("calls", 0)).last:  # noqa: ASYNC110  # leases change untold
                    await asyncio.sleep(0.01)
            assert RELAY not in first.worker.loops.names
        else:  # alone, it keeps trying
            async with asyncio.timeout(10):
                while not first.worker._relays_nothing():  # noqa: ASYNC110  # it fails untold
                    await asyncio.sleep(0.01)
            await first.worker._beat()
            table = await first.context.books.leases()
            assert table.told[first.worker.name].relay == ("no way to the broker from here",)
            [lease] = table.leases
            assert (lease.name, lease.owner) == (RELAY, first.worker.name)
