"""Workers and leases, and a store's life: open, close, open again, several processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping

from ensue.conformance.store_outbox import Publishing, follow
from ensue.conformance.store_suite import (
    ACCOUNTS,
    METADATA,
    PARTITION,
    SOURCE,
    StoreSuite,
    check_chain,
    record,
    texts,
)
from ensue.engine.attempt import Attempt
from ensue.message import LeaseTable, Partition
from ensue.ports import Kind, Lookup, Store, Table

LONG_S = 600.0

#: Tables of Ensue's own that this Ensue does not have.
LATER, EVEN_LATER = (
    Table(
        name, ("id", "revision", "place"), "id", (Lookup(("place",), ("id",)),),
        (Kind.NAME, Kind.INT, Kind.NAME), "revision",
    )
    for name in ("ensue_conformance_later", "ensue_conformance_even_later")
)  # fmt: skip

#: Deposits into one account, one step at a time, publishing each new balance. Imports little: it starts often.
_DEPOSITOR = """
import asyncio, importlib, sys
from ensue.errors import StoreConflict
from ensue.message import OutboxRecord
from ensue.ports import Store, Table

ACCOUNTS = Table("conformance_account", ("id", "balance"), "id")

async def deposit(factory: str, url: str, name: str, count: int) -> None:
    module, function = factory.split(":")
    store = getattr(importlib.import_module(module), function)(url, "orders")
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    number = 0
    while number < count:
        try:
            async with store.transaction() as transaction:
                [(account, balance)] = await transaction.load_rows(ACCOUNTS, ["a"])
                await transaction.update_rows(ACCOUNTS, [(account, balance + 1)])
                if store.capabilities.publishes:
                    deposited = OutboxRecord("orders", 0, "a", b"{}", str(balance + 1).encode())
                    own = OutboxRecord("orders", number % 2 + 1, name, b"{}", f"{name}:{number}".encode())
                    await transaction.outbox_add([deposited, own])
            number += 1
        except StoreConflict:
            assert not store.capabilities.locks
    await store.close()

asyncio.run(deposit(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


def held(table: LeaseTable) -> Mapping[str, str]:
    return {lease.name: lease.owner for lease in table.leases}


class Working(StoreSuite):
    # --- leases

    async def test_a_free_lease_is_taken_kept_and_given_up(self, store: Store, other: Store) -> None:
        table = await self.books(store).heartbeat("one", LONG_S, ["p/0", "p/1"], [])
        assert held(table) == {"p/0": "one", "p/1": "one"}
        assert table.workers == ("one",)
        assert all(0 < lease.expires_in_s <= LONG_S for lease in table.leases)
        table = await self.books(other).heartbeat("two", LONG_S, ["p/1", "p/2"], [])
        assert held(table) == {"p/0": "one", "p/1": "one", "p/2": "two"}, "a lease was taken from one who lives"
        assert set(table.workers) == {"one", "two"}
        await self.books(other).heartbeat("two", LONG_S, [], ["p/0"])  # not its own to give up
        table = await self.books(store).heartbeat("one", LONG_S, [], ["p/1"])
        assert held(table) == {"p/0": "one", "p/2": "two"}
        assert held(await self.books(other).heartbeat("two", LONG_S, ["p/1"], []))["p/1"] == "two"

    async def test_of_workers_that_want_one_lease_at_once_exactly_one_gets_it(self, store: Store, other: Store) -> None:
        workers = [f"worker-{number}" for number in range(8)]
        for round_ in range(5):
            names = [f"{round_}/{number}" for number in range(3)]
            async with asyncio.timeout(self.patience_s):
                tables = await asyncio.gather(
                    *(
                        self.books(other if number % 2 else store).heartbeat(worker, LONG_S, names, [])
                        for number, worker in enumerate(workers)
                    )
                )
            for name in names:
                owners = {worker for worker, table in zip(workers, tables, strict=True) if held(table)[name] == worker}
                assert len(owners) == 1, f"{name} was given to {sorted(owners)}"

    async def test_a_lease_that_ran_out_goes_to_whoever_asks(self, store: Store) -> None:
        await self.books(store).heartbeat("one", 0.05, ["p/0"], [])
        async with asyncio.timeout(self.patience_s):
            while held(table := await self.books(store).heartbeat("two", LONG_S, ["p/0"], [])) != {"p/0": "two"}:
                assert held(table) == {"p/0": "one"}
                await asyncio.sleep(0.01)
        assert table.workers == ("two",)
        table = await self.books(store).heartbeat("one", LONG_S, ["p/0"], [])
        assert held(table) == {"p/0": "two"}, "who came too late has lost it"

    async def test_a_heartbeat_renews_what_a_worker_holds(self, store: Store) -> None:
        await self.books(store).heartbeat("one", 0.05, ["p/0"], [])
        table = await self.books(store).heartbeat("one", LONG_S, [], [])
        assert held(table) == {"p/0": "one"}
        assert table.leases[0].expires_in_s > 1
        assert held(await self.books(store).heartbeat("two", LONG_S, ["p/0"], [])) == {"p/0": "one"}

    async def test_a_lease_from_before_the_clock_was_set_back_is_cut_down(self, store: Store) -> None:
        """Else nobody takes the work of a worker that is gone until the clock is where it was. Here the dead worker
        asked for longer than the living one, which leaves the same behind as a clock does."""
        await self.books(store).heartbeat("dead", LONG_S, ["p/0"], [])
        table = await self.books(store).heartbeat("live", 0.05, ["p/0"], [])
        assert all(lease.expires_in_s <= 0.06 for lease in table.leases), table
        async with asyncio.timeout(self.patience_s):
            while (await self.books(store).leases()).leases:  # noqa: ASYNC110  # the database's clock has no event
                await asyncio.sleep(0.01)
        table = await self.books(store).heartbeat("live", LONG_S, ["p/0"], [])
        assert (table.workers, held(table)) == (("live",), {"p/0": "live"})

    async def test_who_resigns_leaves_everything_to_others(self, store: Store) -> None:
        await self.books(store).heartbeat("one", LONG_S, ["p/0", "p/1"], [])
        await self.books(store).heartbeat("two", LONG_S, ["p/2"], [])
        await self.books(store).resign("one")
        table = await self.books(store).heartbeat("two", LONG_S, ["p/0"], [])
        assert held(table) == {"p/0": "two", "p/2": "two"}
        assert table.workers == ("two",)
        await self.books(store).resign("nobody")

    async def test_what_a_dead_worker_held_is_suspect_until_the_next_one_has_come_past_it(self, store: Store) -> None:
        await self.books(store).heartbeat("dead", LONG_S, ["p/0", "p/1"], [])
        assert (await self.books(store).bury("dead")).suspects == ("p/0", "p/1")
        table = await self.books(store).heartbeat("live", LONG_S, ["p/0"], [])
        assert (held(table), table.suspects) == ({"p/0": "live"}, ("p/0", "p/1"))
        table = await self.books(store).heartbeat("live", LONG_S, [], [], cleared=["p/0"])
        assert table.suspects == (await self.books(store).leases()).suspects == ("p/1",)

    async def test_what_is_attempted_is_there_for_the_next_worker(self, store: Store) -> None:
        first, second = (Partition("orders", "p", number) for number in (0, 1))
        attempt = Attempt(target="7", alone=True, deaths={"7": 2})
        assert await self.books(store).attempt(first) == Attempt()
        for partition in (first, second):
            await self.books(store).save_attempts([(partition, Attempt(target="3"))])
        await self.books(store).save_attempts([(first, attempt)])
        assert await self.books(store).attempt(first) == attempt
        await self.books(store).forget_attempt(second)
        assert await self.books(store).attempt(second) == Attempt()
        await self.books(store).heartbeat("one", LONG_S, ["p/0"], [])
        assert held(await self.books(store).leases()) == {"p/0": "one"}, "it lies in the same table"

    async def test_looking_at_leases_takes_none(self, store: Store) -> None:
        assert await self.books(store).leases() == LeaseTable((), ())
        await self.books(store).heartbeat("one", LONG_S, ["p/0"], [])
        for _ in range(2):
            table = await self.books(store).leases()
            assert (table.workers, held(table)) == (("one",), {"p/0": "one"})
        await self.books(store).heartbeat("short", 0.01, ["p/1"], [])
        await self.books(store).heartbeat("one", LONG_S, [], [])
        async with asyncio.timeout(self.patience_s):
            while "p/1" in held(await self.books(store).leases()):  # noqa: ASYNC110  # the database's clock has no event
                await asyncio.sleep(0.01)
        assert (await self.books(store).leases()).workers == ("one",)

    # --- open and close

    async def test_opening_and_closing_are_safe_to_repeat(self) -> None:
        store = await self.make_store()
        await store.close()
        assert not await store.exists()
        await store.open()
        await store.open()
        assert await store.exists()
        async with store.transaction() as transaction:
            await self.leave(transaction, "here")
        await store.close()
        await store.close()

    async def test_closing_waits_for_the_step_that_is_open(self) -> None:
        store = await self.make_store()
        await store.open()
        async with store.transaction() as transaction:
            await self.leave(transaction, "here")
            closing = asyncio.create_task(store.close())
            for _ in range(3):
                await asyncio.sleep(0)
        async with asyncio.timeout(self.patience_s):
            await closing
        if self.capabilities.survives_restart:
            async with self.opened() as again:
                assert await self.traces(again) == ["here"]

    async def test_what_was_committed_is_there_after_close_and_open(self) -> None:
        self.needs("survives_restart")
        async with self.opened() as store:
            async with store.transaction() as transaction:
                await self.do_everything(store, transaction)
            if self.capabilities.publishes:
                await self.books(store).save_relay_position(store.source, 1)
            source, before = store.source, await self.everything(store)
        async with self.opened() as store:
            assert store.source == source
            assert await self.everything(store) == before
            assert (await self.books(store).checkpoint(PARTITION)).watermarks == {SOURCE: 2}
            assert len(await self.books(store).letters()) == 1
            assert await self.balance(store) == 1
            if self.capabilities.publishes:
                assert await self.books(store).relay_position() == 1
                await self.publish(store, record("three"))
                check_chain(await self.everything(store))

    async def test_stores_that_open_a_new_database_at_once_agree_on_its_source(self) -> None:
        self.needs("several_processes")
        stores = [await self.make_store() for _ in range(4)]
        try:
            async with asyncio.timeout(self.patience_s):
                await asyncio.gather(*(store.open() for store in stores))
            assert len({store.source for store in stores}) == 1
        finally:
            for store in stores:
                await store.close()

    async def test_an_own_table_that_is_made_later_keeps_its_rows_whoever_makes_it_again(
        self, store: Store, other: Store
    ) -> None:
        """As a newer Ensue does beside an older one, and several processes of it at once."""
        [by_place] = LATER.lookups
        await store.make_own([LATER])
        async with store.transaction() as transaction:
            await transaction.insert_rows(LATER, [("b", 1, "here"), ("a", 1, "here")])
        async with asyncio.timeout(self.patience_s):
            await asyncio.gather(*(each.make_own([LATER, EVEN_LATER]) for each in (store, other, store, other)))
        async with other.transaction() as transaction:
            assert [tuple(row) for row in await transaction.load_rows(LATER, ["a"])] == [("a", 1, "here")]
            await transaction.update_rows(LATER, [("a", 2, "here")], expect=[1])
            await transaction.insert_rows(EVEN_LATER, [("c", 1, "there")])
        assert [row[0] for row in await store.rows().find(LATER, by_place, ["here"], limit=10)] == ["a", "b"]
        assert len(await store.rows().get(EVEN_LATER, ["c"])) == 1

    async def test_creating_tables_is_safe_to_repeat(self, store: Store) -> None:
        self.needs("sessions")
        await self.put(store, ACCOUNTS, [("a", 1)])
        await store.create_tables(METADATA)
        assert await self.balance(store) == 1


class Racing(Publishing):
    async def test_racing_processes_lose_no_update_and_a_follower_misses_nothing(self, store: Store) -> None:
        """Three processes deposit into one account while this one follows the outbox."""
        self.needs("several_processes")
        processes, count = 3, 40
        await self.put(store, ACCOUNTS, [("a", 0)])
        children = [await self._depositor(str(number), count) for number in range(processes)]
        try:
            for child in children:
                assert child.stdout is not None
                assert child.stdin is not None
                async with asyncio.timeout(6 * self.patience_s):
                    assert await child.stdout.readline() == b"ready\n", "the process could not open the store"
            for child in children:
                assert child.stdin is not None
                child.stdin.write(b"go\n")
            async with asyncio.timeout(6 * self.patience_s):
                seen = await follow(store, 2 * processes * count) if self.capabilities.publishes else ()
                assert [await child.wait() for child in children] == [0] * processes
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                await child.communicate()
        assert await self.balance(store) == processes * count
        if not self.capabilities.publishes:
            return
        assert await self.everything(store) == seen, "a record appeared below one that had been read"
        check_chain(seen)
        of_the_entity = [each for each in seen if each.key == "a"]
        assert texts(of_the_entity) == [str(number + 1) for number in range(processes * count)]
        for number in range(processes):
            own = [text for text in texts(seen) if text.startswith(f"{number}:")]
            assert own == [f"{number}:{each}" for each in range(count)]

    async def _depositor(self, name: str, count: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", _DEPOSITOR, self.factory, self.url, name, str(count),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
