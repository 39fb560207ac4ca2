"""The bare side's database on PostgreSQL: asyncpg, sets by `unnest`, one SELECT, UPDATE and INSERT a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks.engines.accounts import ACCOUNTS_DDL, ids_of
from benchmarks.engines.wire import Read, Writer, decode, decoded
from benchmarks.workload import Account, account_rows

TABLES = (
    ACCOUNTS_DDL,
    "CREATE TABLE outbox (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic TEXT NOT NULL, "
    "record_key TEXT NOT NULL, body BYTEA NOT NULL, written_at DOUBLE PRECISION NOT NULL)",
    "CREATE TABLE checkpoint (topic TEXT PRIMARY KEY, log_offset BIGINT NOT NULL, revision BIGINT NOT NULL)",
    "INSERT INTO checkpoint VALUES ('transfers', 0, 0)",
    "CREATE TABLE relay (position BIGINT NOT NULL)",
    "INSERT INTO relay VALUES (0)",
)
#: A join rather than `= ANY`: a plan made before the first ANALYZE would compare each row with each id, 13 µs an event.
SELECT = (
    "SELECT a.id, a.owner, a.balance, a.changes FROM unnest($1::text[]) AS w(id) JOIN accounts a ON a.id = w.id "
    "ORDER BY a.id FOR UPDATE OF a"
)
UPDATE = (
    "UPDATE accounts a SET owner = v.owner, balance = v.balance, changes = v.changes "
    "FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS v(id, owner, balance, changes) "
    "WHERE a.id = v.id"
)
INSERT = (
    "INSERT INTO outbox (topic, record_key, body, written_at) "
    "SELECT 'accounts', v.record_key, v.body, $3 FROM unnest($1::text[], $2::bytea[]) AS v(record_key, body)"
)
CHECKPOINT = (
    "UPDATE checkpoint SET log_offset = $1, revision = revision + 1 WHERE topic = 'transfers' AND revision = $2"
)
SELECT_ONE = "SELECT id, owner, balance, changes FROM accounts WHERE id = $1 FOR UPDATE"
UPDATE_ONE = "UPDATE accounts SET owner = $2, balance = $3, changes = $4 WHERE id = $1"
INSERT_ONE = "INSERT INTO outbox (topic, record_key, body, written_at) VALUES ('accounts', $1, $2, $3)"
OUTBOX = "SELECT id, record_key, body FROM outbox WHERE id > $1 ORDER BY id LIMIT $2"


class BarePostgres:
    def __init__(self, steps: Any, relay: Any) -> None:
        self.steps = steps
        self._relay = relay
        self._revision = 0
        self._writer = Writer()

    @classmethod
    async def open(cls, url: str) -> BarePostgres:
        """Make the tables and all accounts in an empty database."""
        steps, relay = await asyncpg.connect(url), await asyncpg.connect(url)
        for statement in TABLES:
            await steps.execute(statement)
        await steps.executemany("INSERT INTO accounts VALUES ($1, $2, $3, $4)", account_rows())
        return cls(steps, relay)

    async def close(self) -> None:
        await self.steps.close()
        await self._relay.close()

    async def outbox(self, after: int, limit: int) -> Sequence[tuple[int, str, bytes]]:
        rows: Sequence[tuple[int, str, bytes]] = await self._relay.fetch(OUTBOX, after, limit)
        return rows

    async def save_relay(self, position: int) -> None:
        await self._relay.execute("UPDATE relay SET position = $1", position)

    async def apply(self, records: Sequence[Read]) -> None:
        """One transaction for all."""
        connection, writer = self.steps, self._writer
        events = decoded(records)
        await connection.execute("BEGIN")
        rows = await connection.fetch(SELECT, ids_of(events))
        accounts = {row[0]: Account(*row) for row in rows}
        now = writer.begin()
        keys: list[str] = []
        bodies: list[bytes] = []
        for event in events:
            account = accounts[event.data.account_id]
            account.add(event.data.amount)
            keys.append(account.id)
            bodies.append(writer.changed(account, event))
        values = accounts.values()
        await connection.execute(
            UPDATE,
            [each.id for each in values],
            [each.owner for each in values],
            [each.balance for each in values],
            [each.changes for each in values],
        )
        await connection.execute(INSERT, keys, bodies, now)
        await self._save(records[-1][0])
        await connection.execute("COMMIT")

    async def apply_each(self, records: Sequence[Read]) -> None:
        """One transaction for each."""
        connection, writer = self.steps, self._writer
        for offset, body in records:
            event = decode(body)
            await connection.execute("BEGIN")
            account = Account(*await connection.fetchrow(SELECT_ONE, event.data.account_id))
            now = writer.begin()
            account.add(event.data.amount)
            await connection.execute(UPDATE_ONE, account.id, account.owner, account.balance, account.changes)
            await connection.execute(INSERT_ONE, account.id, writer.changed(account, event), now)
            await self._save(offset)
            await connection.execute("COMMIT")

    async def _save(self, offset: int) -> None:
        if await self.steps.execute(CHECKPOINT, offset, self._revision) != "UPDATE 1":
            raise RuntimeError("somebody else moved the checkpoint")
        self._revision += 1
