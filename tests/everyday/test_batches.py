"""A batch comes out as its messages one by one would: the same rows, the same events, whatever the handlers do."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Computed, ForeignKey, String, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from tests.unit.engine.workbench import Sender, bench, config

from ensue import Event, Service, Step

ACCOUNTS = ("a", "b", "c")
SEEDS = range(12)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(String(10), primary_key=True)
    n: Mapped[int] = mapped_column(server_default="7")
    double: Mapped[int] = mapped_column(Computed("n * 2"))
    changes: Mapped[int] = mapped_column()
    lines: Mapped[list[Line]] = relationship(lazy="selectin", back_populates="account", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": changes}  # noqa: RUF012  # SQLAlchemy's way


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(10), ForeignKey("accounts.name"))
    amount: Mapped[int]
    account: Mapped[Account] = relationship(back_populates="lines")


class Told(Event, topic="batch-told", key="name"):
    name: str
    what: str


class Asked(Event, topic="batch-asked", key="name"):
    """For handlers that may do anything."""

    name: str
    amount: int
    way: str


class Stepped(Event, topic="batch-asked", key="name"):
    """For entity steps."""

    name: str
    amount: int
    way: str


async def get_and_change(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    if account is not None:
        account.n += event.amount
    return "none" if account is None else str(account.n)


async def expression(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    if account is not None:
        account.n = Account.n + event.amount
    return ""


async def bulk(session: AsyncSession, event: Asked) -> str:
    await session.execute(update(Account).where(Account.name == event.name).values(n=Account.n + event.amount))
    return ""


async def by_text(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    await session.execute(text("UPDATE accounts SET n = n + 1000, changes = changes + 1"))
    return "none" if account is None else str(account.n)


async def append(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    if account is not None:
        account.lines.append(Line(amount=event.amount))
    return "none" if account is None else str(len(account.lines))


async def insert_a_line(session: AsyncSession, event: Asked) -> str:
    if await session.get(Account, event.name) is not None:
        await session.execute(insert(Line).values(name=event.name, amount=event.amount))
    return ""


async def look(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    if account is None:
        return "none"
    total = await session.scalar(select(func.sum(Line.amount)).where(Line.name == event.name))
    return f"{account.n} {account.double} {account.changes} {sorted(each.amount for each in account.lines)} {total}"


async def remove(session: AsyncSession, event: Asked) -> str:
    account = await session.get(Account, event.name)
    if account is not None:
        await session.delete(account)
    return ""


async def remove_by_statement(session: AsyncSession, event: Asked) -> str:
    await session.execute(delete(Line).where(Line.name == event.name))
    await session.execute(delete(Account).where(Account.name == event.name))
    return ""


async def add(session: AsyncSession, event: Asked) -> str:
    if await session.get(Account, event.name) is None:
        session.add(Account(name=event.name))  # n comes from the database
    return ""


WAYS = {
    each.__name__: each
    for each in (
        get_and_change, expression, bulk, by_text, append, insert_a_line, look, remove, remove_by_statement, add,
    )
}  # fmt: skip
#: Of entity steps, which have nothing but their entity.
STEPS = ("change", "expression", "append", "tell", "create")


def service() -> Service:
    bank = Service("bank", publishes=[Told], tables=Base.metadata)

    @bank.on
    async def ask(event: Asked, step: Step) -> None:
        what = await WAYS[event.way](step.session, event)
        step.publish(Told(name=event.name, what=f"{event.way} {what}"))

    @bank.on(id="name")
    def step_on(account: Account | None, event: Stepped, step: Step) -> Account | None:
        if account is None:
            return Account(name=event.name, n=event.amount) if event.way == "create" else None
        if event.way == "change":
            account.n += event.amount
        elif event.way == "expression":
            account.n = Account.n + event.amount
        elif event.way == "append":
            account.lines.append(Line(amount=event.amount))
        elif event.way == "tell":
            what = f"{account.n} {account.double} {account.changes} {sorted(each.amount for each in account.lines)}"
            step.publish(Told(name=event.name, what=what))
        return None

    return bank


def script(seed: int) -> list[Event]:
    random = Random(seed)
    events: list[Event] = []
    for number in range(60):
        values: dict[str, Any] = {"name": random.choice(ACCOUNTS), "amount": number}
        if random.random() < 0.5:
            events.append(Asked(**values, way=random.choice([*WAYS, "look", "add"])))
        else:
            events.append(Stepped(**values, way=random.choice(STEPS)))
    return events


async def outcome(directory: Path, events: list[Event], batch: int) -> tuple[list[Any], list[str]]:
    bank = service()
    async with bench(directory, bank, engine=config(batch_records_max=batch)) as world:
        await Sender(world.broker).send(*events)
        await world.settle(30.0)
        assert not await world.dead_letters(bank)
        async with bank.query() as session:
            accounts = await session.scalars(select(Account).order_by(Account.name))
            rows = [
                (each.name, each.n, each.double, each.changes, sorted(line.amount for line in each.lines))
                for each in accounts
            ]
        return rows, [each.what for each in await world.published(Told)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_batch_is_one_by_one(tmp_path: Path, seed: int) -> None:
    events = script(seed)
    places = [tmp_path / each for each in ("alone", "some", "all")]
    for each in places:
        each.mkdir()
    alone = await outcome(places[0], events, 1)
    for place, batch in zip(places[1:], (Random(seed).randrange(2, 20), 500), strict=True):
        assert await outcome(place, events, batch) == alone, f"seed {seed}, batches of {batch}"
