"""What the log of a PostgreSQL server says about order, against the server: late commits, rollbacks, opposite ids."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from servers import PostgresServer

from ensue.conformance.store_suite import (
    ACCOUNTS,
    METADATA,
    SERVICE,
    Undo,
    check_chain,
    positions,
    record,
    texts,
)
from ensue.message import OutboxRecord
from ensue.ports import Store
from ensue.stores.postgres import PostgresStore

PATIENCE_S = 30.0


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"tail_{uuid.uuid4().hex[:12]}"
    yield f"{postgres_server.url(name)}?outbox=wal"
    postgres_server.drop(name)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, SERVICE)
    async with asyncio.timeout(PATIENCE_S):
        await store.open()
    try:
        await store.create_tables(METADATA)
        yield store
    finally:
        await store.close()


async def publish(store: Store, *data: str, partition: int = 0) -> None:
    async with store.transaction() as transaction:
        await transaction.outbox_add([record(each, partition=partition) for each in data])


async def follow(store: Store, total: int, after: int = 0) -> Sequence[OutboxRecord]:
    """Read as a relay does until there are `total` records."""
    seen: list[OutboxRecord] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < total:
            found = await store.outbox_after(seen[-1].position if seen else after, 500)
            seen += found
            if not found:
                await store.outbox_wait(1.0)
    return seen


async def test_a_commit_that_comes_late_gets_a_later_position(url: str) -> None:
    async with opened(url) as store:
        async with store.transaction() as late:
            await late.outbox_add([record("late")])
            await publish(store, "early")
            before = await store.outbox_after(0, 10)
            assert texts(before) == ["early"], "an open transaction delays nobody"
        found = await follow(store, 2)
        assert texts(found) == ["early", "late"]
        assert found[0] == before[0]
        check_chain(found)


async def test_what_is_rolled_back_takes_no_position(url: str) -> None:
    async with opened(url) as store:
        await publish(store, "1")
        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                await transaction.outbox_add([record(str(number)) for number in range(100)])
                raise Undo
        await publish(store, "2")
        assert positions(await follow(store, 2)) == [1, 2]


async def test_two_steps_on_one_entity_keep_their_commit_order_against_that_of_their_transaction_ids(url: str) -> None:
    async with opened(url) as store:
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("entity", 0), ("other", 0)])
        async with store.transaction() as first:
            await first.update_rows(ACCOUNTS, [("other", 1)])  # takes its transaction id before the second does
            async with store.transaction() as second:
                await second.load_rows(ACCOUNTS, ["entity"])
                await second.update_rows(ACCOUNTS, [("entity", 1)])
                await second.outbox_add([record("second by id", key="entity")])
            await first.load_rows(ACCOUNTS, ["entity"])
            await first.update_rows(ACCOUNTS, [("entity", 2)])
            await first.outbox_add([record("first by id", key="entity")])
        assert texts(await follow(store, 2)) == ["second by id", "first by id"]


async def test_a_step_held_open_delays_no_event_and_is_named_when_asked_what_holds_back(
    url: str, postgres_server: PostgresServer
) -> None:
    async with opened(url) as store, store.transaction() as held:
        await held.insert_rows(ACCOUNTS, [("held", 0)])
        await held.outbox_add([record("held")])
        for number in range(50):
            await publish(store, str(number))
            found = await follow(store, 1, after=number)
            assert texts(found) == [str(number)]
        assert texts(await store.outbox_after(0, 100)) == [str(number) for number in range(50)]


async def test_a_step_with_many_thousand_events_is_one_run_of_positions(url: str) -> None:
    async with opened(url) as store:
        async with store.transaction() as transaction:
            await transaction.outbox_add([record(str(number), partition=number % 7) for number in range(15_000)])
        found = await follow(store, 15_000)
        assert texts(found) == [str(number) for number in range(15_000)]
        assert positions(found) == list(range(1, 15_001))
        check_chain(found)
        assert await store.outbox_after(0, 20_000) == found


async def test_a_restart_finds_the_same_positions_and_goes_on_after_them(url: str) -> None:
    async with opened(url) as store:
        await publish(store, "1", "2")
        before = await follow(store, 2)
        await publish(store, "3")  # stamped or not when it stops: nobody has read it
    async with opened(url) as store:
        await publish(store, "4")
        found = await follow(store, 4)
        assert found[:2] == before
        assert texts(found) == ["1", "2", "3", "4"]
        check_chain(found)


async def test_what_is_committed_while_nobody_reads_comes_when_somebody_does(url: str) -> None:
    async with opened(url) as store:
        for number in range(20):
            await publish(store, str(number))
    async with opened(url) as store:
        assert texts(await follow(store, 20)) == [str(number) for number in range(20)]


async def test_two_relays_at_once_give_and_see_the_same_positions(url: str) -> None:
    async with opened(url) as store, opened(url) as other:

        async def write() -> None:
            for number in range(60):
                await publish(store if number % 2 else other, str(number))

        async with asyncio.TaskGroup() as group:
            one, two = group.create_task(follow(store, 60)), group.create_task(follow(other, 60))
            group.create_task(write())
        assert one.result() == two.result()
        assert positions(one.result()) == list(range(1, 61))


async def test_when_the_reader_of_the_slot_stops_another_takes_over(url: str) -> None:
    async with opened(url) as store:
        async with opened(url) as first:
            await publish(first, "1")
            await follow(first, 1)
            assert texts(await follow(store, 1)) == ["1"]
        await publish(store, "2")
        assert texts(await follow(store, 2)) == ["1", "2"]


async def test_a_read_that_is_cancelled_leaves_nothing_behind(url: str) -> None:
    async with opened(url) as store:
        await publish(store, *map(str, range(10)))
        for number in range(40):
            reading = asyncio.create_task(store.outbox_after(0, 5))
            await asyncio.sleep(number * 0.0005)
            reading.cancel()
            await asyncio.wait([reading])
        assert texts(await follow(store, 10)) == list("0123456789")
