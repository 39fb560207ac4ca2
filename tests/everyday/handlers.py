"""Handlers as people write them every day: what each does must come out alike on every store, however many run it.

Each handler has rows of its own, named after it, so that one that goes wrong is seen alone. What is right at the end
does not depend on the order of events of different keys; keys are chosen so that all partitions touch the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from ensue import Event, Service, Step

ACCOUNTS = ("a", "b", "c")


class Base(DeclarativeBase):
    pass


class Count(Base):
    __tablename__ = "everyday_counts"
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    n: Mapped[int] = mapped_column(default=0)


class Versioned(Base):
    __tablename__ = "everyday_versioned"
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's way


class Document(Base):
    __tablename__ = "everyday_documents"
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class Entry(Base):
    """Numbered without a hole within its book."""

    __tablename__ = "everyday_entries"
    __table_args__ = (UniqueConstraint("book", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    book: Mapped[str] = mapped_column(String(60))
    number: Mapped[int]


class Parent(Base):
    __tablename__ = "everyday_parents"
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    size: Mapped[int] = mapped_column(default=0)
    children: Mapped[list[Child]] = relationship(lazy="selectin", cascade="all, delete-orphan", back_populates="of")


class Child(Base):
    __tablename__ = "everyday_children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(String(60), ForeignKey("everyday_parents.name"))
    amount: Mapped[int]
    of: Mapped[Parent] = relationship(back_populates="children")


class Paid(Event, topic="everyday-paid", key="payment_id"):
    """The last ones are ids of rows."""

    payment_id: str
    account: str
    amount: int
    entity: str
    entity_expression: str
    entity_session: str
    entity_versioned: str
    entity_new: str


class PaidAgain(Event, topic="everyday-paid-again", key="payment_id"):
    """The same for handlers in threads."""

    payment_id: str
    account: str
    amount: int


def paid(number: int, account: str, amount: int) -> tuple[Paid, PaidAgain]:
    event = Paid(
        payment_id=f"p{number}",
        account=account,
        amount=amount,
        entity=f"entity:{account}",
        entity_expression=f"entity_expression:{account}",
        entity_session=f"entity_session:{account}",
        entity_versioned=f"entity_versioned:{account}",
        entity_new=f"entity_new:{account}",
    )
    return event, PaidAgain(payment_id=event.payment_id, account=account, amount=amount)


def rows() -> Iterable[Any]:
    """What is there before the first event."""
    for account in ACCOUNTS:
        for each in (
            "get", "lock", "scalar", "bulk", "expression", "text", "refresh", "savepoint", "flush", "toggled",
            "entity", "entity_expression", "entity_session", "thread_get", "thread_bulk", "thread_expression",
        ):  # fmt: skip
            yield Count(name=f"{each}:{account}", n=0)
        yield Versioned(name=f"versioned:{account}", n=0)
        yield Versioned(name=f"entity_versioned:{account}", n=0)
        yield Document(name=f"json:{account}", data={})
        yield Parent(name=f"append:{account}", size=0)
        yield Parent(name=f"beside:{account}", size=0)
        yield Count(name=f"total:{account}", n=0)


def expected(events: Iterable[Paid]) -> dict[str, Any]:
    """By handler and account, as `found` tells it."""
    events = list(events)
    right: dict[str, Any] = {}
    for account in ACCOUNTS:
        mine = [each for each in events if each.account == account]
        total = sum(each.amount for each in mine)
        for each in (
            "get", "lock", "upsert", "scalar", "bulk", "expression", "text", "refresh", "flush", "versioned", "total",
            "entity", "entity_expression", "entity_session", "entity_versioned", "entity_new", "thread_get",
            "thread_bulk", "thread_expression", "thread_upsert",
        ):  # fmt: skip
            right[f"{each}:{account}"] = total
        right[f"toggled:{account}"] = (len(mine) + 1) % 2
        right[f"savepoint:{account}"] = len(mine)
        right[f"json:{account}"] = {each.payment_id: each.amount for each in mine}
        right[f"append:{account}"] = (len(mine), total)
        right[f"beside:{account}"] = (total + len(mine), total)
        right[f"numbered:{account}"] = list(range(1, len(mine) + 1))
        right[f"listed:{account}"] = total
    return right


async def found(session: AsyncSession) -> dict[str, Any]:
    right: dict[str, Any] = {each.name: each.n for each in await session.scalars(select(Count))}
    right |= {each.name: each.n for each in await session.scalars(select(Versioned))}
    right |= {each.name: each.data for each in await session.scalars(select(Document))}
    for parent in await session.scalars(select(Parent)):
        right[parent.name] = (parent.size, sum(child.amount for child in parent.children))
    for account in ACCOUNTS:
        numbers = await session.scalars(select(Entry.number).where(Entry.book == f"numbered:{account}"))
        right[f"numbered:{account}"] = sorted(numbers)
        listed = await session.scalar(select(func.sum(Entry.number)).where(Entry.book.like(f"listed:{account}:%")))
        right[f"listed:{account}"] = listed
        right[f"toggled:{account}"] = int(f"toggled:{account}" in right)
    return right


def service(**options: Any) -> Service:
    """A service of its own, with all the handlers."""
    bank = Service("bank", tables=Base.metadata, publishes=[], **options)
    _plain(bank)
    _entities(bank)
    _threads(bank)
    return bank


def _plain(bank: Service) -> None:
    @bank.on
    async def get_and_change(event: Paid, step: Step) -> None:
        count = await step.session.get_one(Count, f"get:{event.account}")
        count.n += event.amount

    @bank.on
    async def lock_and_change(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"lock:{event.account}", with_for_update=True)
        count.n += event.amount

    @bank.on
    async def get_or_add(event: Paid, session: AsyncSession) -> None:
        count = await session.get(Count, f"upsert:{event.account}")
        if count is None:
            count = Count(name=f"upsert:{event.account}", n=0)
            session.add(count)
        count.n += event.amount

    @bank.on
    async def select_and_change(event: Paid, session: AsyncSession) -> None:
        count = (await session.scalars(select(Count).where(Count.name == f"scalar:{event.account}"))).one()
        count.n = count.n + event.amount

    @bank.on
    async def bulk_update(event: Paid, session: AsyncSession) -> None:
        where = Count.name == f"bulk:{event.account}"
        await session.execute(update(Count).where(where).values(n=Count.n + event.amount))

    @bank.on
    async def sql_expression(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"expression:{event.account}")
        count.n = Count.n + event.amount

    @bank.on
    async def text_update(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"text:{event.account}")
        before = count.n
        await session.execute(
            text("UPDATE everyday_counts SET n = :n WHERE name = :name"),
            {"n": before + event.amount, "name": count.name},
        )

    @bank.on
    async def refresh_and_change(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"refresh:{event.account}")
        await session.refresh(count)
        count.n += event.amount

    @bank.on
    async def change_and_flush(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"flush:{event.account}")
        count.n += event.amount
        await session.flush()

    @bank.on
    async def versioned(event: Paid, session: AsyncSession) -> None:
        row = await session.get_one(Versioned, f"versioned:{event.account}")
        row.n += event.amount

    @bank.on
    async def change_json(event: Paid, session: AsyncSession) -> None:
        row = await session.get_one(Document, f"json:{event.account}")
        row.data = {**row.data, event.payment_id: event.amount}

    @bank.on
    async def count_then_insert(event: Paid, session: AsyncSession) -> None:
        book = f"numbered:{event.account}"
        there = await session.scalar(select(func.count()).where(Entry.book == book))
        session.add(Entry(book=book, number=(there or 0) + 1))

    @bank.on
    async def insert_a_row(event: Paid, session: AsyncSession) -> None:
        book = f"listed:{event.account}:{event.payment_id}"
        await session.execute(insert(Entry).values(book=book, number=event.amount))

    @bank.on
    async def total_of_rows(event: Paid, session: AsyncSession) -> None:
        total = await session.get_one(Count, f"total:{event.account}")
        query = select(func.sum(Entry.number)).where(Entry.book.like(f"listed:{event.account}:%"))
        total.n = (await session.scalars(query)).one()

    @bank.on
    async def append_a_child(event: Paid, session: AsyncSession) -> None:
        parent = await session.get_one(Parent, f"append:{event.account}")
        parent.children.append(Child(amount=event.amount))
        parent.size = len(parent.children)

    @bank.on
    async def text_beside_an_object(event: Paid, session: AsyncSession) -> None:
        """A parent and its children hold each other, so the session knows them for longer than this call."""
        parent = await session.get_one(Parent, f"beside:{event.account}")
        parent.children.append(Child(amount=event.amount))
        parent.size += 1
        await session.flush()
        await session.execute(
            text("UPDATE everyday_parents SET size = size + :amount WHERE name = :name"),
            {"amount": event.amount, "name": f"beside:{event.account}"},
        )

    @bank.on
    async def delete_or_add(event: Paid, session: AsyncSession) -> None:
        row = await session.get(Count, f"toggled:{event.account}")
        if row is None:
            session.add(Count(name=f"toggled:{event.account}", n=1))
        else:
            await session.delete(row)

    @bank.on
    async def insert_in_a_savepoint(event: Paid, session: AsyncSession) -> None:
        count = await session.get_one(Count, f"savepoint:{event.account}")
        for _ in range(2):  # the second time it is there already
            try:
                async with session.begin_nested():
                    session.add(Entry(book=f"savepoint:{event.payment_id}", number=1))
            except IntegrityError:
                continue
            count.n += 1


def _entities(bank: Service) -> None:
    @bank.on(id="entity")
    def change_entity(count: Count, event: Paid) -> None:
        count.n += event.amount

    @bank.on(id="entity_expression")
    def expression_in_entity(count: Count, event: Paid) -> None:
        count.n = Count.n + event.amount

    @bank.on(id="entity_session")
    async def entity_and_session(count: Count, event: Paid, step: Step) -> None:
        await step.session.execute(update(Count).where(Count.name == count.name).values(n=count.n + event.amount))

    @bank.on(id="entity_versioned")
    def versioned_entity(row: Versioned, event: Paid) -> None:
        row.n += event.amount

    @bank.on(id="entity_new")
    def new_entity(count: Count | None, event: Paid) -> Count:
        count = count or Count(name=f"entity_new:{event.account}", n=0)
        count.n += event.amount
        return count


def _threads(bank: Service) -> None:
    @bank.on
    def get_in_a_thread(event: PaidAgain, session: Session) -> None:
        count = session.get_one(Count, f"thread_get:{event.account}")
        count.n += event.amount

    @bank.on
    def bulk_in_a_thread(event: PaidAgain, session: Session) -> None:
        where = Count.name == f"thread_bulk:{event.account}"
        session.execute(update(Count).where(where).values(n=Count.n + event.amount))

    @bank.on
    def expression_in_a_thread(event: PaidAgain, session: Session) -> None:
        count = session.get_one(Count, f"thread_expression:{event.account}")
        count.n = Count.n + event.amount

    @bank.on
    def upsert_in_a_thread(event: PaidAgain, session: Session) -> None:
        count = session.get(Count, f"thread_upsert:{event.account}")
        if count is None:
            session.add(count := Count(name=f"thread_upsert:{event.account}", n=0))
        count.n += event.amount
