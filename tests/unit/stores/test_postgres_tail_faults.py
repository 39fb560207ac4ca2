"""A tail of PostgreSQL's log under faults: killed servers, slots dropped and invalidated, missing rights."""

# what led to the error belongs into the block
from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import PgBouncer, PostgresServer
from tests.unit.stores.test_postgres_tail_order import PATIENCE_S, follow, opened, publish

from ensue.conformance.store_suite import SERVICE, check_chain, positions, record, texts
from ensue.engine.books import Books
from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.postgres import PostgresStore, tail_setup
from ensue.stores.postgres.tail_slot import slot_name

Start = Callable[..., Any]
SLOT = "SELECT slot FROM ensue_tail"


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    name = f"tail_{uuid.uuid4().hex[:12]}"
    yield name
    postgres_server.drop(name)


async def again(store: PostgresStore, *data: str) -> None:
    """Publish, as often as it takes while the server comes back."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await publish(store, *data)
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def followed(store: PostgresStore, total: int, after: int = 0) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await follow(store, total, after)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


def drop_slot(server: PostgresServer, database: str) -> None:
    server.psql(
        database,
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = ({SLOT}) AND active",
    )
    for _ in range(200):  # its reader ends a moment later, or is back already
        try:
            server.psql(database, f"SELECT pg_drop_replication_slot(({SLOT}))")
            return
        except Exception as error:
            if "is active" not in str(error):
                raise
            server.psql(
                database,
                f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = ({SLOT})",
            )
    raise AssertionError("the slot could not be dropped")


async def test_a_server_killed_right_after_a_read_gives_out_the_same_positions_again(start: Start) -> None:
    """The stamps may be lost with the server's memory; the log is not."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    server = start(PostgresServer)
    async with opened(f"{server.url('orders')}?outbox=wal") as store:
        count = 0
        for _ in range(4):
            more = [str(count + number) for number in range(chance.randrange(1, 30))]
            for each in more:
                await again(store, each)
            count += len(more)
            seen = await followed(store, count)
            await asyncio.sleep(chance.random() * 0.3)
            server.kill()
            server.start()
            assert await followed(store, count) == seen
        assert texts(seen) == [str(number) for number in range(count)]
        assert positions(seen) == list(range(1, count + 1))
        check_chain(seen)


async def test_a_slot_dropped_under_a_running_tail_is_made_anew_and_loses_nothing(
    postgres_server: PostgresServer, database: str
) -> None:
    async with opened(f"{postgres_server.url(database)}?outbox=wal") as store:
        await publish(store, "1", "2")
        before = await follow(store, 2)
        drop_slot(postgres_server, database)
        await publish(store, "3")
        await publish(store, "4")
        found = await followed(store, 4)
        await publish(store, "5")
        found = await followed(store, 5)
        assert found[:2] == before
        assert texts(found) == ["1", "2", "3", "4", "5"]
        check_chain(found)


async def test_a_tail_that_is_cut_off_now_and_then_is_back_as_quickly_each_time(
    postgres_server: PostgresServer, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses had been doubled for as long as the process lived: after the seventh time each took five seconds."""
    async with opened(f"{postgres_server.url(database)}?outbox=wal") as store:
        for number in range(1, 5):
            await publish(store, str(number))
            await followed(store, number)
            postgres_server.psql(
                database,
                f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = ({SLOT})",
            )
        await publish(store, "5")
        await followed(store, 5)
    cut = [each.getMessage() for each in caplog.records if each.getMessage().startswith("tail of the log")]
    assert len(cut) == 4
    assert {each.rpartition("; ")[2] for each in cut} == {"again in 0.05 s"}


async def test_a_slot_that_fell_too_far_behind_is_made_anew_and_loses_nothing(start: Start) -> None:
    server = start(PostgresServer, settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"})
    url = f"{server.url('orders')}?outbox=wal"
    async with opened(url) as store:
        await publish(store, "1")
        before = await follow(store, 1)
    for _ in range(4):  # more log than the slot may keep, and nobody reads it
        server.psql("orders", "CREATE TABLE IF NOT EXISTS bulk (data text)")
        server.psql("orders", "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        server.psql("postgres", "SELECT pg_switch_wal()")
    server.psql("postgres", "CHECKPOINT")
    assert server.psql("orders", f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = ({SLOT})") == "lost"
    async with opened(url) as store:
        await publish(store, "2")
        found = await follow(store, 2)
        assert found[:1] == before
        check_chain(found)
    assert server.psql("orders", "SELECT count(*) FROM pg_replication_slots") == "1", "the lost one is gone"


async def test_a_store_held_by_a_standing_transaction_names_it(postgres_server: PostgresServer, database: str) -> None:
    async with opened(f"{postgres_server.url(database)}?outbox=wal") as store:
        await publish(store, "1")
        await follow(store, 1)
    store = PostgresStore(f"{postgres_server.url(database)}?outbox=wal", SERVICE)
    await store.open()  # nobody reads the slot yet
    try:
        assert store._opened is not None
        lines = await store._opened.relay_pool.read(store._opened.outbox.warnings)
        assert any("read by nobody" in line for line in lines)
        await follow(store, 1)
        lines = await store._opened.relay_pool.read(store._opened.outbox.warnings)
        assert not any("read by nobody" in line for line in lines)
    finally:
        await store.close()


# --- what must be set


async def test_a_server_without_logical_decoding_is_refused_with_what_to_set(start: Start) -> None:
    server = start(PostgresServer, settings={"wal_level": "replica"})
    with pytest.raises(UsageError, match="wal_level = logical"):
        async with opened(f"{server.url('orders')}?outbox=wal"):
            pass


async def test_a_user_who_may_not_replicate_is_told_what_to_grant(
    postgres_server: PostgresServer, database: str
) -> None:
    user = f"plain_{database}"
    url = postgres_server.url(database)
    postgres_server.psql(database, f"CREATE ROLE {user} LOGIN")
    postgres_server.psql(database, f"GRANT ALL ON DATABASE {database} TO {user}; GRANT ALL ON SCHEMA public TO {user}")
    try:
        with pytest.raises(UsageError, match="ALTER ROLE <user> REPLICATION"):
            async with opened(f"{url.replace('postgres@', f'{user}@')}?outbox=wal"):
                pass
    finally:
        postgres_server.psql(database, f"DROP OWNED BY {user} CASCADE")
        postgres_server.psql(database, f"DROP ROLE {user}")


async def test_a_user_with_nothing_but_the_right_to_replicate_is_enough(
    postgres_server: PostgresServer, database: str
) -> None:
    user = f"tailing_{database}"
    url = postgres_server.url(database)
    postgres_server.psql(database, f"CREATE ROLE {user} LOGIN REPLICATION")
    postgres_server.psql(database, f"GRANT ALL ON DATABASE {database} TO {user}; GRANT ALL ON SCHEMA public TO {user}")
    try:
        async with opened(f"{url.replace('postgres@', f'{user}@')}?outbox=wal") as store:
            await publish(store, "1", "2")
            assert texts(await follow(store, 2)) == ["1", "2"]
    finally:
        postgres_server.psql(database, f"DROP OWNED BY {user} CASCADE")
        postgres_server.psql(database, f"DROP ROLE {user}")


async def test_a_slot_waits_for_open_transactions_and_says_for_which(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(PostgresServer)
    url = server.url("orders")
    async with opened(url) as polled:
        await publish(polled, "1")
        found = await follow(polled, 1)
        await Books(polled, SERVICE).save_relay_position(polled.source, found[0].position)
        async with polled.transaction() as transaction:
            await transaction.outbox_add([record("held")])
            pid = server.psql("orders", "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL")
            monkeypatch.setattr(tail_setup, "CREATE_S", 0.5)
            with pytest.raises(StoreUnavailable, match=f"processes {pid} "):
                async with opened(f"{url}?outbox=wal"):
                    pass
        assert server.psql("orders", "SELECT count(*) FROM pg_replication_slots") == "0", "half a slot keeps the log"
        async with opened(f"{url}?outbox=wal") as store:
            assert texts(await follow(store, 1)) == ["held"]


async def test_a_slot_left_behind_by_a_process_that_was_killed_while_it_made_it_is_made_anew(
    postgres_server: PostgresServer, database: str
) -> None:
    url = postgres_server.url(database)
    async with opened(url) as store:
        await publish(store, "1")
        found = await follow(store, 1)
        await Books(store, SERVICE).save_relay_position(store.source, found[0].position)
        epoch = store.source.partition("/")[2]
    postgres_server.psql(database, "UPDATE ensue_meta SET outbox_mode = 'wal'")
    postgres_server.psql(
        database, f"SELECT pg_create_logical_replication_slot('{slot_name(SERVICE, epoch)}', 'pgoutput')"
    )
    async with opened(f"{url}?outbox=wal") as store:
        await publish(store, "2")
        assert texts(await follow(store, 1, after=1)) == ["2"]
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    assert postgres_server.psql(database, slots) == postgres_server.psql(database, SLOT)


async def test_through_a_pooler_the_tail_needs_the_servers_own_address(
    postgres_server: PostgresServer, pgbouncer_server: PgBouncer, database: str
) -> None:
    url = f"{pgbouncer_server.url(database)}?pgbouncer=1&outbox=wal"
    with pytest.raises(UsageError, match="replication_host"):
        async with opened(url):
            pass
    async with opened(f"{url}&replication_host=127.0.0.1&replication_port={postgres_server.port}") as store:
        await publish(store, "1", "2")
        assert texts(await follow(store, 2)) == ["1", "2"]
