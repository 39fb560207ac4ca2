"""An application as other people write it, with an engine and sessions of its own, and what its service has to send."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Engine, String, create_engine, event, func, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ensue import Event, Service
from ensue.codec import decode_envelope
from ensue.engine.hallmark import hallmark_of
from ensue.message import Envelope, OutboxRecord


class Base(DeclarativeBase): ...


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(String(100), default="")


class TicketOpened(Event, topic="desk", key="ticket_id"):
    ticket_id: int
    text: str = ""


class TicketClosed(Event, topic="desk", key="ticket_id"):
    ticket_id: int


def desk_at(url: str, **options: Any) -> Service:
    """The service, with its tables and the application's made."""
    desk = Service("desk", database=url, broker="memory:", publishes=[TicketOpened, TicketClosed], **options)

    async def make() -> None:
        store = desk.make_store()
        await store.open()
        try:
            await store.create_tables(Base.metadata)
        finally:
            await store.close()

    asyncio.run(make())
    return desk


def engine_at(url: str) -> Engine:
    """The application's, whose connections begin their transactions as SQLAlchemy's documentation says."""
    engine = create_engine(url)
    _begins(engine)
    return engine


def async_engine_at(url: str) -> AsyncEngine:
    engine = create_async_engine(url)
    _begins(engine.sync_engine)
    return engine


def _begins(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def plain_url(url: str) -> str:
    """For a sync engine of the database that a service has at `url`."""
    scheme = {"postgresql+asyncpg": "postgresql+psycopg", "mariadb": "mysql+pymysql"}
    return _with(url, scheme)


def async_url(url: str) -> str:
    scheme = {"sqlite": "sqlite+aiosqlite", "mariadb": "mysql+asyncmy"}
    return _with(url, scheme)


def _with(url: str, schemes: dict[str, str]) -> str:
    known = make_url(url)
    known = known.set(drivername=schemes.get(known.drivername, known.drivername))
    return known.difference_update_query(["synchronous", "outbox", "schema"]).render_as_string(hide_password=False)


async def records(desk: Service) -> list[OutboxRecord]:
    """All that was published, in order, as the relay finds it."""
    store = desk.make_store()
    await store.open()
    try:
        found: list[OutboxRecord] = []
        while page := await store.outbox_after(found[-1].position if found else 0, 1000):
            found += page
        return found
    finally:
        await store.close()


def published(desk: Service) -> list[OutboxRecord]:
    return asyncio.run(records(desk))


def texts(found: list[OutboxRecord]) -> list[str]:
    return [TicketOpened.__ensue_event_type__.read(each.data).text for each in found]  # type: ignore[attr-defined]


def made_by(desk: Service) -> int:
    """How many of the records have ids that the store knows as its own."""

    async def look() -> int:
        found = await records(desk)
        store = desk.make_store()
        await store.open()
        try:
            hallmark = await hallmark_of(store)
            return sum(hallmark.made(decode_envelope(each.envelope).id) is not None for each in found)
        finally:
            await store.close()

    return asyncio.run(look())


def envelopes(desk: Service) -> list[Envelope]:
    return [decode_envelope(each.envelope) for each in published(desk)]


def tickets(engine: Engine) -> list[int]:
    with Session(engine) as session:
        return list(session.scalars(select(Ticket.id).order_by(Ticket.id)))


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Ticket)) or 0
