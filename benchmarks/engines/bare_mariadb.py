"""The bare side's database on MariaDB: asyncmy, one statement of many rows for each of SELECT, UPDATE and INSERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import asyncmy
from asyncmy.constants import CLIENT

from benchmarks.engines.accounts import ACCOUNTS_DDL, ids_of
from benchmarks.engines.wire import Read, Writer, decode, decoded
from benchmarks.workload import Account, account_rows

TABLES = (
    ACCOUNTS_DDL,
    "CREATE TABLE outbox (id BIGINT AUTO_INCREMENT PRIMARY KEY, topic VARCHAR(64) NOT NULL, "
    "record_key VARCHAR(64) NOT NULL, body BLOB NOT NULL, written_at DOUBLE NOT NULL)",
    "CREATE TABLE checkpoint (topic VARCHAR(64) PRIMARY KEY, log_offset BIGINT NOT NULL, revision BIGINT NOT NULL)",
    "INSERT INTO checkpoint VALUES ('transfers', 0, 0)",
    "CREATE TABLE relay (position BIGINT NOT NULL)",
    "INSERT INTO relay VALUES (0)",
)
_SELECT = "SELECT id, owner, balance, changes FROM accounts WHERE id IN ({ids}) ORDER BY id FOR UPDATE"
#: Prepared, with all rows bound at once (MariaDB's bulk protocol): the fastest way that asyncmy has.
UPDATE = "UPDATE accounts SET owner = ?, balance = ?, changes = ? WHERE id = ?"
_INSERT = "INSERT INTO outbox (topic, record_key, body, written_at) VALUES "
_ROW = "('accounts', %s, %s, %s)"
CHECKPOINT = (
    "UPDATE checkpoint SET log_offset = %s, revision = revision + 1 WHERE topic = 'transfers' AND revision = %s"
)
SELECT_ONE = "SELECT id, owner, balance, changes FROM accounts WHERE id = %s FOR UPDATE"
UPDATE_ONE = "UPDATE accounts SET owner = %s, balance = %s, changes = %s WHERE id = %s"
OUTBOX = "SELECT id, record_key, body FROM outbox WHERE id > %s ORDER BY id LIMIT %s"


class BareMariaDb:
    def __init__(self, steps: Any, relay: Any) -> None:
        self._steps = steps
        self._relay = relay
        self._revision = 0
        self._writer = Writer()

    @classmethod
    async def open(cls, url: str) -> BareMariaDb:
        """Make the tables and all accounts in an empty database."""
        steps, relay = await _connect(url), await _connect(url)
        for statement in TABLES:
            await _execute(steps, statement)
        await _execute_each(steps, "INSERT INTO accounts VALUES (?, ?, ?, ?)", account_rows())
        return cls(steps, relay)

    async def close(self) -> None:
        await self._steps.ensure_closed()
        await self._relay.ensure_closed()

    async def outbox(self, after: int, limit: int) -> Sequence[tuple[int, str, bytes]]:
        return await _fetch(self._relay, OUTBOX, after, limit)

    async def save_relay(self, position: int) -> None:
        await _execute(self._relay, "UPDATE relay SET position = %s", position)

    async def apply(self, records: Sequence[Read]) -> None:
        """One transaction for all."""
        connection, writer = self._steps, self._writer
        events = decoded(records)
        ids = ids_of(events)
        await connection.query("START TRANSACTION")
        rows = await _fetch(connection, _SELECT.format(ids=", ".join(["%s"] * len(ids))), *ids)
        accounts = {row[0]: Account(*row) for row in rows}
        now = writer.begin()
        values: list[Any] = []
        for event in events:
            account = accounts[event.data.account_id]
            account.add(event.data.amount)
            values += (account.id, writer.changed(account, event), now)
        changed = [(each.owner, each.balance, each.changes, each.id) for each in accounts.values()]
        await _execute_each(connection, UPDATE, changed)
        await _execute(connection, _INSERT + ", ".join([_ROW] * len(events)), *values)
        await self._save(records[-1][0])
        await connection.query("COMMIT")

    async def apply_each(self, records: Sequence[Read]) -> None:
        """One transaction for each."""
        connection, writer = self._steps, self._writer
        for offset, body in records:
            event = decode(body)
            await connection.query("START TRANSACTION")
            [row] = await _fetch(connection, SELECT_ONE, event.data.account_id)
            account = Account(*row)
            now = writer.begin()
            account.add(event.data.amount)
            await _execute(connection, UPDATE_ONE, account.owner, account.balance, account.changes, account.id)
            await _execute(connection, _INSERT + _ROW, account.id, writer.changed(account, event), now)
            await self._save(offset)
            await connection.query("COMMIT")

    async def _save(self, offset: int) -> None:
        if await _execute(self._steps, CHECKPOINT, offset, self._revision) != 1:
            raise RuntimeError("somebody else moved the checkpoint")
        self._revision += 1


async def _connect(url: str) -> Any:
    parts = urlsplit(url)
    connection: Any = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, database=parts.path[1:], autocommit=True,
        client_flag=CLIENT.FOUND_ROWS, binary_prefix=True,
    )  # fmt: skip
    await connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    return connection


async def _fetch(connection: Any, text: str, *values: Any) -> Sequence[Any]:
    async with connection.cursor() as cursor:
        await cursor.execute(text, values)
        rows: Sequence[Any] = await cursor.fetchall()
    return rows


async def _execute(connection: Any, text: str, *values: Any) -> int:
    async with connection.cursor() as cursor:
        count: int = await cursor.execute(text, values or None)
    return count


async def _execute_each(connection: Any, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
    async with await connection.prepare(text) as statement:
        await statement.execute_bulk(rows)
