"""The outbox: positions never appear late, the chain is right, pruning forgets records and nothing else."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import cast

import pytest

from ensue.conformance.store_suite import (
    TOPIC,
    StoreSuite,
    Undo,
    check_chain,
    positions,
    record,
    texts,
)
from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import Store, Successor

PAST, FUTURE = 1.0, time.time() + 3600


class Publishing(StoreSuite):
    async def test_a_record_comes_back_as_it_was(self, store: Store) -> None:
        given = record('{"n":1}', key="customer-1", topic="invoices", partition=3)
        await self.publish(store, given)
        [found] = await self.everything(store)
        assert (found.topic, found.partition, found.key) == ("invoices", 3, "customer-1")
        assert (found.envelope, found.data) == (given.envelope, b'{"n":1}')
        assert found.position > 0
        assert found.previous == 0

    async def test_records_of_a_batch_keep_their_order_and_none_is_lost(self, store: Store) -> None:
        expected: list[str] = []
        for size in (1, 2, 500, 3):
            batch = [record(f"{size}-{number}", partition=number % 3) for number in range(size)]
            await self.publish(store, *batch)
            expected += texts(batch)
        found = await self.everything(store)
        assert texts(found) == expected
        assert positions(found) == sorted(set(positions(found)))
        check_chain(found)

    async def test_several_batches_in_one_step_are_one_chain(self, store: Store) -> None:
        self.needs("publishes")
        async with store.transaction() as transaction:
            await self.add(transaction, record("1"), record("2", partition=1))
            await transaction.outbox_add([])
            await transaction.outbox_add([record("3"), record("4", partition=1)])
        found = await self.everything(store)
        assert texts(found) == ["1", "2", "3", "4"]
        check_chain(found)
        assert await store.outbox_heads() == {(TOPIC, 0): found[2].position, (TOPIC, 1): found[3].position}

    async def test_the_chain_goes_on_after_a_step_that_rolled_back(self, store: Store) -> None:
        await self.publish(store, record("1"))
        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                await self.add(transaction, record("undone"), record("undone", partition=1))
                raise Undo
        await self.publish(store, record("2"), record("3", partition=1))
        found = await self.everything(store)
        assert texts(found) == ["1", "2", "3"]
        check_chain(found)

    async def test_the_chain_goes_on_through_another_store_on_the_same_database(
        self, store: Store, other: Store
    ) -> None:
        for number in range(6):
            await self.publish(other if number % 2 else store, record(str(number)))
        found = await self.everything(store)
        assert texts(found) == [str(number) for number in range(6)]
        check_chain(found)
        assert await self.everything(other) == found

    async def test_reads_of_any_limit_leave_nothing_out(self, store: Store) -> None:
        await self.publish(store, *(record(str(number)) for number in range(20)))
        for limit in (1, 3, 20, 100):
            found: list[OutboxRecord] = []
            while batch := await store.outbox_after(found[-1].position if found else 0, limit):
                assert len(batch) <= limit
                found += batch
            assert texts(found) == [str(number) for number in range(20)]

    async def test_one_record_is_found_by_its_position(self, store: Store) -> None:
        await self.publish(store, record("1"), record("2"))
        for each in await self.everything(store):
            assert list(await store.outbox_after(each.position - 1, 1)) == [each]

    async def test_one_partition_is_read_between_two_positions(self, store: Store) -> None:
        batch = [record(str(number), partition=number % 2) for number in range(10)]
        await self.publish(store, *batch, record("other", topic="invoices"))
        found = await self.everything(store)
        own = [each for each in found if each.partition == 1]
        after, through = own[0].position, own[3].position
        assert await store.outbox_of(TOPIC, 1, after, through, 100) == own[1:4]
        assert await store.outbox_of(TOPIC, 1, after, through, 2) == own[1:3]
        assert await store.outbox_of(TOPIC, 1, 0, found[-1].position, 100) == own
        assert list(await store.outbox_of(TOPIC, 7, 0, found[-1].position, 100)) == []

    # --- a reader that follows while others write

    async def test_racing_writers_and_a_follower_that_misses_nothing(self, store: Store, other: Store) -> None:
        """Whatever was read once stays the beginning of what there is: no position appears late."""
        self.needs("publishes")
        writers, rounds = 6, 25
        total = writers * rounds * 3

        async def write_once(through: Store, name: int, round_: int) -> None:
            async with through.transaction() as transaction:
                await self.add(transaction, record(f"{name}:{round_}:0", key=str(name)))
                await asyncio.sleep(0)
                await transaction.outbox_add(
                    [record(f"{name}:{round_}:{n}", key=str(name), partition=n) for n in (1, 2)]
                )

        async def write(through: Store, name: int) -> None:
            for round_ in range(rounds):
                await self.until_it_commits(partial(write_once, through, name, round_))

        async with asyncio.timeout(self.patience_s), asyncio.TaskGroup() as group:
            following = group.create_task(follow(store, total))
            for name in range(writers):
                group.create_task(write(other if name % 2 else store, name))
        seen = following.result()
        assert await self.everything(store) == seen, "a record appeared below one that had been read"
        check_chain(seen)
        for name in range(writers):
            own = [text for text in texts(seen) if text.startswith(f"{name}:")]
            assert own == [f"{name}:{round_}:{n}" for round_ in range(rounds) for n in range(3)]

    # --- waking

    async def test_a_commit_ends_the_wait_for_it(self, store: Store, other: Store) -> None:
        for through in (store, other):
            await store.outbox_after(0, 1)
            waiting = asyncio.create_task(store.outbox_wait(10 * self.patience_s))
            await asyncio.sleep(0.05)  # let it wait; a wait that begins later must end all the same
            await self.publish(through, record())
            async with asyncio.timeout(self.patience_s):
                await waiting

    async def test_a_commit_between_looking_and_waiting_is_not_missed(self, store: Store, other: Store) -> None:
        for through in (store, other):
            position = max(positions(await self.everything(store)), default=0)
            assert list(await store.outbox_after(position, 1)) == []
            await self.publish(through, record())
            await asyncio.sleep(0.05)  # time for the news to be taken in while nobody waits
            async with asyncio.timeout(self.patience_s):
                await store.outbox_wait(10 * self.patience_s)

    async def test_a_wait_for_nothing_ends_by_itself(self, store: Store) -> None:
        await store.outbox_after(0, 1)
        async with asyncio.timeout(self.patience_s):
            await store.outbox_wait(0.05)

    # --- pruning, epochs

    async def test_pruning_takes_old_records_up_to_a_position_a_chunk_at_a_time(self, store: Store) -> None:
        for number in range(10):
            await self.publish(store, record(str(number)))
        found = await self.everything(store)
        assert await store.outbox_prune(PAST, found[-1].position, 100) == 0, "young records were pruned"
        assert await store.outbox_prune(FUTURE, found[5].position, 4) == 4
        assert texts(await self.everything(store)) == list("456789")
        assert await store.outbox_prune(FUTURE, found[5].position, 100) == 2
        assert await store.outbox_prune(FUTURE, found[5].position, 100) == 0
        assert await self.everything(store) == found[6:]

    async def test_pruning_everything_keeps_heads_and_chain(self, store: Store) -> None:
        await self.publish(store, record("1"), record("2", partition=1))
        before = await self.everything(store)
        heads = await store.outbox_heads()
        assert await store.outbox_prune(FUTURE, before[-1].position, 100) == 2
        assert await self.everything(store) == []
        assert await store.outbox_heads() == heads
        await self.publish(store, record("3"), record("4", partition=1))
        after = await self.everything(store)
        assert [each.previous for each in after] == positions(before)
        assert after[0].position > before[-1].position, "a position was given out twice"

    async def test_a_new_epoch_sends_the_unsent_records_as_a_chain_of_its_own(self, store: Store) -> None:
        await self.publish(store, *(record(str(number), partition=number % 2) for number in range(8)))
        old = await self.everything(store)
        source = store.source
        assert source.startswith("orders/")
        fresh = await store.new_epoch(old[4].position, store.source)
        assert fresh == store.source != source
        assert await self.books(store).relay_position() == 0, "the new source has sent nothing yet"
        assert texts(await self.everything(store)) == ["5", "6", "7"], "what the old source sent is not sent again"
        await self.publish(store, record("8"), record("9", partition=1), record("10", partition=2))
        found = await self.everything(store)
        check_chain(found)
        assert texts(found) == ["5", "6", "7", "8", "9", "10"]
        through = found[-1].position
        assert texts(await store.outbox_of(TOPIC, 0, 0, through, 100)) == ["6", "8"]
        assert await store.outbox_heads() == {
            (TOPIC, 0): found[3].position,
            (TOPIC, 1): found[4].position,
            (TOPIC, 2): found[5].position,
        }

    async def test_a_new_epoch_of_a_store_older_than_its_log_uses_no_position_twice(self, store: Store) -> None:
        await self.publish(store, record("restored"))
        await store.new_epoch(100, store.source)
        assert await self.everything(store) == []
        assert await store.outbox_heads() == {}
        await self.publish(store, record("1"))
        [found] = await self.everything(store)
        assert found.position > 100
        assert found.previous == 0

    async def test_a_new_epoch_becomes_known_to_other_stores_on_the_database(self, store: Store, other: Store) -> None:
        await self.publish(store, record("1"))
        await self.publish(other, record("2"))
        old, through = other.source, (await self.everything(other))[0].position
        source = await other.new_epoch(through, old)
        with pytest.raises(UsageError, match=f"{old} has ended meanwhile, this store is {source} now"):
            await store.new_epoch(through, old)  # which does not know it yet
        assert texts(await self.everything(store)) == ["2"]
        assert store.source == source
        await self.publish(store, record("3"))
        check_chain(await self.everything(store))
        begun = await asyncio.gather(*(each.new_epoch(3, source) for each in (store, other)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in begun) == ["UsageError", "str"], begun
        await self.everything(store)
        assert store.source in begun

    async def test_an_empty_store_goes_on_with_another_ones_history(self, store: Store) -> None:
        self.needs("takes_over")
        async with store.transaction() as transaction:
            successor = cast(Successor, transaction)
            await successor.take_over("orders/0123abcd", 7, {(TOPIC, 0): 7, (TOPIC, 1): 3})
            await successor.outbox_add([record("8"), record("9", partition=1), record("10", partition=2)])
        await self.publish(store, record("11", partition=1), record("12"))
        found = await self.everything(store)
        assert store.source == "orders/0123abcd"
        assert positions(found) == [8, 9, 10, 11, 12]
        assert [each.previous for each in found] == [7, 3, 0, 9, 8]
        assert texts(await store.outbox_of(TOPIC, 1, 0, 12, 100)) == ["9", "11"]
        assert await store.outbox_heads() == {(TOPIC, 0): 12, (TOPIC, 1): 11, (TOPIC, 2): 10}
        async with self.another(store) as other:
            await self.publish(other, record("13"))
            assert other.source == "orders/0123abcd"
            assert positions(await self.everything(other)) == [8, 9, 10, 11, 12, 13]

    async def test_a_store_with_a_history_takes_over_no_other(self, store: Store) -> None:
        self.needs("takes_over")
        source = store.source
        await self.publish(store, record("1"))
        with pytest.raises(UsageError, match="has published events of its own already"):
            async with store.transaction() as transaction:
                await cast(Successor, transaction).take_over("orders/0123abcd", 7, {})
        [found] = await self.everything(store)
        assert (store.source, found.position) == (source, 1)

    async def test_two_stores_have_two_sources_and_a_store_keeps_its_own(self, store: Store) -> None:
        source = store.source
        if self.capabilities.publishes:
            await self.publish(store, record())
        assert store.source == source
        async with self.another(store) as other:
            assert other.source == source
        assert await store.new_epoch(0, store.source) != source


async def follow(store: Store, total: int) -> Sequence[OutboxRecord]:
    """Read as a relay does until there are `total` records."""
    seen: list[OutboxRecord] = []
    while len(seen) < total:
        batch = await store.outbox_after(seen[-1].position if seen else 0, 7)
        if batch:
            seen += batch
            await asyncio.sleep(0)
        else:
            await store.outbox_wait(1.0)
    return seen
