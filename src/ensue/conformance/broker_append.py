"""Appending: order, completeness, what an error or a cancel leaves behind, many writers at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from ensue.conformance.broker_suite import SOURCE, TOPIC, BrokerSuite, entries, entry, positions
from ensue.errors import RecordRefused
from ensue.message import Garbage, Message
from ensue.ports import Broker


class Appending(BrokerSuite):
    async def test_what_was_appended_comes_back_as_it_was(self, broker: Broker) -> None:
        sent = [entry(7, key="customer-1", data=b'{"total":"12.50"}', previous=3)]
        await broker.append(TOPIC, 1, SOURCE, sent)
        [message] = await self.everything(broker, partition=1)
        assert isinstance(message, Message)
        assert (message.topic, message.partition, message.source) == (TOPIC, 1, SOURCE)
        assert (message.key, message.data) == ("customer-1", b'{"total":"12.50"}')
        assert (message.position, message.previous) == (7, 3)
        assert (message.id, message.type, message.time) == ("id-7", "OrderCreated", "2024-01-01T00:00:00Z")

    async def test_a_batch_comes_back_whole_and_in_order(self, broker: Broker) -> None:
        position = 1
        for size in (1, 2, 3, 100, 500, 501):
            await broker.append(TOPIC, 0, SOURCE, entries(position, size))
            position += size
        assert positions(await self.everything(broker)) == list(range(1, position))

    async def test_append_returns_the_offset_of_its_last_record(self, broker: Broker) -> None:
        for position in (1, 11, 21):
            last = await broker.append(TOPIC, 0, SOURCE, entries(position, 10))
            assert (await broker.bounds(TOPIC, 0)).last == last
            [message] = await self.read_through(broker, last, after=last - 1)
            assert positions([message]) == [position + 9]

    async def test_an_append_of_nothing_changes_nothing(self, broker: Broker) -> None:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        assert await broker.append(TOPIC, 0, SOURCE, []) == last
        await broker.append_many(SOURCE, {(TOPIC, 0): [], (TOPIC, 1): []})
        await broker.append_many(SOURCE, {})
        assert positions(await self.everything(broker)) == [1, 2, 3]

    async def test_append_many_keeps_the_order_of_each_partition(self, broker: Broker) -> None:
        await broker.ensure_topic("other", 1)
        for first in (1, 101, 201):
            await broker.append_many(
                SOURCE,
                {
                    (TOPIC, 0): entries(first, 100),
                    (TOPIC, 1): entries(first + 1000, 50),
                    ("other", 0): entries(first + 2000, 1),
                },
            )
        assert positions(await self.everything(broker, partition=0)) == list(range(1, 301))
        assert positions(await self.everything(broker, partition=1)) == [
            first + 1000 + number for first in (1, 101, 201) for number in range(50)
        ]
        assert positions(await self.everything(broker, topic="other")) == [2001, 2101, 2201]

    async def test_an_append_that_fails_leaves_a_prefix(self, broker: Broker) -> None:
        batch = entries(1, 10)
        batch[5].envelope = None  # type: ignore[assignment]  # nobody can store this
        with pytest.raises(Exception):  # noqa: B017, PT011  # which one is the adapter's own
            await broker.append(TOPIC, 0, SOURCE, batch)
        left = positions(await self.everything(broker))
        assert left == list(range(1, len(left) + 1))
        assert len(left) <= 5
        await broker.append(TOPIC, 0, SOURCE, entries(6, 5))
        assert positions(await self.everything(broker)) == [*left, 6, 7, 8, 9, 10]

    async def test_a_record_that_is_refused_for_ever_is_told_from_a_broker_that_is_away(self, broker: Broker) -> None:
        too_many = await self.limit_records(broker, TOPIC, 0)
        small, large = entries(1, 3), entry(4, data=b"x" * too_many)
        with pytest.raises(RecordRefused) as caught:
            await broker.append(TOPIC, 0, SOURCE, [*small, large])
        assert caught.value.position in (4, None), "another record is named than the one that is too large"
        with pytest.raises(RecordRefused):
            await broker.append_many(SOURCE, {(TOPIC, 1): entries(1, 1), (TOPIC, 0): [large]})
        # Whoever was refused goes on with what is not.
        await broker.append_many(SOURCE, {(TOPIC, 0): small, (TOPIC, 1): entries(1, 3)})
        found = positions(await self.everything(broker))
        # What was before the refused record may be there too; a server of several may say so later than it refuses.
        assert found[-3:] == [1, 2, 3]
        before = found[:-3]
        assert before == [*range(1, len(before) + 1)]
        assert len(before) <= 3
        assert positions(await self.everything(broker, partition=1))[-3:] == [1, 2, 3]

    async def test_a_cancelled_append_leaves_a_prefix_and_a_working_broker(self, broker: Broker) -> None:
        for first in range(1, 201, 20):
            appending = asyncio.create_task(broker.append(TOPIC, 0, SOURCE, entries(first, 20)))
            for _ in range(first // 20 % 4):
                await asyncio.sleep(0)
            appending.cancel()
            await asyncio.wait((appending,))
        await broker.append(TOPIC, 0, SOURCE, entries(201, 5))
        found = positions(await self.everything(broker))
        for first in range(1, 201, 20):
            part = [position for position in found if first <= position < first + 20]
            assert part == list(range(first, first + len(part)))
        assert found[-5:] == [201, 202, 203, 204, 205]

    async def test_racing_writers_lose_nothing_and_a_follower_misses_nothing(self) -> None:
        """Four brokers append at once; one that reads meanwhile sees each writer's records, all and in order."""
        writers, rounds, size = 4, 15, 7
        total = writers * rounds * size

        async def write(broker: Broker, source: str) -> None:
            for round_ in range(rounds):
                batch = entries(round_ * size + 1, size)
                await broker.append_many(source, {(TOPIC, 0): batch, (TOPIC, 1): batch[:1]})
                await asyncio.sleep(0)

        async def follow(broker: Broker) -> list[Message | Garbage]:
            found: list[Message | Garbage] = []
            follower = broker.reader(TOPIC, 0, 0)
            while len(found) < total:
                after = follower.after
                batch = await follower.read(10, self.patience_s)
                assert batch, f"nothing came any more after {len(found)} of {total} records"
                assert [each.offset for each in batch] == sorted({each.offset for each in batch})
                assert batch[0].offset > after
                found += batch
            return found

        async with AsyncExitStack() as stack:
            brokers = [await stack.enter_async_context(self.opened()) for _ in range(writers)]
            reader = await stack.enter_async_context(self.opened())
            async with asyncio.timeout(3 * self.patience_s), asyncio.TaskGroup() as group:
                following = group.create_task(follow(reader))
                for n, broker in enumerate(brokers):
                    group.create_task(write(broker, f"service-{n}/1"))
            found = following.result()
            again = await self.everything(reader)
            assert [each.offset for each in again] == [each.offset for each in found]
            for n in range(writers):
                own = [each for each in found if isinstance(each, Message) and each.source == f"service-{n}/1"]
                assert positions(own) == list(range(1, rounds * size + 1))
            assert len(await self.everything(reader, partition=1)) == writers * rounds
