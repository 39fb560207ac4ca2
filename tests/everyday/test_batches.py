"""A batch comes out as its messages one by one would: the same rows, the same events, whatever the handlers do.

On every SQL store, and on each as on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Computed, ForeignKey, String, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from tests.unit.engine.workbench import Sender, bench, config, settled

from ensue import Event, Service, Step
from ensue.adapters import make_store

ACCOUNTS = ("a", "b", "c")
SEEDS = range(12)
#: On servers, which take longer. The first one notices a session that remembers what the message before had read.
FEW_SEEDS = (5, 12)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(String(10), primary_key=True)
    n: Mapped[int] = mapped_column(server_default="7")
    double: Mapped[int] = mapped_column(Computed("n * 2", persisted=True))
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
    lines = sorted(each.amount for each in account.lines)
    return f"{account.n} {account.double} {account.changes} {lines} {int(total or 0)}"


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


Outcome = tuple[list[Any], list[str]]


async def outcome(url: str, directory: Path, events: list[Event], batch: int) -> Outcome:
    """The rows in the end, and what was told, in order."""
    bank = service()
    store = make_store(url, bank.name)
    async with bench(directory, bank, stores={bank.name: store}, engine=config(batch_records_max=batch)) as world:
        await Sender(world.broker).send(*events)
        await settled(world, 30.0)
        assert not await world.dead_letters(bank)
        async with bank.query() as session:
            accounts = await session.scalars(select(Account).order_by(Account.name))
            rows = [
                (each.name, each.n, each.double, each.changes, sorted(line.amount for line in each.lines))
                for each in accounts
            ]
        return rows, [each.what for each in await world.published(Told)]


@pytest.fixture
def new_url(tmp_path: Path) -> Callable[[], str]:
    """URLs of new SQLite files."""
    numbers = count(1)
    return lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db?synchronous=OFF"


@pytest.fixture(params=["asyncpg", "psycopg", "mariadb"])
def new_server_url(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """URLs of one database of a server, which is empty each time."""
    scheme = "mariadb" if request.param == "mariadb" else f"postgresql+{request.param}"
    server = request.getfixturevalue("mariadb_server" if request.param == "mariadb" else "postgres_server")
    name = f"batches_{request.param}"

    def make() -> str:
        server.drop(name)
        return str(server.url(name, scheme))

    yield make
    server.drop(name)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_batch_is_one_by_one(new_url: Callable[[], str], tmp_path: Path, seed: int) -> None:
    events = script(seed)
    alone = await outcome(new_url(), tmp_path, events, 1)
    for batch in (Random(seed).randrange(2, 20), 500):
        assert await outcome(new_url(), tmp_path, events, batch) == alone, f"seed {seed}, batches of {batch}"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", FEW_SEEDS)
async def test_a_batch_on_a_server_is_one_by_one_on_sqlite(
    new_server_url: Callable[[], str], new_url: Callable[[], str], tmp_path: Path, seed: int
) -> None:
    events = script(seed)
    expected = await outcome(new_url(), tmp_path, events, 1)
    for batch in (1, Random(seed).randrange(2, 20), 500):
        assert await outcome(new_server_url(), tmp_path, events, batch) == expected, f"seed {seed}, batches of {batch}"
