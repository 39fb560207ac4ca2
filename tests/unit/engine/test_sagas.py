"""Sagas in their service: rows, local steps, commands, timers and parking, on each store that can."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.unit.engine.workbench import LIMIT_S, QUICK, _Shared, _until, bench, letters, settled, until_letters

from ensue import (
    Command,
    DeadlineExceeded,
    Discarded,
    Event,
    Failure,
    ReplyTimeout,
    Saga,
    SagaCancelled,
    SagaEnd,
    Service,
    Step,
    TableRepository,
    TimeLimitExceeded,
    UsageError,
)
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.config import EngineConfig
from ensue.engine.budget import Budget
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.engine.fits import check_fits
from ensue.engine.retention import prune_once
from ensue.engine.timers import put
from ensue.message import SAGA, TICK, DeadLetterState, Envelope, Message
from ensue.ports import Capabilities
from ensue.saga.code import declared_code
from ensue.saga.effects import LOOK_AGAIN, RunLocal, SetTimer
from ensue.saga.instance import Instance, Status
from ensue.saga.machine import LOOK_AGAIN_S, begun, go_on
from ensue.saga.undo import Undo
from ensue.stores.sqlite import SqliteStore
from ensue.tables import SAGAS, TIMERS
from ensue.testing import World, run


class Reserved(Event, topic="saga.credit", key="name"):
    name: str
    left: int


class Reserve(Command[Reserved], service="payers", key="name"):
    name: str
    total: int


class Release(Command[None], service="payers", key="name"):
    name: str
    total: int


class SagaLimitExceeded(Failure):
    available: int


class SagaNotNow(Failure):
    pass


class Paid(Event, topic="saga.paid", key="order"):
    order: str
    amount: int


class Orders(DeclarativeBase):
    pass


class Order(Orders):
    __tablename__ = "saga_rows"

    order: Mapped[str] = mapped_column(String(50), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))
    tries: Mapped[int] = mapped_column(default=0)


class Customers(DeclarativeBase):
    pass


class Customer(Customers):
    __tablename__ = "saga_customers"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    left: Mapped[int]


@dataclass(frozen=True)
class Place:
    order: str
    name: str = "ann"
    total: int = 10
    how: str = ""


BROKEN: set[str] = set()
SLOW: set[str] = set()


def make_customers() -> Service:
    customers = Service("payers", tables=Customers.metadata)

    @customers.handles
    def reserve(customer: Customer | None, command: Reserve) -> tuple[Customer, Reserved]:
        if command.name in BROKEN:
            raise ValueError("a bug of customers")
        customer = customer or Customer(name=command.name, left=100)
        if command.total > customer.left:
            raise SagaLimitExceeded(available=customer.left)
        customer.left -= command.total
        return customer, Reserved(name=command.name, left=customer.left)

    @customers.handles
    def release(customer: Customer, command: Release) -> None:
        if command.name in SLOW:
            SLOW.discard(command.name)
            raise SagaNotNow
        customer.left += command.total

    return customers


class Shop:
    """The service with its functions, made anew for each test."""

    def __init__(self) -> None:
        self.service = orders = Service("orders", tables=Orders.metadata, calls=[Reserve, Release])

        @orders.local
        def create(order: Order | None, new: Place) -> Order:
            if new.how == "refused":
                raise SagaNotNow
            if new.order in BROKEN:
                raise ValueError("a bug of orders")
            return order or Order(order=new.order, status="NEW", tries=0)

        @orders.local(id="name")
        def reject(order: Order, name: str) -> SagaNotNow | None:
            order.status = "REJECTED"
            order.tries += 1
            return SagaNotNow() if name in SLOW and order.tries < 3 else None

        @orders.local(id="name")
        def approve(order: Order, name: str, step: Step) -> int:
            order.status = "OPEN"
            step.publish(Paid(order=name, amount=1))
            return 7

        @orders.local
        async def count(status: str, session: AsyncSession) -> int:
            return await session.scalar(select(func.count()).select_from(Order).where(Order.status == status)) or 0

        @orders.saga(deadline=timedelta(hours=1))
        async def place(saga: Saga, new: Place) -> int:
            await saga.local(create, new, undo=saga.local(reject, new.order))
            if new.how == "pays":
                await saga.receive(Paid, limit=timedelta(minutes=30))
            reserved = await saga.call(
                Reserve(name=new.name, total=new.total),
                undo=Release(name=new.name, total=new.total),
                limit=timedelta(minutes=5),
            )
            if new.how == "gives up":
                raise SagaNotNow
            saga.pivot()
            if new.how == "sleeps":
                await saga.sleep(timedelta(days=1))
            if new.how == "counts":
                return int(await saga.local(count, "NEW"))
            opened: int = await saga.local(approve, new.order)
            return opened + reserved.left

        self.place = place

    async def start(self, *orders: Place) -> None:
        async with self.service.step() as step:
            for each in orders:
                step.start(self.place, each, id=each.order)

    async def end(self, order: str) -> SagaEnd[int]:
        return await self.service.ended(self.place, order, timeout=LIMIT_S)

    async def status(self, order: str) -> str:
        async with self.service.query() as session:
            return (await session.get_one(Order, order)).status

    async def saga(self, order: str) -> Instance:
        found = await self.service.runtime.context.books.saga(f"place:{order}")
        assert found is not None
        return found


@pytest.fixture
def shop() -> Shop:
    BROKEN.clear()
    SLOW.clear()
    return Shop()


@asynccontextmanager
async def running(
    url: str, tmp_path: Path, shop: Shop, *others: Service, engine: EngineConfig = QUICK
) -> AsyncIterator[World]:
    """The store under test is that of orders, which owns the sagas."""
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, shop.service, *others, stores={"orders": make_store(url, "orders")}, engine=engine) as world,
    ):
        yield world


async def left_of(customers: Service, name: str) -> int:
    async with customers.query() as session:
        return (await session.get_one(Customer, name)).left


async def test_a_saga_goes_to_its_end_and_says_so(sql_database: str, tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(sql_database, tmp_path, shop, customers) as world:
        await shop.start(Place("o-1"), Place("o-2", how="counts"))
        assert await shop.end("o-1") in (SagaEnd("COMPLETED", 97, None), SagaEnd("COMPLETED", 87, None))
        assert (await shop.end("o-2")).status == "COMPLETED"
        assert await shop.status("o-1") == "OPEN"
        await settled(world)
        assert await left_of(customers, "ann") == 80
        assert len(await world.published(Paid)) == 1, "what a local step publishes goes out once"
        assert await world.runtimes["orders"].store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9) == []


async def test_a_failure_undoes_in_reverse(sql_database: str, tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(sql_database, tmp_path, shop, customers):
        await shop.start(
            Place("o-1", total=1000), Place("o-2", how="gives up"), Place("o-3", how="refused"), Place("o-4")
        )
        end = await shop.end("o-1")
        assert (end.status, end.result) == ("UNDONE", None)
        assert isinstance(end.failure, SagaLimitExceeded)
        assert end.failure.available in (100, 90)
        assert isinstance((await shop.end("o-2")).failure, SagaNotNow)
        assert isinstance((await shop.end("o-3")).failure, SagaNotNow)
        assert (await shop.end("o-4")).status == "COMPLETED"
        assert [await shop.status(each) for each in ("o-1", "o-2", "o-4")] == ["REJECTED", "REJECTED", "OPEN"]
        async with shop.service.query() as session:
            assert await session.get(Order, "o-3") is None, "nothing of a step that raises is kept"
        assert await left_of(customers, "ann") == 90


async def test_one_id_is_started_once(sql_database: str, tmp_path: Path, shop: Shop) -> None:
    """NServiceBus#4150, and Persistence.Sql#199: start of an id that has ended."""
    customers = make_customers()
    async with running(sql_database, tmp_path, shop, customers) as world:
        await shop.start(Place("o-1", how="pays"), Place("o-1", how="pays"))
        await settled(world)
        await shop.start(Place("o-1", how="pays", total=50))
        async with shop.service.step() as step:
            step.tell(shop.place, "o-1", Paid(order="o-1", amount=1))
        assert (await shop.end("o-1")).status == "COMPLETED"
        await shop.start(Place("o-1"))
        await settled(world)
        assert await left_of(customers, "ann") == 90
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 3


async def test_a_local_step_that_fails_for_good_parks_its_saga_and_no_other(
    sql_database: str, tmp_path: Path, shop: Shop
) -> None:
    customers = make_customers()
    BROKEN.update({"o-3", "o-17"})
    async with running(sql_database, tmp_path, shop, customers) as world:
        await shop.start(*[Place(f"o-{number}", name=f"c-{number}", how="pays") for number in range(25)])
        async with shop.service.step() as step:
            for number in range(25):
                step.tell(shop.place, f"o-{number}", Paid(order=f"o-{number}", amount=1))
        for number in set(range(25)) - {3, 17}:
            assert (await shop.end(f"o-{number}")).status == "COMPLETED"
        await settled(world)
        parked = await shop.saga("o-3")
        assert (parked.status, parked.resumes, len(parked.mailbox)) == ("PARKED", "RUNNING", 1)
        assert "a bug of orders" in parked.reason
        assert await letters(world, shop.service) == []
        with pytest.raises(ReplyTimeout, match=r"it is PARKED, .*a bug of orders"):
            await shop.service.ended(shop.place, "o-3", timeout=0)
        BROKEN.clear()
        async with shop.service.step() as step:
            step.retry_saga(shop.place, "o-3")
            step.cancel_saga(shop.place, "o-17")
        assert (await shop.end("o-3")).status == "COMPLETED"
        end = await shop.end("o-17")
        assert isinstance(end.failure, SagaCancelled)


async def test_an_undo_that_fails_twice_works_then(sql_database: str, tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(sql_database, tmp_path, shop, customers):
        SLOW.update({"ann", "o-1"})  # the participant's undo fails once, and the local step's until it was tried thrice
        await shop.start(Place("o-1", how="gives up"))
        end = await shop.end("o-1")
        assert end.status == "UNDONE"
        async with shop.service.query() as session:
            assert (await session.get_one(Order, "o-1")).tries == 3
        assert await left_of(customers, "ann") == 100


async def test_a_command_that_an_operator_gives_up_undoes(sql_database: str, tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    BROKEN.add("ann")
    async with running(sql_database, tmp_path, shop, customers) as world:
        await shop.start(Place("o-1"))
        await until_letters(world, customers, 1, DeadLetterState.DEAD)
        [letter] = await letters(world, customers, DeadLetterState.DEAD)
        await world.discard(customers, letter)
        end = await shop.end("o-1")
        assert isinstance(end.failure, Discarded)
        assert await shop.status("o-1") == "REJECTED"


async def test_an_answer_after_the_time_limit_is_dropped_and_what_it_did_is_undone(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    BROKEN.add("ann")
    async with asyncio.timeout(LIMIT_S * 2), run(shop.service, customers, engine=None) as world:
        await shop.start(Place("o-1"))
        await world.settle()
        await world.advance(minutes=5)
        [letter, waiting] = await world.dead_letters(customers)
        assert waiting.state is DeadLetterState.WAITING, "the undo waits behind what it undoes"
        BROKEN.clear()
        await world.retry(customers, letter)
        await world.settle()
        end = await shop.end("o-1")
        assert isinstance(end.failure, TimeLimitExceeded)
        assert await left_of(customers, "ann") == 100, "no late success stays standing"
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 1


async def test_time_passes_for_sagas(shop: Shop) -> None:
    customers = make_customers()
    async with asyncio.timeout(LIMIT_S * 2), run(shop.service, customers) as world:
        await shop.start(Place("o-1", how="sleeps"), Place("o-2", how="pays"), Place("o-3", how="pays"))
        await world.settle()
        async with shop.service.step() as step:
            step.tell(shop.place, "o-3", Paid(order="o-3", amount=1))
        await world.advance(minutes=30)
        assert isinstance((await shop.end("o-2")).failure, TimeLimitExceeded)
        assert (await shop.end("o-3")).status == "COMPLETED"
        await world.advance(hours=23)
        assert (await shop.saga("o-1")).waits_for == "sleep"
        await world.advance(hours=1)
        assert (await shop.end("o-1")).status == "COMPLETED"


async def test_a_deadline_undoes_and_goes_with_the_saga(shop: Shop) -> None:
    customers = make_customers()
    SLOW.add("never")
    slow = Service("orders", calls=[Reserve, Release])

    @slow.saga(deadline=timedelta(minutes=1))
    async def waits(saga: Saga, new: Place) -> None:
        await saga.receive(Paid)

    async with asyncio.timeout(LIMIT_S * 2), run(slow, customers) as world:
        async with slow.step() as step:
            step.start(waits, Place("o-1"), id=1)
            step.start(waits, Place("o-2"), id=2)
        await world.settle()
        async with slow.step() as step:
            step.tell(waits, 2, Paid(order="o-2", amount=1))
        await world.advance(minutes=2)
        assert isinstance((await slow.ended(waits, 1, timeout=LIMIT_S)).failure, DeadlineExceeded)
        assert (await slow.ended(waits, 2, timeout=LIMIT_S)).status == "COMPLETED"
        assert await world.runtimes["orders"].store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9) == []


async def test_sagas_of_a_version_that_is_not_there_wait_for_it(tmp_path: Path) -> None:
    def service_of(number: int) -> tuple[Service, Any]:
        service = Service("orders")

        @service.saga(version=number, name="told")
        async def told(saga: Saga, new: Place) -> int:
            await saga.receive(Paid)
            return number

        return service, told

    newer, second = service_of(2)
    older, _ = service_of(1)
    async with bench(tmp_path, newer) as world:
        async with newer.step() as step:
            step.start(second, Place("o-1"), id=1)
        await settled(world)
    async with bench(tmp_path, older) as world:
        async with older.step() as step:
            declared = second.__ensue_saga__
            step.wake(*declared.tells(Paid(order="o-1", amount=1), 1))
        await settled(world)
        found = await older.runtime.context.books.saga("told:1")
        assert found is not None
        assert (found.status, found.waits_for) == ("RUNNING", "a process with the code of told, version 2")
    async with bench(tmp_path, newer) as world:
        async with newer.runtime.store.transaction() as transaction:  # it is due now, and not in 10 s
            rows = await newer.runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9)
            await transaction.update_rows(TIMERS, [(each[0], 0.0, *each[2:]) for each in rows])
        newer.runtime.context.timer_set.set()
        end: SagaEnd[int] = await newer.ended(second, 1, timeout=LIMIT_S)
        assert (end.status, end.result) == ("COMPLETED", 2)


@dataclass
class Account:
    account: str
    turns: int


class Counted:
    """A transaction that writes down what is asked of it."""

    def __init__(self, transaction: Any) -> None:
        self.asked: list[str] = []
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transaction, name)
        if name in ("load_rows", "insert_rows", "update_rows", "delete_rows", "outbox_add"):
            self.asked.append(name)
        return found


async def test_five_hundred_sagas_go_on_with_a_handful_of_statements(tmp_path: Path) -> None:
    tables = MetaData()
    accounts = Table("accounts", tables, Column("account", String(50), primary_key=True), Column("turns", Integer))
    orders = Service("orders", repositories=[TableRepository(Account, accounts)], calls=[Reserve, Release])

    @orders.local(id="order")
    def begin(account: Account | None, new: Place) -> Account:
        return Account(new.order, 1)

    @orders.local(id="order")
    def turn(account: Account, order: str) -> int:
        account.turns += 1
        return account.turns

    @orders.saga(deadline=timedelta(hours=1))
    async def rounds(saga: Saga, new: Place) -> None:
        await saga.local(begin, new, undo=None)
        await saga.local(turn, new.order, undo=None)
        await saga.call(Reserve(name=new.name, total=1), undo=None)

    store = SqliteStore(f"sqlite:///{tmp_path}/o.db", "orders")
    await store.open()
    await store.create_tables(tables)
    dispatcher = Dispatcher(orders, UniqueIds("x"), 1)
    code = declared_code(rounds)
    messages = []
    for number in range(1, 501):
        key, data = code.starts(Place(f"o-{number}"), number)
        messages.append(
            Message(
                "orders.replies", 0, number, key, "orders/1", number, number - 1, Envelope(f"x-{number}", SAGA), data
            )
        )
    async with store.transaction() as transaction:
        counted = Counted(transaction)
        outgoing = dispatcher.outgoing(transaction)
        assert await dispatcher.apply(counted, messages, outgoing) == 500
        await put(counted, outgoing.close())
        assert Counter(counted.asked) == {
            "load_rows": 3,  # the sagas, and the entities of each of two rounds of local steps
            "insert_rows": 3,  # entities, sagas, timers
            "update_rows": 1,
            "outbox_add": 1,
        }
    await store.close()


async def test_an_undo_is_measured_by_what_the_service_may_write(tmp_path: Path, shop: Shop) -> None:
    small = dataclasses.replace(QUICK, record_bytes_max=4_200)
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, make_customers(), engine=small) as world:
        await shop.start(Place("o-1"))
        await settled(world)
        found = await shop.saga("o-1")
        assert "a record of payers.commands at most 4200, so that it could never be sent (" in found.reason
        assert found.sent == {}


def test_stores_that_cannot_refuse_at_start(shop: Shop) -> None:
    with pytest.raises(UsageError, match=r"service orders has sagas \(place\)"):
        check_fits(shop.service, Capabilities(transactions=False))


async def test_steps_refuse_what_is_no_saga_of_theirs(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, customers):
        async with customers.step() as step:
            with pytest.raises(UsageError, match="is of service orders, and this is a step of payers"):
                step.start(shop.place, Place("o-1"), id=1)
            with pytest.raises(UsageError, match="is no saga"):
                step.start(make_customers, Place("o-1"), id=1)  # type: ignore[arg-type]
        async with shop.service.step() as ended:
            pass
        with pytest.raises(UsageError, match="woken after the step has ended"):
            ended.start(shop.place, Place("o-1"), id=1)
        with pytest.raises(UsageError, match="ask there"):
            await customers.ended(shop.place, 1, timeout=1)


def test_a_local_step_may_take_a_plain_session() -> None:
    orders = Service("orders")

    @orders.local
    def plain(name: str, session: Session) -> int:
        return 1

    assert orders.locals[plain].handler.where == "local step plain"


async def test_slow_local_steps_make_the_transactions_smaller(tmp_path: Path) -> None:
    clock = [0.0]
    orders = Service("orders")

    @orders.local
    def slow(name: str) -> None:
        clock[0] += 0.03

    @orders.saga
    async def one(saga: Saga, new: Place) -> None:
        await saga.local(slow, new.order, undo=None)

    store = SqliteStore(f"sqlite:///{tmp_path}/o.db", "orders")
    await store.open()
    dispatcher = Dispatcher(orders, UniqueIds("x"), 1)
    code = declared_code(one)
    done = []
    for start in (1, 11):
        messages = []
        for number in range(start, start + 10):
            key, data = code.starts(Place(f"o-{number}"), number)
            messages.append(Message("orders.replies", 0, number, key, "orders/1", number, 0, Envelope("x", SAGA), data))
        async with store.transaction() as transaction:
            outgoing = dispatcher.outgoing(transaction)
            done.append(await dispatcher.apply(transaction, messages, outgoing, Budget(0.1, lambda: clock[0])))
    await store.close()
    assert done == [10, 4], "nothing is known of the first ones; then no more once the time is over"


async def test_stopped_in_the_middle_of_undoing_it_goes_on_when_it_starts_again(tmp_path: Path, shop: Shop) -> None:
    """temporal sdk-java#305."""
    customers = make_customers()
    keeper = MemoryBroker("memory:stopped-while-undoing")
    await keeper.open()
    async with bench(tmp_path, shop.service, broker=MemoryBroker("memory:stopped-while-undoing")) as world:
        await shop.start(Place("o-1"))  # and nobody answers: customers do not run
        await settled(world)
        async with shop.service.step() as step:
            step.cancel_saga(shop.place, "o-1")
        await settled(world)
        assert (await shop.saga("o-1")).status == "UNDOING"
        left = await world.messages("payers.commands")
    again = Shop()
    found = [each.type for each in left if each.type != TICK]
    assert found == ["payers.commands.Reserve.v1", "payers.commands.Release.v1"], "undo lies behind do"
    async with bench(tmp_path, again.service, customers, broker=MemoryBroker("memory:stopped-while-undoing")):
        assert (await again.end("o-1")).status == "UNDONE"
        assert await again.status("o-1") == "REJECTED"
        assert await left_of(customers, "ann") == 100
    await keeper.close()


async def test_a_clock_that_goes_back_an_hour_loses_no_timer_and_fires_none_twice(tmp_path: Path, shop: Shop) -> None:
    moment = [1_800_000_000.0]
    customers = make_customers()

    class Clock(SystemClock):
        def now(self) -> float:
            return moment[0]

    clock = Clock()
    store = SqliteStore(f"sqlite:///{tmp_path}/orders.db?synchronous=OFF", "orders", now=clock.now)
    async with bench(tmp_path, shop.service, customers, stores={"orders": store}, clock=clock) as world:
        await shop.start(Place("o-1", how="sleeps"))
        while not (await world.messages("orders.replies"))[1:]:
            await settled(world)
        await settled(world)
        moment[0] -= 3600
        world.runtimes["orders"].context.timer_set.set()
        await settled(world)
        assert (await shop.saga("o-1")).waits_for == "sleep"
        moment[0] += 3600 + 86_400
        world.runtimes["orders"].context.timer_set.set()
        assert (await shop.end("o-1")).status == "COMPLETED"
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 0


async def test_ended_sagas_go_with_the_retention_and_others_stay(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, customers) as world:
        await shop.start(Place("o-1"), Place("o-2", total=1000), Place("o-3", how="pays"))
        await shop.end("o-1")
        await shop.end("o-2")
        await settled(world)
        context = world.runtimes["orders"].context
        await prune_once(context, await context.store.now() + context.config.retention_s + 1)
        assert [await context.books.saga(f"place:o-{number}") is None for number in (1, 2, 3)] == [True, True, False]


async def test_sagas_move_with_their_service(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, customers) as world:
        await shop.start(Place("o-1"), Place("o-2", how="pays"))
        await shop.end("o-1")
        await settled(world)
        kept = [row[0] async for table, row in world.runtimes["orders"].context.books.kept(0.0) if table is SAGAS]
        assert sorted(kept) == ["place:o-1", "place:o-2"]


async def test_who_may_only_answer_has_no_say_in_sagas(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, customers) as world:
        await shop.start(Place("o-1", how="pays"))
        await settled(world)
        async with customers.step() as step:
            _, data = declared_code(shop.place).ordered("cancel", "o-1")
            step.emit("orders.replies", SAGA, "place:o-1", len("place:o-1"), data)
        await until_letters(world, shop.service, 1, DeadLetterState.DEAD)
        [letter] = await letters(world, shop.service)
        assert "expected one of orders itself" in letter.error
        assert (await shop.saga("o-1")).status == "RUNNING"


async def test_what_cannot_even_be_taken_in_is_a_dead_letter_and_holds_up_nobody(tmp_path: Path, shop: Shop) -> None:
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, make_customers()) as world:
        async with shop.service.step() as step:
            key, data = declared_code(shop.place).starts(Place("o-1"), "o-1")
            step.wake(key, data.replace(b'"deadline_s":3600.0', b'"deadline_s":1e300'))
        await until_letters(world, shop.service, 1, DeadLetterState.DEAD)
        await shop.start(Place("o-2"))
        assert (await shop.end("o-2")).status == "COMPLETED"
        [letter] = await letters(world, shop.service)
        assert letter.error_type == "OverflowError"


async def test_a_process_without_sagas_keeps_an_answer_for_the_saga_of_another(tmp_path: Path, shop: Shop) -> None:
    customers, older = make_customers(), Service("orders", calls=[Reserve, Release])
    broker: Any = _Shared(MemoryBroker())  # it outlives the processes
    async with bench(tmp_path, shop.service, broker=broker) as world:
        await shop.start(Place("o-1"))

        async def asks() -> bool:
            found = await shop.service.runtime.context.books.saga("place:o-1")
            return found is not None and bool(found.sent)

        await _until(asks, world, "the saga has asked")
    async with bench(tmp_path, older, customers, broker=broker) as world:
        await settled(world)
        found = await older.runtime.context.books.saga("place:o-1")
        assert found is not None
        assert found.waits_for == "a process with the code of place, version 1"
        assert found.sent == {}
    async with bench(tmp_path, shop.service, customers, broker=broker) as world:
        async with shop.service.runtime.store.transaction() as transaction:  # it is due now, and not in 10 s
            rows = await shop.service.runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9)
            due = [each for each in rows if each[1] < time.time() + 60]
            await transaction.update_rows(TIMERS, [(each[0], 0.0, *each[2:]) for each in due])
        shop.service.runtime.context.timer_set.set()
        assert (await shop.end("o-1")).status == "COMPLETED"


def test_a_process_without_the_steps_of_a_version_leaves_its_undoing_to_another() -> None:
    found, _ = begun("newer:1", 2, b"{}", "c", 1.0, 0.0)
    found.status, found.undos = Status.UNDOING, [Undo(1, "local", "put_back", msgspec.Raw(b"{}"))]
    assert go_on(None, found, 1.0, {"other"}) == [SetTimer(LOOK_AGAIN, 1.0 + LOOK_AGAIN_S)]
    assert found.waits_for == "a process with the code of newer, version 2"
    assert [each.name for each in go_on(None, found, 1.0, {"put_back"}) if isinstance(each, RunLocal)] == ["put_back"]
