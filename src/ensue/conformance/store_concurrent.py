"""Several transactions open at once: what commits late is not lost, what is undone leaves no hole, order is a key's."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ensue.conformance.store_suite import ACCOUNTS, StoreSuite, Undo, check_chain, positions, record, texts
from ensue.message import OutboxRecord
from ensue.ports import Store


class Concurrent(StoreSuite):
    """Needs capabilities.concurrent_writers: with one writer none of it can happen."""

    async def read_on(self, store: Store, seen: list[OutboxRecord]) -> Sequence[str]:
        """Read what is new after `seen`, as a relay does, add it there, and return its texts."""
        new: list[OutboxRecord] = []
        while batch := await store.outbox_after(seen[-1].position if seen else 0, 100):
            new += batch
            seen += batch
        return texts(new)

    async def test_a_late_commit_is_read_after_what_was_read_before_it(self, store: Store) -> None:
        self.needs("concurrent_writers")
        seen: list[OutboxRecord] = []
        async with store.transaction() as late:
            await late.outbox_add([record("late", key="a"), record("late too", key="a", partition=1)])
            await self.publish(store, record("early", key="b"), record("early too", key="b", partition=1))
            assert await self.read_on(store, seen) == ["early", "early too"]
        assert await self.read_on(store, seen) == ["late", "late too"], "what committed late was lost"
        assert await self.everything(store) == seen, "a record appeared below one that had been read"
        check_chain(seen)

    async def test_many_late_commits_in_any_order_lose_nothing(self, store: Store) -> None:
        self.needs("concurrent_writers")
        seen: list[OutboxRecord] = []
        go_on = [asyncio.Event() for _ in range(4)]
        written = [asyncio.Event() for _ in range(4)]

        async def step(number: int) -> None:
            async with store.transaction() as transaction:
                await transaction.outbox_add([record(str(number), key=str(number), partition=number % 2)])
                written[number].set()
                await go_on[number].wait()

        async with asyncio.timeout(self.patience_s):
            steps = []
            for number in range(4):
                steps.append(asyncio.create_task(step(number)))
                await written[number].wait()
            for number in (3, 0, 2, 1):
                go_on[number].set()
                await steps[number]
                assert await self.read_on(store, seen) == [str(number)]
        assert await self.everything(store) == seen
        check_chain(seen)

    async def test_what_was_undone_leaves_no_hole_that_anybody_waits_for(self, store: Store) -> None:
        self.needs("concurrent_writers")
        seen: list[OutboxRecord] = []
        with pytest.raises(Undo):
            async with store.transaction() as undone:
                await undone.outbox_add([record("undone", key="a")])
                await self.publish(store, record("1", key="b"))
                raise Undo
        await self.publish(store, record("2", key="a"))
        assert await self.read_on(store, seen) == ["1", "2"]
        check_chain(seen)

    async def test_events_of_one_entity_are_in_commit_order_whoever_began_first(self, store: Store) -> None:
        """The first to write anything is the last to change the entity: order by transaction would swap its events."""
        self.needs("concurrent_writers")
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 0), ("b", 0)])
        async with store.transaction() as first:
            await first.load_rows(ACCOUNTS, ["b"])
            await first.update_rows(ACCOUNTS, [("b", 1)])
            async with store.transaction() as second:
                [(_, balance)] = await second.load_rows(ACCOUNTS, ["a"])
                await second.update_rows(ACCOUNTS, [("a", balance + 1)])
                await second.outbox_add([record(f"a={balance + 1}", key="a")])
            [(_, balance)] = await first.load_rows(ACCOUNTS, ["a"])
            await first.update_rows(ACCOUNTS, [("a", balance + 1)])
            await first.outbox_add([record(f"a={balance + 1}", key="a")])
        found = await self.everything(store)
        assert texts(found) == ["a=1", "a=2"], "events of one entity are not in commit order"
        assert positions(found) == sorted(positions(found))

    async def test_a_transaction_that_is_held_open_delays_nobody(self, store: Store, other: Store) -> None:
        self.needs("concurrent_writers")
        seen: list[OutboxRecord] = []
        async with store.transaction() as held:
            await held.insert_rows(ACCOUNTS, [("held", 1)])
            await held.outbox_add([record("held", key="held")])
            async with asyncio.timeout(self.patience_s):
                for number in range(10):
                    await self.publish(other if number % 2 else store, record(str(number)))
                    assert await self.read_on(store, seen) == [str(number)], "events wait for an open transaction"
                assert await store.outbox_heads() == {("orders", 0): seen[-1].position}
                await self.books(store).heartbeat("one", 60.0, ["p/0"], [])
                await store.outbox_prune(1.0, seen[-1].position, 100)
        assert await self.read_on(store, seen) == ["held"]
        check_chain(seen)

    async def test_heartbeats_do_not_wait_behind_steps(self, store: Store) -> None:
        self.needs("concurrent_writers")
        inside, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def step(number: int) -> None:
            async with store.transaction() as transaction:
                await transaction.load_rows(ACCOUNTS, [str(number)])
                inside.release()
                await go_on.wait()

        async with asyncio.timeout(3 * self.patience_s), asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(step(number))
            await inside.acquire()
            async with asyncio.timeout(self.patience_s):
                table = await self.books(store).heartbeat("one", 60.0, ["p/0"], [])
            assert table.workers == ("one",)
            go_on.set()
