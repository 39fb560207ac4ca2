"""From one outbox mode to another on a running system: each event is read exactly once, by whichever mode."""

# what led to the error belongs into the block
from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from servers import PostgresServer
from tests.unit.stores.test_postgres_tail_order import PATIENCE_S, follow, opened, publish
from tests.unit.stores.test_postgres_tail_stamps import connected, entries

from ensue.conformance.store_suite import SERVICE, check_chain, record, texts
from ensue.engine.books import Books
from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.postgres import PostgresStore, left_slot, tail_setup
from ensue.stores.postgres.by_stamp import Switched
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_access import make_access
from ensue.stores.postgres.tail_slot import create_slot
from ensue.stores.postgres.tail_stamp import Overtaken, Stamper
from ensue.stores.postgres.url import parse

BOTH_WAYS = pytest.mark.parametrize(("old", "new"), [("poll", "wal"), ("wal", "poll")])
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
STAMPED = "SELECT coalesce(sum(cardinality(ids)), 0) FROM ensue_stamp"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"tail_{uuid.uuid4().hex[:12]}"
    yield name
    postgres_server.drop(name)


async def all_sent(store: PostgresStore, total: int, after: int = 0) -> list[str]:
    """Read as the relay does, and say that it is in the log."""
    found = await follow(store, total, after)
    await Books(store, SERVICE).save_relay_position(store.source, found[-1].position)
    if not after:
        check_chain(found)
    return texts(found)


@BOTH_WAYS
async def test_a_switch_waits_until_all_is_sent_then_begins_an_epoch_and_repeats_nothing(
    postgres_server: PostgresServer, database: str, old: str, new: str
) -> None:
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + old) as store:
        await publish(store, "1", "2")
        source = store.source
        assert await all_sent(store, 2) == ["1", "2"]
        last = await Books(store, SERVICE).relay_position()
        await publish(store, "3")
    with pytest.raises(UsageError, match=f"outbox={old}"):
        async with opened(url + new):
            pass
    async with opened(url + old) as store:
        assert store.source == source
        assert await all_sent(store, 1, last) == ["3"]
    async with opened(url + new) as store:
        assert store.source != source, "positions of another kind are another source's"
        assert list(await store.outbox_after(0, 10)) == []
        await publish(store, "4")
        await publish(store, "5")
        assert await all_sent(store, 2) == ["4", "5"]
        source = store.source
    assert postgres_server.psql(database, SLOTS) == ("0" if new == "poll" else "1")
    async with opened(url + old) as store:  # and back
        assert store.source != source
        await publish(store, "6")
        assert await all_sent(store, 1) == ["6"]
    assert postgres_server.psql(database, SLOTS) == ("0" if old == "poll" else "1")


@BOTH_WAYS
async def test_a_step_that_is_open_during_the_switch_is_read_by_the_new_mode(
    postgres_server: PostgresServer, database: str, old: str, new: str
) -> None:
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + old) as store:
        await publish(store, "1")
        await all_sent(store, 1)
        switched = PostgresStore(url + new, store.service)
        async with store.transaction() as transaction:
            await transaction.outbox_add([record("open")])
            await store._opened.outbox.close()  # type: ignore[union-attr]  # its relay has stopped, its steps go on
            switching = asyncio.create_task(switched.open())
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    if postgres_server.psql(database, "SELECT outbox_mode FROM ensue_meta") == new:
                        break
                    await asyncio.sleep(0.02)
        async with asyncio.timeout(PATIENCE_S):
            await switching
        try:
            assert texts(await follow(switched, 1)) == ["open"]
            await publish(store, "late")
            assert texts(await follow(switched, 2)) == ["open", "late"]
        finally:
            await switched.close()


async def test_a_relay_of_the_old_mode_cannot_give_positions_after_the_switch(
    postgres_server: PostgresServer, database: str
) -> None:
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + "poll") as old, opened(url + "wal") as store:
        await publish(old, "1")
        with pytest.raises(StoreUnavailable, match="outbox=wal"):
            await old.outbox_after(0, 10)
        assert texts(await follow(store, 1)) == ["1"]


async def test_a_tail_that_goes_on_after_the_switch_lets_go_of_its_slot_and_gives_no_positions(
    postgres_server: PostgresServer, database: str
) -> None:
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + "wal") as old:
        await publish(old, "1")
        await all_sent(old, 1)
        async with opened(url + "poll") as store:
            assert postgres_server.psql(database, SLOTS) == "0", "kept for nobody, it would keep the log"
            await publish(old, "2")
            await publish(store, "3")
            with pytest.raises(StoreUnavailable, match="outbox=poll"):
                await old.outbox_after(1, 10)
            found = await follow(store, 2)
            assert texts(found) == ["2", "3"]
            check_chain(found)
            assert postgres_server.psql(database, SLOTS) == "0"
            assert postgres_server.psql(database, STAMPED) == "2", "each has one position"


async def test_a_stamp_of_the_log_that_waits_while_the_mode_is_switched_comes_to_nothing(
    postgres_server: PostgresServer, database: str
) -> None:
    """It has waited for the counter's lock; what it had compared besides the counter is as old as its beginning."""
    url = postgres_server.url(database)
    async with opened(url + "?outbox=wal"), connected(url) as tail, connected(url) as other:
        stamper = Stamper(tail)
        await stamper.load()
        async with other.transaction():
            await other.execute("SELECT FROM ensue_counter FOR UPDATE")
            keeping = asyncio.create_task(stamper.keep(entries(1000, 1)))
            async with asyncio.timeout(PATIENCE_S):
                while postgres_server.psql(database, WAITING) != "1":  # noqa: ASYNC110  # the server does not tell
                    await asyncio.sleep(0.02)
            await other.execute("UPDATE ensue_meta SET outbox_mode = 'poll'")
            await other.execute("UPDATE ensue_tail SET leaving = slot, slot = ''")
            await other.execute("UPDATE ensue_counter SET epoch = 'another'")
        with pytest.raises(Overtaken):
            await keeping
        with pytest.raises(Switched, match="outbox=poll"):
            await stamper.load()
    assert postgres_server.psql(database, STAMPED) == "0"


async def test_a_slot_that_was_about_to_begin_when_the_mode_was_switched_gives_no_positions(
    postgres_server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.url(database)
    access = make_access(parse(url))

    async def late(connection: ReplicationConnection, slot: str) -> None:
        postgres_server.psql(database, "UPDATE ensue_meta SET outbox_mode = 'poll'")
        await create_slot(connection, slot)

    async with opened(url) as store:
        await publish(store, "1")
        postgres_server.psql(database, "UPDATE ensue_meta SET outbox_mode = 'wal'")
        monkeypatch.setattr(tail_setup, "create_slot", late)
        with pytest.raises(Switched):
            await tail_setup.ensure(access, store.service)
        assert postgres_server.psql(database, SLOTS) == "0"
        found = await follow(store, 1)
        assert (texts(found), found[0].position) == (["1"], 1)


async def test_a_slot_that_somebody_still_reads_is_told_of_and_dropped_at_the_next_start(
    postgres_server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_slot, "PATIENCE_S", 0.0)
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + "wal") as old:
        await publish(old, "1")
        await all_sent(old, 1)
        async with opened(url + "poll") as store:
            [line] = [line for line in await store.warnings() if "replication slot" in line]
            assert "still reads it" in line
    async with opened(url + "poll") as store:
        assert not [line for line in await store.warnings() if "replication slot" in line]
    assert postgres_server.psql(database, SLOTS) == "0"


async def test_an_outbox_of_a_mode_that_there_is_not_is_left_alone(
    postgres_server: PostgresServer, database: str
) -> None:
    url = postgres_server.url(database)
    async with opened(url) as store:
        await publish(store, "1")
    postgres_server.psql(database, "UPDATE ensue_meta SET outbox_mode = 'messages'")
    with pytest.raises(UsageError, match="'messages', which this version of Ensue cannot"):
        async with opened(url):
            pass
    assert postgres_server.psql(database, "SELECT outbox_mode FROM ensue_meta") == "messages"
