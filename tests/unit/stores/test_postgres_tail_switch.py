"""From one outbox mode to another on a running system: each event is read exactly once, by whichever mode."""

# what led to the error belongs into the block
from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterator

import pytest
from servers import PostgresServer
from tests.unit.stores.test_postgres_tail_order import PATIENCE_S, follow, opened, publish

from ensue.conformance.store_suite import check_chain, record, texts
from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.postgres import PostgresStore

MODES = ("poll", "wal", "messages")
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"tail_{uuid.uuid4().hex[:12]}"
    yield name
    postgres_server.drop(name)


async def all_sent(store: PostgresStore, total: int, after: int = 0) -> list[str]:
    """Read as the relay does, and say that it is in the log."""
    found = await follow(store, total, after)
    await store.relay_save(found[-1].position)
    if not after:
        check_chain(found)
    return texts(found)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(MODES, 2)))
async def test_a_switch_waits_until_all_is_sent_then_begins_an_epoch_and_repeats_nothing(
    postgres_server: PostgresServer, database: str, old: str, new: str
) -> None:
    url = postgres_server.url(database) + "?outbox="
    async with opened(url + old) as store:
        await publish(store, "1", "2")
        source = store.source
        assert await all_sent(store, 2) == ["1", "2"]
        last = await store.relay_load()
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


@pytest.mark.parametrize(("old", "new"), [("messages", "poll"), ("messages", "wal"), ("wal", "poll"), ("poll", "wal")])
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
            if old == "messages":  # nobody would read it
                with pytest.raises(StoreUnavailable, match="switched"):
                    await publish(store, "late")
            else:
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
