"""The bare loops with an SQLAlchemy Session: a transaction for a batch, and, as is usual, one for each event."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Engine, create_engine, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session
from sqlalchemy.pool import StaticPool

from benchmarks import bare_files as files
from benchmarks import workload
from benchmarks.bare_files import BareFiles, Headers
from benchmarks.bare_loop import Outbox, Row, moment
from benchmarks.bare_tables import checkpoint, outbox_table
from benchmarks.workload import IN, TransferMade, balance_changed

_headers = msgspec.json.Decoder(Headers).decode
_event = msgspec.json.Decoder(TransferMade).decode


class Base(DeclarativeBase):
    metadata = workload.metadata


class MappedAccount(Base):
    """The account as an ORM entity; both sides use this class."""

    __table__ = workload.accounts
    id: Mapped[str]
    owner: Mapped[str]
    balance: Mapped[int]
    changes: Mapped[int]

    def add(self, amount: int) -> None:
        self.balance += amount
        self.changes += 1


def engine_over(connection: sqlite3.Connection) -> Engine:
    """SQLAlchemy over a connection that exists; transactions begin by hand, as its documentation advises for SQLite."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None)
    engine.connect().close()  # gets to know the database and rolls back, which must not happen inside a batch
    return engine


def apply_with_session(open_files: BareFiles) -> Callable[[Sequence[Row], Outbox], None]:
    """One Session a batch: one SELECT, one flush; outbox and checkpoint by the driver, as they are no entities."""
    service = open_files.service
    engine = engine_over(service)
    select_accounts = select(MappedAccount)
    revision = 0

    def apply(rows: Sequence[Row], outbox: Outbox) -> None:
        nonlocal revision
        service.execute("BEGIN IMMEDIATE")
        with Session(engine, expire_on_commit=False) as session:
            now, stamp = moment()
            events = [_event(row[6]) for row in rows]
            ids = list({event.account_id: None for event in events})
            found = session.scalars(select_accounts.where(MappedAccount.id.in_(ids)))
            accounts = {account.id: account for account in found}
            outgoing = []
            for row, event in zip(rows, events, strict=True):
                account = accounts[event.account_id]
                account.add(event.amount)
                outgoing.append(outbox.row(_headers(row[5]), balance_changed(account, event), now, stamp))
            session.flush()
            service.executemany(files.INSERT_OUTBOX, outgoing)
            service.execute(files.SAVE_CHECKPOINT, (rows[-1][0], rows[-1][3], IN, revision))
            revision += 1
            assert service.in_transaction, "else each statement was committed by itself"
            session.commit()

    return apply


def apply_one_by_one(open_files: BareFiles) -> Callable[[Sequence[Row], Outbox], None]:
    """One Session and one transaction an event: get, change, insert, update, commit."""
    service = open_files.service
    engine = engine_over(service)
    revision = 0
    save = update(checkpoint)

    def apply(rows: Sequence[Row], outbox: Outbox) -> None:
        nonlocal revision
        for row in rows:
            service.execute("BEGIN IMMEDIATE")
            with Session(engine) as session:
                event = _event(row[6])
                account = session.get_one(MappedAccount, event.account_id)
                account.add(event.amount)
                outgoing = outbox.row(_headers(row[5]), balance_changed(account, event), *moment())
                session.execute(insert(outbox_table), dict(zip(outbox_table.columns.keys(), outgoing, strict=True)))
                saved = session.connection().execute(
                    save.where(checkpoint.c.topic == IN, checkpoint.c.revision == revision),
                    {"log_offset": row[0], "watermark": row[3], "revision": revision + 1},
                )
                assert saved.rowcount == 1
                revision += 1
                assert service.in_transaction, "else each statement was committed by itself"
                session.commit()

    return apply
