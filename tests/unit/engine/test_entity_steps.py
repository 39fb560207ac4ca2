"""Entity steps: a batch's entities loaded and saved at once, with the effect of one event after the other."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.unit.engine.workbench import CountingStore, Sender, bench, config, letters, until_letters

from ensue import EntityMissing, Event, Message, Retry, Service, Step, TableRepository, UsageError
from ensue.message import DeadLetterState
from ensue.ports import StepTransaction
from ensue.testing import World, run


class Opened(Event, topic="accounts", key="account_id"):
    account_id: str
    owner: str = ""


class Moved(Event, topic="accounts", key="account_id"):
    account_id: str
    amount: Decimal


class Closed(Event, topic="accounts", key="account_id"):
    account_id: str


class Balance(Event, topic="balances", key="account_id"):
    account_id: str
    balance: Decimal


class Base(DeclarativeBase):
    pass


class Row(Base):
    """The same table for the mapped class and for the dataclass."""

    __tablename__ = "account"
    account_id: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[str]
    moves: Mapped[int]


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclasses.dataclass
class Plain:
    account_id: str
    balance: str
    moves: int


class CountedRepository(TableRepository[Plain]):
    """Counts how often entities are loaded and saved."""

    def __init__(self) -> None:
        super().__init__(Plain, Row.__table__)
        self.loads: list[int] = []
        self.saves: list[tuple[int, int]] = []

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, Plain]:
        self.loads.append(len(ids))
        return await super().load(transaction, ids)

    async def save(
        self, transaction: StepTransaction, changed: Mapping[Any, Plain], created: Mapping[Any, Plain]
    ) -> None:
        self.saves.append((len(changed), len(created)))
        await super().save(transaction, changed, created)


Entity = type[Row] | type[Plain]


def bank(entity: Any, repository: CountedRepository | None = None) -> Service:
    service = Service("bank", tables=Base.metadata, repositories=[repository] if repository else [])

    def open_account(account: Any, event: Opened, step: Step) -> Any:
        assert account is None, "opened twice"
        return entity(account_id=event.account_id, balance="0", moves=0)

    async def move(account: Any, event: Moved, step: Step) -> None:
        await asyncio.sleep(0)
        account.balance = str(Decimal(account.balance) + event.amount)
        account.moves += 1
        step.publish(Balance(account_id=event.account_id, balance=Decimal(account.balance)))

    open_account.__annotations__.update(account=entity | None)
    move.__annotations__.update(account=entity)
    service.on(open_account)
    service.on(move)
    return service


@pytest.fixture(params=["mapped class", "dataclass"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bank_of(kind: str) -> Service:
    return bank(Row) if kind == "mapped class" else bank(Plain, CountedRepository())


async def rows(service: Service) -> dict[str, tuple[str, int]]:
    async with service.query() as session:
        found = await session.execute(select(Row.account_id, Row.balance, Row.moves))
        return {account: (balance, moves) for account, balance, moves in found}


async def balances(world: World) -> list[Decimal]:
    return [each.balance for each in await world.published(Balance)]


async def test_two_events_of_one_entity_in_a_batch_see_each_others_effect(kind: str, tmp_path: Path) -> None:
    service = bank_of(kind)
    store = CountingStore(f"sqlite:///{tmp_path}/bank.db?synchronous=OFF", "bank")
    async with bench(tmp_path, service, stores={"bank": store}) as world:
        await Sender(world.broker).send(
            Opened(account_id="a"), Moved(account_id="a", amount=Decimal("10.00")), Opened(account_id="b"),
            Moved(account_id="a", amount=Decimal("-2.50")), Moved(account_id="b", amount=Decimal("1.00")),
        )  # fmt: skip
        await world.settle()
        assert await rows(service) == {"a": ("7.50", 2), "b": ("1.00", 1)}
        assert await balances(world) == [Decimal("10.00"), Decimal("7.50"), Decimal("1.00")]
        assert store.commits == 3  # its tables, its beginning, and one batch


async def test_a_batch_loads_and_saves_its_entities_once(tmp_path: Path) -> None:
    repository = CountedRepository()
    service = bank(Plain, repository)
    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.send(*[Opened(account_id=f"{number}") for number in range(50)])
        await world.settle()
        repository.loads.clear()
        repository.saves.clear()
        await sender.send(*[Moved(account_id=f"{number % 50}", amount=Decimal(1)) for number in range(200)])
        await world.settle()
        assert (repository.loads, repository.saves) == ([50], [(50, 0)])
        assert set((await rows(service)).values()) == {("4", 4)}


async def test_a_missing_entity_is_tried_again_and_then_set_aside_and_found_after_all(
    kind: str, tmp_path: Path
) -> None:
    service = bank_of(kind)
    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.send(Opened(account_id="here"), Moved(account_id="gone", amount=Decimal(1)))
        await sender.send(Moved(account_id="here", amount=Decimal(2)))
        await world.settle()
        [letter] = await letters(world, service)
        assert (letter.state, letter.attempts, letter.error_type) == (DeadLetterState.DEAD, 3, EntityMissing.__name__)
        assert "gone" in letter.error
        assert "| None" in letter.error
        assert (await rows(service))["here"] == ("2", 1)
        async with service.step() as step:
            step.session.add(Row(account_id="gone", balance="5", moves=0))
        await world.runtimes["bank"].context.books.decide(letter.id, DeadLetterState.RELEASED)
        await world.settle()
        assert (await rows(service))["gone"] == ("6", 1)


async def test_an_entity_that_comes_late_is_found_by_a_retry(kind: str, tmp_path: Path) -> None:
    """The event that makes it comes from another topic, with no order between the two."""
    service = bank_of(kind)
    patient = config(retry=Retry(attempts_max=50, first_delay_s=0.01, factor=1.0, delay_max_s=0.01))
    async with bench(tmp_path, service, engine=patient) as world:
        await Sender(world.broker).send(Moved(account_id="late", amount=Decimal(3)))
        await until_letters(world, service, 1)
        async with service.step() as step:
            step.session.add(Row(account_id="late", balance="1", moves=0))
        await world.settle()
        assert await rows(service) == {"late": ("4", 1)}
        assert await letters(world, service) == []


async def test_an_entity_changed_before_a_later_message_fails_is_saved_once(kind: str, tmp_path: Path) -> None:
    """The batch is rolled back and cut: what was changed in memory the first time must not come back."""
    service = bank_of(kind)
    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.send(Opened(account_id="a"))
        await world.settle()
        await sender.send(
            Moved(account_id="a", amount=Decimal(1)), Moved(account_id="gone", amount=Decimal(1)),
            Moved(account_id="a", amount=Decimal(1)),
        )  # fmt: skip
        await world.settle()
        assert await rows(service) == {"a": ("2", 2)}
        assert await balances(world) == [Decimal(1), Decimal(2)]


async def test_plain_and_entity_handlers_in_one_batch_see_each_others_effect(kind: str, tmp_path: Path) -> None:
    """Statements of the session, objects of the session and entity steps, one after the other on one row."""
    service = bank_of(kind)
    kept: list[Row] = []

    @service.on
    async def double(event: Closed, session: AsyncSession) -> None:
        account = await session.get_one(Row, event.account_id)
        kept.append(account)  # so it stays in the session's identity map, as objects that refer to each other do
        account.balance = str(Decimal(account.balance) * 2)
        account.moves += 1  # not flushed: whoever comes next must see it all the same
        session.add(Note(text=account.balance))

    store = CountingStore(f"sqlite:///{tmp_path}/bank.db?synchronous=OFF", "bank")
    async with bench(tmp_path, service, stores={"bank": store}) as world:
        closed, moved = Closed(account_id="a"), Moved(account_id="a", amount=Decimal(1))
        await Sender(world.broker).send(Opened(account_id="a"), moved, closed, moved, closed, closed, moved, closed)
        await world.settle()
        assert await rows(service) == {"a": ("26", 7)}  # ((1 * 2 + 1) * 4 + 1) * 2
        async with service.query() as session:
            assert list(await session.scalars(select(Note.text).order_by(Note.id))) == ["2", "6", "12", "26"]
        assert store.commits == 3  # its tables, its beginning, and one batch


async def test_an_event_with_a_plain_and_an_entity_handler_runs_both_in_order(kind: str, tmp_path: Path) -> None:
    service = bank_of(kind)

    @service.on
    async def note(event: Moved, session: AsyncSession) -> None:
        session.add(Note(text=(await session.get_one(Row, event.account_id)).balance))

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(
            Opened(account_id="a"), *[Moved(account_id="a", amount=Decimal(1)) for _ in range(3)]
        )
        await world.settle()
        assert await rows(service) == {"a": ("3", 3)}
        async with service.query() as session:
            assert list(await session.scalars(select(Note.text).order_by(Note.id))) == ["1", "2", "3"]


async def test_a_replaced_dataclass_is_saved_and_seen_by_the_next_event(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata, repositories=[CountedRepository()])

    @service.on(id="account_id")
    def move(account: Plain | None, event: Moved) -> Plain:
        if account is None:
            return Plain(event.account_id, str(event.amount), 1)
        return dataclasses.replace(
            account, balance=str(Decimal(account.balance) + event.amount), moves=account.moves + 1
        )

    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        for _ in range(2):
            await sender.send(*[Moved(account_id="a", amount=Decimal(1)) for _ in range(3)])
            await world.settle()
        assert await rows(service) == {"a": ("6", 6)}


async def test_another_object_in_place_of_a_mapped_one_is_refused_instead_of_lost(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)

    @service.on(id="account_id")
    def move(account: Row | None, event: Moved) -> Row:
        return Row(account_id=event.account_id, balance=str(event.amount), moves=(account.moves if account else 0) + 1)

    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.send(Moved(account_id="a", amount=Decimal(1)))
        await world.settle()
        await sender.send(Moved(account_id="a", amount=Decimal(5)))
        await world.settle()
        [letter] = await letters(world, service)
        assert (letter.state, letter.error_type) == (DeadLetterState.DEAD, UsageError.__name__)
        assert "Row" in letter.error
        assert await rows(service) == {"a": ("1", 1)}


async def test_ids_that_are_uuids_are_found_in_both_worlds(tmp_path: Path) -> None:
    class Basket(Event, topic="baskets", key="basket_id", type_name="Basket"):
        basket_id: UUID

    metadata = MetaData()
    baskets = Table("basket", metadata, Column("id", String, primary_key=True), Column("count", Integer))

    @dataclasses.dataclass
    class Kept:
        id: UUID
        count: int

    service = Service("bank", tables=metadata, repositories=[TableRepository(Kept, baskets)])

    @service.on(id="basket_id")
    def keep(basket: Kept | None, event: Basket) -> Kept:
        if basket is None:
            return Kept(event.basket_id, 1)
        basket.count += 1
        return basket

    ids = [uuid4(), uuid4()]
    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        for _ in range(2):
            await sender.send(*[Basket(basket_id=ids[number % 2]) for number in range(4)])
            await world.settle()
        async with service.query() as session:
            found = await session.execute(select(*metadata.tables["basket"].columns))
            assert sorted(tuple(each) for each in found) == sorted((each.hex, 4) for each in ids)


async def test_a_plain_def_handler_runs_in_a_thread_with_a_session_of_the_same_transaction(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)
    threads: list[threading.Thread] = []

    @service.on
    def open_account(event: Opened, session: Session, step: Step) -> None:
        threads.append(threading.current_thread())
        session.add(Row(account_id=event.account_id, balance="1", moves=0))
        session.execute(update(Row).where(Row.account_id == event.account_id).values(moves=Row.moves + 1))
        step.publish(Balance(account_id=event.account_id, balance=Decimal(1)))
        if event.owner == "nobody":
            raise RuntimeError("nobody opens an account")

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(*[Opened(account_id=name, owner=name) for name in ("a", "nobody", "b")])
        await world.settle()
        assert await rows(service) == {"a": ("1", 1), "b": ("1", 1)}
        assert len(await balances(world)) == 2
        assert threading.main_thread() not in threads


@pytest.mark.parametrize("way", ["commit", "rollback", "close"])
async def test_a_handler_that_ends_the_transaction_is_told_not_to_and_changes_nothing(way: str, tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)

    @service.on
    async def open_account(event: Opened, session: AsyncSession) -> None:
        await session.execute(insert(Row).values(account_id=event.account_id, balance="0", moves=0))
        await getattr(session, way)()

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(Opened(account_id="a"))
        await world.settle()
        [letter] = await letters(world, service)
        assert (letter.state, letter.error_type) == (DeadLetterState.DEAD, UsageError.__name__)
        assert f"the step commits by itself when its block or handler ends: remove {way}()" in letter.error
        assert await rows(service) == {}


async def test_the_idempotency_key_is_the_same_for_each_try_and_another_for_each_message(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)
    keys: dict[str, list[str]] = {}

    @service.on
    async def open_account(event: Opened, step: Step) -> None:
        keys.setdefault(event.account_id, []).append(step.idempotency_key)
        if len(keys["b"]) < 4 if event.account_id == "b" else False:
            raise RuntimeError("not yet")

    async with bench(tmp_path, service, engine=config(retry=Retry(first_delay_s=0.001, delay_max_s=0.001))) as world:
        await Sender(world.broker).send(*[Opened(account_id=name) for name in "abc"])
        await world.settle()
        assert await letters(world, service) == []
    assert len(keys["b"]) == 4
    assert [len(set(each)) for each in keys.values()] == [1, 1, 1]
    assert len({each for every in keys.values() for each in every}) == 3


async def test_a_handler_may_ask_for_the_message_alone_with_its_event(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)
    seen: list[tuple[str, str, int]] = []

    @service.on
    async def look(message: Message, event: Opened) -> None:
        seen.append((message.id, message.key, message.position))

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(Opened(account_id="a"))
        await world.settle()
    assert seen == [("elsewhere/1-1", "a", 1)]


async def test_a_step_of_the_same_service_inside_a_handler_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    service = Service("bank", tables=Base.metadata)

    @service.on
    async def open_account(event: Opened) -> None:
        async with service.step() as inner:
            inner.publish(Balance(account_id="a", balance=Decimal(1)))

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(Opened(account_id="a"))
        await world.settle()
        [letter] = await letters(world, service)
        assert letter.error_type == UsageError.__name__
        assert await balances(world) == []


async def test_reading_inside_a_handler_sees_what_is_committed(tmp_path: Path) -> None:
    service = bank(Row)
    counted: list[int] = []

    @service.on
    async def count(event: Closed) -> None:
        async with service.query() as session:
            counted.append(await session.scalar(select(func.count()).select_from(Row)) or 0)

    store = CountingStore(f"sqlite:///{tmp_path}/bank.db?synchronous=OFF", "bank")
    async with bench(tmp_path, service, stores={"bank": store}) as world:
        sender = Sender(world.broker)
        await sender.send(Opened(account_id="a"))
        await world.settle()
        await sender.send(Opened(account_id="b"), Closed(account_id="a"))
        await world.settle()
    assert counted == [1]


async def test_an_entity_of_another_id_than_the_event_names_is_refused() -> None:
    table = Table("other_ids", MetaData(), *(Column(name, String, primary_key=name == "account_id") for name in _NAMES))
    accounts = Service("accounts", tables=table.metadata, repositories=[TableRepository(Plain, table)])

    @accounts.on
    def open_account(account: Plain | None, event: Opened) -> Plain:
        return Plain("b", "0", 0) if account is None else dataclasses.replace(account, account_id="b")

    async with run(accounts) as world:
        async with world.runtimes["accounts"].step() as step:
            step.publish(Opened(account_id="a"))
            step.publish(Opened(account_id="b"))
            step.publish(Opened(account_id="c"))
        await world.settle()
        found = {letter.key: letter.error for letter in await world.dead_letters(accounts)}
        assert sorted(found) == ["a", "c"]
        assert "returned a Plain whose id is 'b'; the event names 'a' in 'account_id'" in found["a"]


_NAMES = ("account_id", "balance", "moves")


async def test_an_async_entity_step_that_asks_for_the_session_finds_what_came_before_it(
    kind: str, tmp_path: Path
) -> None:
    """The messages before it have changed their entities in memory only: they are done anew, one by one."""
    service = bank_of(kind)
    entity: Any = Row if kind == "mapped class" else Plain

    async def count(account: Any, event: Closed, step: Step) -> None:
        total = (await step.session.scalars(select(func.sum(Row.moves)))).one()
        step.session.add(Note(text=f"{event.account_id}:{total}"))

    count.__annotations__.update(account=entity)
    service.on(count)
    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(
            Opened(account_id="a"), Moved(account_id="a", amount=Decimal(1)), Closed(account_id="a"),
            Moved(account_id="a", amount=Decimal(1)), Closed(account_id="a"),
        )  # fmt: skip
        await world.settle()
        async with service.query() as session:
            assert [*await session.scalars(select(Note.text).order_by(Note.id))] == ["a:1", "a:2"]
        assert not await world.dead_letters(service)
