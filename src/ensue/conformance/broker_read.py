"""Reading: after, limit, and waiting for what is not there yet."""

from __future__ import annotations

import asyncio

import pytest

from ensue.conformance.broker_suite import SOURCE, TOPIC, BrokerSuite, entries, positions, read
from ensue.errors import BrokerUnavailable
from ensue.ports import Broker, Reader


class Reading(BrokerSuite):
    async def test_a_read_begins_after_the_given_offset(self, broker: Broker) -> None:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
        everything = await self.everything(broker)
        for index, record in enumerate(everything):
            rest = await self.read_through(broker, last, after=record.offset)
            assert [each.offset for each in rest] == [each.offset for each in everything[index + 1 :]]
        assert list(await read(broker, TOPIC, 0, last, 10, 0.0)) == []

    async def test_reads_of_any_limit_leave_nothing_out(self, broker: Broker) -> None:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 50))
        for limit in (1, 2, 7, 49, 50, 51):
            found = await self.read_through(broker, last, limit=limit)
            assert positions(found) == list(range(1, 51)), f"read with limit {limit}"

    async def test_reading_takes_nothing_away(self, broker: Broker) -> None:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        first, second = await self.everything(broker), await self.everything(broker)
        assert positions(first) == positions(second) == [1, 2, 3, 4, 5]

    async def test_a_read_returns_what_is_there_and_does_not_wait_for_a_full_batch(self, broker: Broker) -> None:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        async with asyncio.timeout(self.patience_s):
            batch = await read(broker, TOPIC, 0, 0, 500, 10 * self.patience_s)
        assert positions(batch) == [1, 2, 3][: len(batch)]
        assert batch

    async def test_a_read_of_an_empty_partition_ends_empty_after_its_wait(self, broker: Broker) -> None:
        async with asyncio.timeout(self.patience_s):
            assert list(await read(broker, TOPIC, 0, 0, 10, 0.0)) == []
            assert list(await read(broker, TOPIC, 0, 0, 10, 0.05)) == []

    async def test_a_reader_keeps_its_place_and_says_where_it_is(self, broker: Broker) -> None:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 30))
        reader = broker.reader(TOPIC, 0, 0)
        assert reader.after == 0
        found: list[int] = []
        async with asyncio.timeout(self.patience_s):
            while reader.after < last:
                before = reader.after
                batch = await reader.read(7, self.patience_s)
                assert reader.after == batch[-1].offset > before, "a read begins where the one before it ended"
                found += positions(batch)
            assert list(await reader.read(7, 0.0)) == []
            assert list(await reader.read(7, 0.05)) == []
        assert found == list(range(1, 31))
        assert reader.after == last

    async def test_readers_of_one_partition_each_get_everything(self, broker: Broker) -> None:
        """At different places, at different speeds, some before anything is there: more of them than is usual."""

        async def follow(reader: Reader, limit: int, last: int) -> list[int]:
            found: list[int] = []
            while not found or found[-1] < last:
                found += positions(await reader.read(limit, self.patience_s))
                await asyncio.sleep(0)
            return found

        early = [broker.reader(TOPIC, 0, 0) for _ in range(3)]
        following = [asyncio.create_task(follow(reader, 7 + n, 60)) for n, reader in enumerate(early)]
        await asyncio.sleep(0.05)  # as above
        await broker.append(TOPIC, 0, SOURCE, entries(1, 40))
        offsets = [record.offset for record in await self.everything(broker)]
        late = [broker.reader(TOPIC, 0, offsets[begin]) for begin in (0, 9, 19, 29)]
        following += [asyncio.create_task(follow(reader, 3 + n, 60)) for n, reader in enumerate(late)]
        await broker.append(TOPIC, 0, SOURCE, entries(41, 20))
        async with asyncio.timeout(3 * self.patience_s):
            found = await asyncio.gather(*following)
        assert found == [list(range(begin, 61)) for begin in (1, 1, 1, 2, 11, 21, 31)]

    async def test_closing_a_reader_ends_its_read_with_nothing_and_no_other(self, broker: Broker) -> None:
        reader, other = broker.reader(TOPIC, 0, 0), broker.reader(TOPIC, 0, 0)
        reading, going_on = (asyncio.create_task(each.read(10, 10 * self.patience_s)) for each in (reader, other))
        await asyncio.sleep(0.05)  # as above
        async with asyncio.timeout(self.patience_s):
            await reader.close()
            assert list(await reading) == []
            await reader.close()
            with pytest.raises(BrokerUnavailable):
                await reader.read(10, 0.0)
            assert not going_on.done()
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
            assert positions(await going_on) == [1]

    async def test_a_waiting_read_is_woken_by_an_append(self, broker: Broker) -> None:
        reader = broker.reader(TOPIC, 0, 0)
        for position in (1, 2, 3):
            reading = asyncio.create_task(reader.read(10, 10 * self.patience_s))
            # Time to begin to wait. Were it too short, the test would be weaker, never wrong.
            await asyncio.sleep(0.05)
            await broker.append(TOPIC, 0, SOURCE, entries(position, 1))
            async with asyncio.timeout(self.patience_s):
                assert positions(await reading) == [position]

    async def test_a_waiting_read_is_woken_by_an_append_through_another_broker(self) -> None:
        async with self.opened() as broker, self.opened() as other:
            reading = asyncio.create_task(read(broker, TOPIC, 1, 0, 10, 10 * self.patience_s))
            await asyncio.sleep(0.05)  # as above
            await other.append_many(SOURCE, {(TOPIC, 0): entries(1, 1), (TOPIC, 1): entries(2, 1)})
            async with asyncio.timeout(self.patience_s):
                assert positions(await reading) == [2]

    async def test_many_waiting_reads_are_all_woken(self) -> None:
        async with self.opened(partitions=8) as broker:
            reading = [
                asyncio.create_task(read(broker, TOPIC, number % 8, 0, 10, 10 * self.patience_s))
                for number in range(16)
            ]
            await asyncio.sleep(0.05)  # as above
            await broker.append_many(SOURCE, {(TOPIC, number): entries(number + 1, 1) for number in range(8)})
            async with asyncio.timeout(self.patience_s):
                batches = await asyncio.gather(*reading)
            assert [positions(batch) for batch in batches] == [[number % 8 + 1] for number in range(16)]

    async def test_a_cancelled_read_costs_nothing(self, broker: Broker) -> None:
        """Cancelled while it waits, and at every step from its beginning on, also when there is something to take."""
        reader = broker.reader(TOPIC, 0, 0)
        reading = asyncio.create_task(reader.read(10, 10 * self.patience_s))
        await asyncio.sleep(0.05)  # as above
        reading.cancel()
        await asyncio.wait((reading,))
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
        found: list[int] = []
        async with asyncio.timeout(self.patience_s):
            for turns in range(20):
                reading = asyncio.create_task(reader.read(1, self.patience_s))
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait((reading,))
                if not reading.cancelled():
                    found += positions(reading.result())
            while reader.after < last:
                found += positions(await reader.read(10, self.patience_s))
                await asyncio.sleep(0)  # an embedded log never suspends: let the time limit in
        assert found == list(range(1, 21))

    async def test_closing_the_broker_closes_its_readers_and_ends_their_reads_with_nothing(
        self, broker: Broker
    ) -> None:
        reader = broker.reader(TOPIC, 0, 0)
        reading = asyncio.create_task(reader.read(10, 10 * self.patience_s))
        await asyncio.sleep(0.05)  # as above
        async with asyncio.timeout(self.patience_s):
            await broker.close()
            assert list(await reading) == []
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await reader.read(10, 0.0)
            await reader.close()

    async def test_a_closed_broker_says_so(self) -> None:
        broker = await self.make_broker()
        await broker.close()
        with pytest.raises(BrokerUnavailable):
            await broker.partitions(TOPIC)
