"""Two services move to another database in the middle of their work: every effect is there once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, String, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.unit.cli.harness import Ended, books_of, work_until

from ensue import Event, Retry, Service, Step
from ensue.adapters import make_broker, make_store
from ensue.engine.restored import find_contradiction
from ensue.message import DeadLetterState

HERE = "tests.unit.cli.test_move"
CUSTOMERS = ("ann", "bob", "cleo")


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    customer: Mapped[str] = mapped_column(String(20))


class Paid(Event, topic="moving-paid", key="customer"):
    customer: str
    number: int


class Noted(Event, topic="moving-noted", key="customer"):
    customer: str
    number: int


desk = Service("moving-desk", publishes=[Paid])
book = Service("moving-book", publishes=[Noted], tables=Base.metadata, retry=Retry(attempts_max=1))
ears = Service("moving-ears", publishes=[])
DESK, BOOK = f"{HERE}:desk", f"{HERE}:book"
#: What `ears` has heard, and which numbers `book` refuses for now.
heard: list[tuple[str, int]] = []
refused: set[int] = set()


@book.on
async def note(event: Paid, step: Step) -> None:
    if event.number in refused:
        raise ValueError(f"{event.number} is refused")
    step.session.add(Line(id=event.number, customer=event.customer))
    step.publish(Noted(customer=event.customer, number=event.number))


@ears.on
async def hear(event: Noted) -> None:
    heard.append((event.customer, event.number))


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg", "wal", "mariadb"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """URLs of new, empty databases, by name."""
    if request.param == "sqlite":
        yield lambda name: f"sqlite:///{tmp_path}/new/{name}.db"
        return
    kind = "mariadb" if request.param == "mariadb" else "postgres"
    server = request.getfixturevalue(f"{kind}_server")
    made = []

    def make(name: str) -> str:
        name = f"moved_{request.param}_{name}"
        server.drop(name)
        made.append(name)
        if request.param == "wal":
            return f"{server.url(name)}?outbox=wal"
        return str(server.url(name, "mariadb" if kind == "mariadb" else f"postgresql+{request.param}"))

    yield make
    if request.param != "wal":  # whose slot is in use until the server ends
        for name in made:
            server.drop(name)


async def pay(*numbers: int) -> None:
    async with desk.running(work=False):
        for number in numbers:
            async with desk.step() as step:
                step.publish(Paid(customer=CUSTOMERS[number % 3], number=number))


async def applied(service: Service) -> int:
    async with books_of(service) as (_, books):
        return sum(each.counters.applied for each in (await books.checkpoints()).values())


async def dead() -> list[str]:
    async with books_of(book) as (_, books):
        return [each.id for each in await books.letters(None, (DeadLetterState.DEAD, DeadLetterState.WAITING))]


async def work(*services: Service, paid: int = 0, noted: int = 0, letters: int = 0) -> None:
    async def done() -> bool:
        found = (await applied(book), await applied(ears) if noted else 0, len(await dead()))
        return found == (paid, noted, letters)

    await work_until(done, *services)


async def lines(service: Service = book) -> list[tuple[int, str]]:
    async with service.running(work=False), service.query() as session:
        return [(each.id, each.customer) for each in await session.scalars(select(Line).order_by(Line.id))]


async def copy_lines(to: str) -> None:
    """What a user's own tool does."""
    rows = [{"id": number, "customer": customer} for number, customer in await lines()]
    store = make_store(to, book.name)
    await store.open()
    try:
        await store.create_tables(Base.metadata)
        async with store.transaction() as transaction:
            await transaction.session.execute(insert(Line), rows)
    finally:
        await store.close()


def test_services_move_with_all_that_is_open_and_every_effect_is_there_once(
    ensue: Callable[..., Ended], new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard.clear()
    refused.clear()
    refused.add(4)  # of bob, whose later ones wait behind it
    asyncio.run(pay(*range(9)))
    asyncio.run(work(desk, book, ears, paid=7, noted=7, letters=2))
    asyncio.run(pay(*range(9, 12)))  # unsent, and then sent but not read
    asyncio.run(work_until(lambda: _in_the_log(12), desk))
    asyncio.run(pay(*range(12, 15)))  # unsent
    before = {name: ensue("status", name, "--json").json["services"][0]["source"] for name in (DESK, BOOK)}

    urls = {DESK: new_url("desk"), BOOK: new_url("book")}
    too_early = ensue("db", "move", BOOK, "--to", urls[BOOK], "--yes")
    assert too_early.code == 1
    assert "lacks table lines: make your own tables there" in too_early.err
    asyncio.run(copy_lines(urls[BOOK]))
    for name, variable in ((DESK, "ENSUE_MOVING_DESK_DATABASE"), (BOOK, "ENSUE_MOVING_BOOK_DATABASE")):
        moved = ensue("db", "move", name, "--to", urls[name], "--yes", "--reason", "a bigger disk")
        assert moved.code == 0, moved.err
        assert f"Set {variable} to the new URL" in moved.out
        again = ensue("db", "move", name, "--to", urls[name], "--yes")
        assert again.code == 1, "a second time would double it"
        monkeypatch.setenv(variable, urls[name])
        check_decision(ensue, name, before[name])
    assert before == {name: ensue("status", name, "--json").json["services"][0]["source"] for name in (DESK, BOOK)}

    asyncio.run(pay(*range(15, 18)))
    asyncio.run(work(desk, book, ears, paid=13, noted=13, letters=5))
    refused.clear()
    assert ensue("dead-letters", "retry", BOOK, "--all", "--yes").code == 0
    asyncio.run(work(desk, book, ears, paid=18, noted=18))
    assert asyncio.run(lines()) == [(number, CUSTOMERS[number % 3]) for number in range(18)]
    for customer in CUSTOMERS:
        mine = [number for who, number in heard if who == customer]
        assert mine == sorted(mine)
    assert sorted(number for _, number in heard) == list(range(18)), "once each"
    assert asyncio.run(_contradiction()) == ""
    monkeypatch.delenv("ENSUE_MOVING_DESK_DATABASE")
    assert asyncio.run(_contradiction()) == "the store knows of none after position 15"


def check_decision(ensue: Callable[..., Ended], name: str, source: str) -> None:
    """Whoever has moved the database is in the new one, with what went along."""
    [decision] = ensue("decisions", "list", name, "--json").json["decisions"]
    assert (decision["action"], decision["target"], decision["reason"]) == ("db move", source, "a bigger disk")
    assert decision["before"]["database"].startswith("sqlite:")
    assert decision["before"]["database"] != decision["after"]["database"]
    assert decision["after"]["records"] > 0


async def _contradiction() -> str:
    """By what a relay refuses to send."""
    broker = make_broker(desk.settings().broker)
    await broker.open()
    try:
        async with books_of(desk) as (store, _):
            found = await find_contradiction(store, broker, ())
            return found[1] if found else ""
    finally:
        await broker.close()


async def _in_the_log(count: int) -> bool:
    broker = make_broker(desk.settings().broker)
    await broker.open()
    try:
        return sum([(await broker.bounds("moving-paid", number)).last for number in range(2)]) >= count
    finally:
        await broker.close()
