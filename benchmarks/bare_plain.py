"""The bare loop for a plain handler: an UPDATE of its own for each event, awaited on an AsyncSession, a batch a commit.

With the store's own SQLAlchemy dialect, on the event loop, as a step's session has it; and, to show why that dialect
is there, with aiosqlite, which takes each statement to a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import bindparam, event, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from benchmarks import bare_files as files
from benchmarks import bare_loop
from benchmarks.bare_files import BareFiles, Headers
from benchmarks.bare_loop import Outbox, Row, moment
from benchmarks.bare_tables import checkpoint, outbox_table
from benchmarks.workload import IN, TransferMade, accounts, amount_told

_headers = msgspec.json.Decoder(Headers).decode
_event = msgspec.json.Decoder(TransferMade).decode

#: The handler's own statement, on both sides.
ADD = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"))
    .values(balance=accounts.c.balance + bindparam("amount"), changes=accounts.c.changes + 1)
)


async def drain_on_the_loop(open_files: BareFiles, batch_records: int) -> None:
    """The store's dialect over the very connection; BEGIN, outbox, checkpoint and COMMIT by the driver."""
    import ensue.stores.sqlite.dialect  # noqa: F401  # registers it

    service = open_files.service
    engine = create_async_engine(
        "sqlite+ensue://", creator=lambda: service, poolclass=StaticPool, pool_reset_on_return=None
    )

    async def apply(rows: Sequence[Row], outbox: Outbox, revision: int) -> None:
        service.execute("BEGIN IMMEDIATE")
        async with AsyncSession(engine, expire_on_commit=False) as session:
            outgoing = await _handle(session, rows, outbox)
        service.executemany(files.INSERT_OUTBOX, outgoing)
        service.execute(files.SAVE_CHECKPOINT, (rows[-1][0], rows[-1][3], IN, revision))
        assert service.in_transaction, "else each statement was committed by itself"
        service.execute("COMMIT")

    await _drain(open_files, batch_records, apply)


async def drain_in_a_thread(open_files: BareFiles, directory: Path, batch_records: int) -> None:
    """The same by aiosqlite on a connection of its own; everything goes through the session."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/service.db")
    begin_by_hand(engine)

    async def apply(rows: Sequence[Row], outbox: Outbox, revision: int) -> None:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            outgoing = await _handle(session, rows, outbox)
            names = outbox_table.columns.keys()
            await session.execute(insert(outbox_table), [dict(zip(names, row, strict=True)) for row in outgoing])
            await session.execute(
                update(checkpoint).where(checkpoint.c.topic == IN, checkpoint.c.revision == revision),
                {"log_offset": rows[-1][0], "watermark": rows[-1][3], "revision": revision + 1},
            )

    await _drain(open_files, batch_records, apply)
    await engine.dispose()


async def _handle(session: AsyncSession, rows: Sequence[Row], outbox: Outbox) -> list[tuple[Any, ...]]:
    now, stamp = moment()
    outgoing = []
    for row in rows:
        event = _event(row[6])
        await session.execute(ADD, {"account": event.account_id, "amount": event.amount})
        outgoing.append(outbox.row(_headers(row[5]), amount_told(event), now, stamp))
    return outgoing


async def _drain(open_files: BareFiles, batch_records: int, apply: Any) -> None:
    outbox = Outbox()
    offset = relayed = revision = 0
    while rows := open_files.log.execute(files.READ_LOG, (offset, files.OUT_BASE, batch_records)).fetchall():
        await apply(rows, outbox, revision)
        revision += 1
        offset = rows[-1][0]
        relayed = bare_loop.relay(open_files, relayed, batch_records)


def begin_by_hand(engine: AsyncEngine) -> None:
    """BEGIN IMMEDIATE and synchronous FULL, as SQLAlchemy's documentation does it for sqlite3."""

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
