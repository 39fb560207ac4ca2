"""A Redis server that comes back with nothing, or with less: rows and checkpoints went together, so the view is filled
again from the log and nothing is counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from servers import RedisServer
from tests.unit.stores.views import LIMIT_S, running

from ensue.engine.books import Books
from ensue.errors import CheckpointConflict, RetryableError, RowConflict, StoreUnavailable, UsageError
from ensue.message import Checkpoint, Partition
from ensue.ports import Lookup, Table
from ensue.stores.redis import RedisStore

Start = Callable[..., RedisServer]


async def test_a_server_that_comes_back_empty_is_filled_again_without_a_new_event(tmp_path: Path, start: Start) -> None:
    server = start(RedisServer)
    async with running(tmp_path, lambda: RedisStore(server.url(), "totals")) as pair:
        await pair.deposit(700)
        await pair.until_the_view_is_right()
        server.kill()
        await pair.deposit(30)  # the ledger knows nothing of it
        server.start()
        await pair.until_the_view_is_right()
        server.kill()
        server.start()  # and now nothing new will come
        await pair.until_the_view_is_right()
        assert await pair.totals.context.books.letters() == []


async def test_a_server_that_comes_back_older_is_brought_up_to_date_again(tmp_path: Path, start: Start) -> None:
    server = start(RedisServer, durable=True)
    async with running(tmp_path, lambda: RedisStore(server.url(), "totals")) as pair:
        await pair.deposit(100)
        await pair.until_the_view_is_right()
        server.stop()
        server.save_data("older")
        server.start()
        await pair.until_the_view_is_right()
        await pair.deposit(41)
        await pair.until_the_view_is_right()
        server.kill()
        server.restore_data("older")
        server.start()
        await pair.until_the_view_is_right()


async def test_a_durable_server_keeps_what_it_acknowledged(tmp_path: Path, start: Start) -> None:
    server = start(RedisServer, durable=True)
    async with running(tmp_path, lambda: RedisStore(server.url(), "totals")) as pair:
        await pair.deposit(100)
        await pair.until_the_view_is_right()
        revisions = {name: each.revision for name, each in (await pair.totals.context.books.checkpoints()).items()}
        server.kill()
        server.start()
        await pair.until_the_view_is_right()
        found = await pair.totals.context.books.checkpoints()
        assert all(found[name].revision >= revision > 0 for name, revision in revisions.items())


async def test_what_a_worker_remembers_of_a_life_that_the_server_forgot_is_refused(start: Start) -> None:
    """One worker goes on from a checkpoint that the server forgot; another has gone on from the one before it."""
    server = start(RedisServer, durable=True)
    partition = Partition("view", "savings", 0)
    zombie, other = RedisStore(server.url(), "view"), RedisStore(server.url(), "view")
    await zombie.open()
    await other.open()
    try:

        async def save(store: RedisStore, offset: int, revision: int = 0) -> int:
            async with store.transaction() as transaction:
                checkpoint = Checkpoint(offset=offset, revision=revision, watermarks={"a/1": offset})
                return await Books(store, "view").save_checkpoint(transaction, partition, checkpoint)

        first = await save(zombie, 5)
        server.stop()
        server.save_data("older")
        server.start()
        forgotten = await save(zombie, 9, first)
        server.kill()
        server.restore_data("older")
        server.start()
        second = await save(other, 7, first)
        assert second != forgotten, "two lives must not come to one revision"
        with pytest.raises((CheckpointConflict, RowConflict)):
            await save(zombie, 12, forgotten)
        assert (await Books(other, "view").checkpoint(partition)).watermarks == {"a/1": 7}
    finally:
        await zombie.close()
        await other.close()


async def test_a_server_that_is_down_is_unavailable_and_then_is_not(start: Start) -> None:
    server = start(RedisServer)
    store = RedisStore(server.url(), "view")
    await store.open()
    try:
        server.kill()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            async with store.transaction():
                pass
        server.start()
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    assert await Books(store, "view").checkpoints() == {}
                    break
                except RetryableError:
                    await asyncio.sleep(0.01)
    finally:
        server.kill()
        await store.close()  # even then


async def test_a_server_that_throws_keys_away_is_refused(start: Start) -> None:
    server = start(RedisServer)
    store = RedisStore(server.url(), "view")
    await store.open()
    await store._opened().command("CONFIG", "SET", "maxmemory", "100mb")
    await store._opened().command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await store.close()
    with pytest.raises(UsageError, match="maxmemory-policy is allkeys-lru"):
        await store.open()


async def test_a_table_that_is_declared_otherwise_now_is_refused(start: Start) -> None:
    server = start(RedisServer)
    store = RedisStore(server.url(), "view")
    await store.open()
    try:
        async with store.transaction() as transaction:
            await transaction.insert_rows(Table("t", ("id", "a"), "id"), [("x", 1)])
        with pytest.raises(UsageError, match="other columns or lookups"):
            await store.rows().get(Table("t", ("id", "a"), "id", (Lookup((), ("a", "id")),)), ["x"])
        with pytest.raises(UsageError, match="a row holds object"):
            async with store.transaction() as transaction:
                await transaction.insert_rows(Table("t", ("id", "a"), "id"), [("y", object())])
    finally:
        await store.close()


async def test_a_wrong_url_says_what_is_wrong_and_shows_no_password(start: Start) -> None:
    server = start(RedisServer)
    for url, text in (
        (server.url() + "x", "expected a database number"),
        (f"redis://:secret@127.0.0.1:{server.port}/0", "password|AUTH"),
        (f"redis://127.0.0.1:{server.port}/99", "DB index"),
    ):
        with pytest.raises(UsageError, match=text) as caught:
            await RedisStore(url, "view").open()
        assert "secret" not in str(caught.value)


def tell(server: RedisServer, *words: str) -> None:
    with Redis.from_url(server.url()) as client:
        client.execute_command(*words)


async def test_a_server_that_became_a_replica_or_is_full_is_waited_for(start: Start) -> None:
    server = start(RedisServer)
    store = RedisStore(server.url(), "view")
    await store.open()
    try:
        for set_up, undo in (
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),  # READONLY, as after a failover
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),  # OOM
        ):
            tell(server, *set_up)
            with pytest.raises(StoreUnavailable, match="cannot serve now"):
                await store.new_epoch(0, store.source)
            tell(server, *undo)
            await store.new_epoch(0, store.source)
    finally:
        await store.close()


async def test_a_right_that_is_missing_is_the_operators(start: Start) -> None:
    server = start(RedisServer)
    tell(server, "ACL", "SETUSER", "anna", "on", ">s3cret", "~*", "+@all", "-hset")
    store = RedisStore(f"redis://anna:s3cret@127.0.0.1:{server.port}/0", "view")
    await store.open()
    try:
        with pytest.raises(UsageError, match="check the user's rights"):
            await store.new_epoch(0, store.source)
    finally:
        await store.close()
