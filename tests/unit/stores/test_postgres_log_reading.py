"""A database that keeps its text in another encoding: events come out as they went in, by polling and by its log."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import psycopg
import pytest
from servers import PostgresServer

from ensue.adapters import make_store
from ensue.conformance.store_suite import record
from ensue.errors import StoreUnavailable
from ensue.stores.postgres.replication import ReplicationConnection


@pytest.mark.parametrize("outbox", ["poll", "wal"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_keys_with_letters_beyond_ascii_are_published_from_a_latin1_database(
    postgres_server: PostgresServer, outbox: str, driver: str
) -> None:
    name = f"latin1_{outbox}_{driver}"
    postgres_server.psql(
        "postgres", f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    store: Any = make_store(postgres_server.url(name, f"postgresql+{driver}") + f"?outbox={outbox}", "orders")
    await store.open()
    try:
        for key in ("Ann", "Zoë", "Bob"):
            async with store.transaction() as transaction:
                await transaction.outbox_add([record(key=key)])
        assert [each.key for each in await store.outbox_after(0, 10)] == ["Ann", "Zoë", "Bob"]
    finally:
        await store.close()


async def test_a_piece_of_the_log_that_cannot_be_read_ends_the_reading_and_is_not_passed_over() -> None:
    ended: list[Exception] = []

    class Connection:
        class pgconn:  # as psycopg has it
            socket = -1
            pieces = iter([(25, memoryview(b"w" + bytes(24))), (0, memoryview(b""))])

            @classmethod
            def get_copy_data(cls, _: int) -> tuple[int, memoryview]:
                return next(cls.pieces)

    def received(piece: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\xeb", 0, 1, "invalid")

    connection = ReplicationConnection(Connection())  # type: ignore[arg-type]  # what is called of it
    connection._received, connection._broken = received, ended.append
    connection._take()
    [error] = ended
    assert isinstance(error, StoreUnavailable)
    assert "cannot be read" in str(error)


async def test_a_connection_that_is_lost_is_not_listened_to_any_more() -> None:
    """Its socket cannot be asked for then; a reader that stayed would be called without end."""
    ours, theirs = socket.socketpair()
    ended: list[Exception] = []

    class Libpq:
        lost = False

        @property
        def socket(self) -> int:
            if self.lost:
                raise psycopg.OperationalError("the connection is lost")
            return ours.fileno()

        def consume_input(self) -> None:
            self.lost = True
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    class Connection:
        pgconn = Libpq()

    connection = ReplicationConnection(Connection())  # type: ignore[arg-type]  # what is called of it
    connection._broken = ended.append
    connection.resume()
    theirs.close()
    async with asyncio.timeout(10):
        while not ended:  # noqa: ASYNC110  # a callback of the loop is the signal
            await asyncio.sleep(0)
    assert not asyncio.get_running_loop().remove_reader(ours.fileno())
    ours.close()
    assert isinstance(ended[0], StoreUnavailable)
