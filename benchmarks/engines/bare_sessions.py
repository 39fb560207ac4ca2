"""The bare loops with an SQLAlchemy AsyncSession on PostgreSQL: ORM entities in bulk, or a statement an event.

SQLAlchemy's own asyncpg dialect. Outbox and checkpoint go through the driver below the session, as they are no
entities; both in the session's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.engines import bare_postgres as sql
from benchmarks.engines.accounts import ADD, MappedAccount, ids_of
from benchmarks.engines.bare_postgres import BarePostgres
from benchmarks.engines.wire import Incoming, Read, Writer, decoded

_ACCOUNTS = select(MappedAccount).order_by(MappedAccount.id).with_for_update()


class BareSessions:
    """A `Database` whose steps go through sessions; its relay is the same as without."""

    def __init__(self, below: BarePostgres, engine: AsyncEngine) -> None:
        self.outbox = below.outbox
        self.save_relay = below.save_relay
        self._below = below
        self._engine = engine
        self._revision = 0
        self._writer = Writer()

    @classmethod
    async def open(cls, url: str) -> BareSessions:
        below = await BarePostgres.open(url)
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.connect():
            pass  # connections are there before the clock starts, as on every side
        return cls(below, engine)

    async def close(self) -> None:
        await self._engine.dispose()
        await self._below.close()

    async def apply_entities(self, records: Sequence[Read]) -> None:
        """One SELECT into the session, one flush."""
        events = decoded(records)
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            found = await session.scalars(_ACCOUNTS.where(MappedAccount.id.in_(ids_of(events))))
            accounts = {account.id: account for account in found}
            now = self._writer.begin()
            bodies = []
            for event in events:
                account = accounts[event.data.account_id]
                account.add(event.data.amount)
                bodies.append(self._writer.changed(account, event))
            await session.flush()
            await self._finish(session, records, events, bodies, now)

    async def apply_statements(self, records: Sequence[Read]) -> None:
        """An UPDATE of its own for each event."""
        events = decoded(records)
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            now = self._writer.begin()
            bodies = []
            for event in events:
                await session.execute(ADD, {"account": event.data.account_id, "amount": event.data.amount})
                bodies.append(self._writer.told(event))
            await self._finish(session, records, events, bodies, now)

    async def _finish(
        self,
        session: AsyncSession,
        records: Sequence[Read],
        events: Sequence[Incoming],
        bodies: list[bytes],
        now: float,
    ) -> None:
        connection = await session.connection()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if not driver.is_in_transaction():
            raise RuntimeError("each statement would be committed by itself")
        await driver.execute(sql.INSERT, [event.data.account_id for event in events], bodies, now)
        if await driver.execute(sql.CHECKPOINT, records[-1][0], self._revision) != "UPDATE 1":
            raise RuntimeError("somebody else moved the checkpoint")
        self._revision += 1
