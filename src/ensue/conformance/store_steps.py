"""A step is one transaction: all or nothing, one after the other on one entity, whatever ends it."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import time

import pytest

from ensue.conformance.store_suite import ACCOUNTS, PARTITION, SOURCE, StoreSuite, Undo, record, texts
from ensue.errors import CheckpointConflict
from ensue.message import Checkpoint
from ensue.ports import Store


class Stepping(StoreSuite):
    async def test_what_a_step_did_is_there_when_it_has_ended(self, store: Store) -> None:
        async with store.transaction() as transaction:
            await self.do_everything(store, transaction)
        await self.check_what_was_published(store)
        checkpoint = await self.books(store).checkpoint(PARTITION)
        assert (checkpoint.offset, checkpoint.watermarks) == (3, {SOURCE: 2})
        assert checkpoint.revision > 0
        assert len(await self.books(store).letters()) == 1
        assert await self.balance(store) == 1
        async with store.transaction() as transaction:
            assert await self.books(store).answer(transaction, "key-1") is not None
            assert await self.books(store).claim(transaction, [("billing", "id-1")]) == set()

    async def check_what_was_published(self, store: Store) -> None:
        if self.capabilities.publishes:
            assert texts(await self.everything(store)) == ["one", "two"]
        assert await self.balance(store) == 1

    async def _leave(self, store: Store, trace: str) -> None:
        async with store.transaction() as transaction:
            await self.leave(transaction, trace)

    async def test_a_step_that_raises_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                await self.do_everything(store, transaction)
                raise Undo
        await self.check_nothing_is_there(store)

    async def test_a_step_that_raised_can_be_done_again(self, store: Store) -> None:
        for _ in range(2):
            with pytest.raises(Undo):
                async with store.transaction() as transaction:
                    await self.do_everything(store, transaction)
                    raise Undo
        async with store.transaction() as transaction:
            await self.do_everything(store, transaction)
        await self.check_what_was_published(store)

    async def test_a_cancelled_step_leaves_nothing_and_holds_up_nobody(self, store: Store) -> None:
        inside = asyncio.Event()

        async def step() -> None:
            async with store.transaction() as transaction:
                await self.do_everything(store, transaction)
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(step())
        async with asyncio.timeout(self.patience_s):
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await self.check_nothing_is_there(store)

    async def test_a_step_cancelled_while_it_waits_for_another_does_nothing(self, store: Store) -> None:
        async with store.transaction() as transaction:
            await self.leave(transaction, "first")
            waiting = asyncio.create_task(self._leave(store, "cancelled"))
            following = asyncio.create_task(self._leave(store, "last"))
            for _ in range(3):
                await asyncio.sleep(0)  # both have begun; whether they wait is the store's affair
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with asyncio.timeout(self.patience_s):
            await following
        assert sorted(await self.traces(store)) == ["first", "last"]

    async def test_cancelled_at_any_point_a_step_is_whole_or_nothing(self, store: Store) -> None:
        for number in range(30):
            before = (len(await self.traces(store)), (await self.books(store).checkpoint(PARTITION)).offset)
            task = asyncio.create_task(self._count(store, number))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            after = (len(await self.traces(store)), (await self.books(store).checkpoint(PARTITION)).offset)
            assert after in (before, (before[0] + 1, before[1] + 1))
            assert after != before or task.cancelled()

    async def _count(self, store: Store, number: int) -> None:
        checkpoint = await self.books(store).checkpoint(PARTITION)
        checkpoint.offset += 1
        async with store.transaction() as transaction:
            await self.leave(transaction, str(number))
            await asyncio.sleep(0)
            await self.books(store).save_checkpoint(transaction, PARTITION, checkpoint)

    async def test_racing_steps_on_one_entity_lose_no_update(self, store: Store, other: Store) -> None:
        tasks, rounds = 5, 10
        await self.put(store, ACCOUNTS, [("a", 0)])

        async def deposit_once(through: Store) -> None:
            async with through.transaction() as transaction:
                [(account, balance)] = await transaction.load_rows(ACCOUNTS, ["a"])
                await asyncio.sleep(0)
                await transaction.update_rows(ACCOUNTS, [(account, balance + 1)])
                if self.capabilities.publishes:
                    await transaction.outbox_add([record(str(balance + 1), key="a")])

        async def deposit(through: Store) -> None:
            for _ in range(rounds):
                await self.until_it_commits(lambda: deposit_once(through))

        async with asyncio.timeout(self.patience_s), asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(deposit(other if number % 2 else store))
        assert await self.balance(store) == tasks * rounds
        expected = [str(number) for number in range(1, tasks * rounds + 1)]
        if self.capabilities.publishes:
            assert texts(await self.everything(store)) == expected, "events of one entity are not in commit order"

    async def test_whoever_lost_its_checkpoint_cannot_commit_even_if_the_error_is_caught(self, store: Store) -> None:
        with pytest.raises(Exception, match="checkpoint"):
            async with store.transaction() as transaction:
                await self.leave(transaction, "never")
                with pytest.raises(CheckpointConflict):
                    await self.books(store).save_checkpoint(transaction, PARTITION, Checkpoint(revision=5))
        assert await self.traces(store) == []

    async def test_a_transaction_that_has_ended_takes_nothing_more(self, store: Store) -> None:
        async with store.transaction() as transaction:
            pass
        with pytest.raises(Exception, match="not open"):
            await transaction.outbox_add([record()])
        with pytest.raises(Exception, match="not open"):
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
        await self.check_nothing_is_there(store)

    async def test_the_clock_of_a_transaction_stands_still_and_tells_the_time(self, store: Store) -> None:
        async with store.transaction() as transaction:
            first = transaction.now
            await asyncio.sleep(0)
            assert transaction.now == first
        assert abs(first - time.time()) < 3600, "not seconds since the epoch"

    # --- rows of entities

    async def test_a_row_comes_back_as_it_was_inserted_and_updated(self, store: Store) -> None:
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            await transaction.update_rows(ACCOUNTS, [("a", 2)])
            seen = [tuple(row) for row in await transaction.load_rows(ACCOUNTS, ["a"])]
            assert seen == [("a", 2)], "a step does not see its own changes"
        async with store.transaction() as transaction:
            await transaction.load_rows(ACCOUNTS, ["a", "b"])
            await transaction.update_rows(ACCOUNTS, [("a", 3)])
        assert [await self.balance(store, each) for each in "ab"] == [3, None]

    async def test_rows_come_back_as_they_were_inserted_and_updated(self, store: Store) -> None:
        self.needs("transactions")
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1), ("b", 2), ("c", 3)])
            await transaction.update_rows(ACCOUNTS, [("c", 30), ("a", 10)])
            seen = sorted(map(tuple, await transaction.load_rows(ACCOUNTS, ["a", "b", "c"])))
            assert seen == [("a", 10), ("b", 2), ("c", 30)], "a step does not see its own changes"
        async with store.transaction() as transaction:
            seen = sorted(map(tuple, await transaction.load_rows(ACCOUNTS, ["c", "b", "a"])))
        assert seen == [("a", 10), ("b", 2), ("c", 30)]

    async def test_any_number_of_rows_is_loaded_and_missing_ones_are_left_out(self, store: Store) -> None:
        names = [f"account-{number:04}" for number in range(1500)]
        await self.put(store, ACCOUNTS, [(name, number) for number, name in enumerate(names)])
        for size in (0, 1, 2, 3, 500, 511, 512, 513, 1500):
            async with store.transaction() as transaction:
                found = await transaction.load_rows(ACCOUNTS, [*names[:size], "missing"])
            assert sorted(map(tuple, found)) == [(name, number) for number, name in enumerate(names[:size])]

    async def test_an_id_asked_for_twice_is_loaded_once(self, store: Store) -> None:
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            assert [tuple(row) for row in await transaction.load_rows(ACCOUNTS, ["a"] * 600)] == [("a", 1)]
