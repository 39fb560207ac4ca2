from __future__ import annotations

import dataclasses
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column as TableColumn
from sqlalchemy import Integer, MetaData, String, Table, UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Command, EntityMissing, Event, Failure, Service, Step, TableRepository, UsageError
from ensue.testing import given


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="NEW")


class Note(Base):
    __tablename__ = "notes"
    __table_args__ = (UniqueConstraint("text"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclasses.dataclass
class Account:
    id: int
    balance: int


accounts = Table(
    "accounts", Base.metadata, TableColumn("id", Integer, primary_key=True), TableColumn("balance", Integer)
)


class Reserved(Event, topic="scenario-credit", key="order_id"):
    order_id: int


class Opened(Event, topic="scenario-orders", key="order_id"):
    order_id: int
    note: str = ""


class Paid(Event, topic="scenario-credit", key="account_id"):
    account_id: int
    amount: int


class Noted(Event, topic="scenario-orders", key="text"):
    text: str


class Unheard(Event, topic="scenario-orders", key="text"):
    text: str


class Withdraw(Command[Paid], service="orders", key="account_id"):
    account_id: int
    amount: int


class Remind(Command[None], service="mail", key="text"):
    text: str


class TooLittle(Failure):
    balance: int


orders = Service("orders", tables=Base.metadata, repositories=[TableRepository(Account, accounts)])


@orders.on
def open_order(order: Order, event: Reserved, step: Step) -> None:
    order.state = "OPEN"
    step.publish(Opened(order_id=order.id, note=step.correlation_id))


@orders.on(id="account_id")
def pay(account: Account | None, event: Paid, step: Step) -> Account:
    if account is None:
        return Account(event.account_id, event.amount)
    if event.amount < 0:
        raise ValueError("no negative amounts")
    account.balance += event.amount
    return account


@orders.on
async def note(event: Noted, session: AsyncSession, step: Step) -> None:
    session.add(Note(text=event.text))
    step.publish(Opened(order_id=0, note=event.text))


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    gc.collect()
    assert list(tmp_path.iterdir()) == [], "a scenario left its database behind"


async def test_a_handler_is_given_an_entity_and_what_follows_is_seen() -> None:
    order = Order(id=1, state="NEW")
    result = await given(orders, order, Order(id=2)).when(Reserved(order_id=1))
    assert result.error is None
    assert result.published == [Opened(order_id=1, note="given-1")]
    assert result.envelopes[0].causation_id == "given-1"
    assert result.entity(Order, 1).state == "OPEN"
    assert result.entity(Order, 2).state == "NEW"
    assert order.state == "NEW", "the test's own object was changed"


async def test_an_entity_of_a_plain_dataclass_is_loaded_and_saved() -> None:
    result = await given(orders, Account(7, 10)).when(Paid(account_id=7, amount=5), Paid(account_id=7, amount=1))
    assert result.entity(Account, 7) == Account(7, 16)
    created = await given(orders).when(Paid(account_id=8, amount=3))
    assert created.entity(Account, 8) == Account(8, 3)


async def test_a_handler_that_raises_changes_and_publishes_nothing() -> None:
    scenario = given(orders, Account(7, 10))
    result = await scenario.when(Paid(account_id=7, amount=5), Paid(account_id=7, amount=-1))
    assert isinstance(result.error, ValueError)
    assert result.published == []
    assert result.entity(Account, 7) == Account(7, 10)
    assert "no negative amounts" in repr(result)


async def test_a_scenario_can_be_used_again_and_begins_anew() -> None:
    scenario = given(orders, Account(7, 10))
    first = await scenario.when(Paid(account_id=7, amount=5))
    second = await scenario.when(Paid(account_id=7, amount=1))
    assert (first.entity(Account, 7).balance, second.entity(Account, 7).balance) == (15, 11)


async def test_a_missing_entity_is_the_error_that_the_engine_would_retry() -> None:
    result = await given(orders).when(Reserved(order_id=1))
    assert isinstance(result.error, EntityMissing)
    assert result.find(Order, 1) is None
    with pytest.raises(AssertionError, match="there is no Order 1"):
        result.entity(Order, 1)


async def test_what_the_database_refuses_is_an_error_of_the_step() -> None:
    result = await given(orders, Note(id=1, text="twice")).when(Noted(text="twice"))
    assert result.error is not None
    assert "UNIQUE" in str(result.error)
    assert result.published == []


async def test_a_function_may_arrange_what_no_repository_can() -> None:
    async def arranged(step: Step) -> None:
        step.session.add(Order(id=3, state="STRANGE"))

    result = await given(orders, arranged).when(Reserved(order_id=3))
    assert result.entity(Order, 3).state == "OPEN"


async def test_an_event_that_nobody_handles_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no handler of scenario-orders\.Unheard\.v1; it handles"):
        await given(orders).when(Unheard(text=""))


async def test_an_entity_that_is_not_declared_is_refused() -> None:
    @dataclasses.dataclass
    class Stranger:
        id: int

    with pytest.raises(UsageError, match="neither a mapped class nor stored through a TableRepository"):
        await given(orders, Stranger(1)).when(Reserved(order_id=1))


async def test_the_table_of_a_repository_is_there_without_being_said_again() -> None:
    metadata = MetaData()
    table = Table("accounts", metadata, TableColumn("id", Integer, primary_key=True), TableColumn("balance", String))
    bare = Service("bare", repositories=[TableRepository(Account, table)])

    @bare.on
    def take(account: Account | None, event: Paid) -> None: ...

    assert (await given(bare).when(Paid(account_id=1, amount=1))).error is None


@orders.handles
def withdraw(account: Account, command: Withdraw, step: Step) -> Paid | TooLittle:
    if command.amount > account.balance:
        if command.amount > 1000:
            raise TooLittle(balance=account.balance)
        return TooLittle(balance=account.balance)
    account.balance -= command.amount
    step.send(Remind(text="pay in again"))
    return Paid(account_id=account.id, amount=command.amount)


async def test_a_commands_handler_shows_its_answer_and_what_it_sends() -> None:
    scenario = given(orders, Account(1, 10))
    result = await scenario.when(Withdraw(account_id=1, amount=4), Withdraw(account_id=1, amount=7))
    paid, refused = result.answers
    assert paid == Paid(account_id=1, amount=4)
    assert isinstance(refused, TooLittle)
    assert refused.balance == 6
    assert result.published == [Remind(text="pay in again")]
    assert result.entity(Account, 1).balance == 6
    with pytest.raises(UsageError, match="it handles nothing"):  # answers are not for a test to give
        await given(Service("asks", calls=[Withdraw])).when(Withdraw(account_id=1, amount=1))
    result = await scenario.when(Withdraw(account_id=1, amount=1001))
    assert isinstance(result.error, TooLittle)
    assert result.answers == []
