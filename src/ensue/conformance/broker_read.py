"""Reading: after, limit, and waiting for what is not there yet."""

from __future__ import annotations

import asyncio

import pytest

from ensue.conformance.broker_suite import SOURCE, TOPIC, BrokerSuite, entries, positions
from ensue.errors import BrokerUnavailable


class Reading(BrokerSuite):
    async def test_a_read_begins_after_the_given_offset(self) -> None:
        async with self.opened() as broker:
            last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
            everything = await self.everything(broker)
            for index, record in enumerate(everything):
                rest = await self.read_through(broker, last, after=record.offset)
                assert [each.offset for each in rest] == [each.offset for each in everything[index + 1 :]]
            assert list(await broker.read(TOPIC, 0, last, 10, 0.0)) == []

    async def test_reads_of_any_limit_leave_nothing_out(self) -> None:
        async with self.opened() as broker:
            last = await broker.append(TOPIC, 0, SOURCE, entries(1, 50))
            for limit in (1, 2, 7, 49, 50, 51):
                found = await self.read_through(broker, last, limit=limit)
                assert positions(found) == list(range(1, 51)), f"read with limit {limit}"

    async def test_reading_takes_nothing_away(self) -> None:
        async with self.opened() as broker:
            await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
            first, second = await self.everything(broker), await self.everything(broker)
            assert positions(first) == positions(second) == [1, 2, 3, 4, 5]

    async def test_a_read_returns_what_is_there_and_does_not_wait_for_a_full_batch(self) -> None:
        async with self.opened() as broker:
            await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
            async with asyncio.timeout(self.patience_s):
                batch = await broker.read(TOPIC, 0, 0, 500, 10 * self.patience_s)
            assert positions(batch) == [1, 2, 3][: len(batch)]
            assert batch

    async def test_a_read_of_an_empty_partition_ends_empty_after_its_wait(self) -> None:
        async with self.opened() as broker:
            async with asyncio.timeout(self.patience_s):
                assert list(await broker.read(TOPIC, 0, 0, 10, 0.0)) == []
                assert list(await broker.read(TOPIC, 0, 0, 10, 0.05)) == []

    async def test_a_waiting_read_is_woken_by_an_append(self) -> None:
        async with self.opened() as broker:
            after = 0
            for position in (1, 2, 3):
                reading = asyncio.create_task(broker.read(TOPIC, 0, after, 10, 10 * self.patience_s))
                # Time to begin to wait. Were it too short, the test would be weaker, never wrong.
                await asyncio.sleep(0.05)
                await broker.append(TOPIC, 0, SOURCE, entries(position, 1))
                async with asyncio.timeout(self.patience_s):
                    batch = await reading
                assert positions(batch) == [position]
                after = batch[-1].offset

    async def test_a_waiting_read_is_woken_by_an_append_through_another_broker(self) -> None:
        async with self.opened() as broker, self.opened() as other:
            reading = asyncio.create_task(broker.read(TOPIC, 1, 0, 10, 10 * self.patience_s))
            await asyncio.sleep(0.05)  # as above
            await other.append_many(SOURCE, {(TOPIC, 0): entries(1, 1), (TOPIC, 1): entries(2, 1)})
            async with asyncio.timeout(self.patience_s):
                assert positions(await reading) == [2]

    async def test_many_waiting_reads_are_all_woken(self) -> None:
        async with self.opened(partitions=8) as broker:
            reading = [
                asyncio.create_task(broker.read(TOPIC, number % 8, 0, 10, 10 * self.patience_s)) for number in range(16)
            ]
            await asyncio.sleep(0.05)  # as above
            await broker.append_many(SOURCE, {(TOPIC, number): entries(number + 1, 1) for number in range(8)})
            async with asyncio.timeout(self.patience_s):
                batches = await asyncio.gather(*reading)
            assert [positions(batch) for batch in batches] == [[number % 8 + 1] for number in range(16)]

    async def test_a_cancelled_read_costs_nothing(self) -> None:
        async with self.opened() as broker:
            reading = asyncio.create_task(broker.read(TOPIC, 0, 0, 10, 10 * self.patience_s))
            await asyncio.sleep(0.05)  # as above
            reading.cancel()
            await asyncio.wait((reading,))
            await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
            assert positions(await self.everything(broker)) == [1, 2]

    async def test_closing_ends_a_waiting_read_with_nothing(self) -> None:
        async with self.opened() as broker:
            reading = asyncio.create_task(broker.read(TOPIC, 0, 0, 10, 10 * self.patience_s))
            await asyncio.sleep(0.05)  # as above
            async with asyncio.timeout(self.patience_s):
                await broker.close()
                assert list(await reading) == []
                await broker.close()

    async def test_a_closed_broker_says_so(self) -> None:
        broker = await self.make_broker()
        await broker.close()
        with pytest.raises(BrokerUnavailable):
            await broker.partitions(TOPIC)
