"""Mode `poll` on PostgreSQL: what was read and not kept leaves no trace, and holes are what the rule says they are."""

from __future__ import annotations

import asyncio

import pytest
from servers import PostgresServer

from ensue.conformance.store_suite import SERVICE, check_chain, record, texts
from ensue.stores.postgres import PostgresStore
from ensue.stores.postgres.by_stamp import LOCK
from ensue.stores.postgres.polled import PolledOutbox
from ensue.stores.sql.link import Link

DATABASE = "polled"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
HOLES = "SELECT seen_id, hole_first, hole_last FROM ensue_polled"


@pytest.fixture(params=["postgresql", "postgresql+psycopg"])
def url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    url = postgres_server.url(DATABASE, request.param)
    postgres_server.psql(DATABASE, "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return url


async def opened(url: str) -> tuple[PostgresStore, PolledOutbox]:
    store = PostgresStore(url, SERVICE)
    await store.open()
    outbox = store._open().outbox
    assert isinstance(outbox, PolledOutbox)
    return store, outbox


async def publish(store: PostgresStore, *names: str, partition: int = 0) -> None:
    async with store.transaction() as transaction:
        await transaction.outbox_add([record(name, partition=partition) for name in names])


async def test_what_was_stamped_and_rolled_back_is_in_nobody_s_chain(url: str) -> None:
    """The heads of partitions are remembered: not those of a transaction that came to nothing."""
    store, outbox = await opened(url)
    await publish(store, "1")
    first = list(await store.outbox_after(0, 10))
    await publish(store, "2", "3")

    async def in_vain(link: Link) -> None:
        await outbox._stamp_all(link)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store._open().relay_pool.run(in_vain)
    rest = list(await store.outbox_after(first[-1].position, 10))
    assert texts([*first, *rest]) == ["1", "2", "3"]
    assert [each.position for each in rest] == [2, 3]
    check_chain([*first, *rest])
    await store.close()


async def test_a_stamp_that_waits_behind_one_that_is_rolled_back_keeps_the_chain(
    url: str, postgres_server: PostgresServer
) -> None:
    """It gives fewer positions than the other had, so that what that one remembered would be wrong."""
    store, outbox = await opened(url)
    await publish(store, "1")
    await publish(store, "2", partition=1)
    begun, go = asyncio.Event(), asyncio.Event()

    async def in_vain(link: Link) -> None:
        await link.fetch(LOCK)
        begun.set()
        await go.wait()
        await outbox._stamp_all(link)
        raise ZeroDivisionError

    other = asyncio.create_task(store._open().relay_pool.run(in_vain))
    await begun.wait()
    waiting = asyncio.create_task(store.outbox_after(0, 1))
    async with asyncio.timeout(30):
        while postgres_server.psql(DATABASE, WAITING) != "1":  # noqa: ASYNC110  # the server does not tell
            await asyncio.sleep(0.02)
        go.set()
        with pytest.raises(ZeroDivisionError):
            await other
        found = list(await waiting)
        await publish(store, "3", partition=1)
        found += await store.outbox_after(found[-1].position, 10)
    assert texts(found) == ["1", "2", "3"]
    check_chain(found)
    await store.close()


async def test_what_was_rolled_back_is_a_hole_until_those_who_were_open_have_ended(
    url: str, postgres_server: PostgresServer
) -> None:
    store, _ = await opened(url)

    def holes() -> str:
        return postgres_server.psql(DATABASE, HOLES)

    async with store.transaction() as late:
        await late.outbox_add([record("late")])  # id 1
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # what a step did before it raised belongs into the block
            async with store.transaction() as transaction:
                await transaction.outbox_add([record("never"), record("never")])  # ids 2 and 3
                raise ZeroDivisionError
        await publish(store, "soon")
        assert texts(await store.outbox_after(0, 10)) == ["soon"]
        assert holes() == "4|{1}|{3}"
        await publish(store, "next")
        assert texts(await store.outbox_after(1, 10)) == ["next"]
        assert holes() == "5|{1}|{3}"  # the late one is still open
    assert texts(await store.outbox_after(2, 10)) == ["late"]
    assert holes() == "5|{}|{}"  # nobody is left who could fill the rest
    assert texts(await store.outbox_after(0, 10)) == ["soon", "next", "late"]
    await store.close()
