"""Commands from the call to the answer: what is done once, what is answered, and by whom, on each store that can."""

from __future__ import annotations

import asyncio
import datetime
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, settled, store_of, until_letters

from ensue import (
    Command,
    Discarded,
    Event,
    Failure,
    Origin,
    ReplyTimeout,
    Service,
    Step,
    UsageError,
    coming_from,
)  # fmt: skip
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.codec import decode_envelope, encode_envelope
from ensue.engine import calls
from ensue.engine.fits import check_fits
from ensue.engine.runtime import Runtime
from ensue.errors import StoreUnavailable
from ensue.message import REPLY, REPLY_KEY, REPLY_TO, TICK, DeadLetterState
from ensue.ports import Capabilities
from ensue.reply import Reply, read_reply
from ensue.tables import REPLIES
from ensue.testing import World, given


class Reserved(Event, topic="commanded.credit", key="name"):
    name: str
    left: int


class Reserve(Command[Reserved], service="customers", key="name"):
    name: str
    total: int
    how: str = ""


class Register(Command[Reserved], service="customers", key="name"):
    name: str
    credit: int


class Forget(Command[None], service="customers", key="name"):
    name: str


class Count(Command[Reserved], service="customers", key="name"):
    name: str


class LimitExceeded(Failure):
    available: int


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "commanded_customers"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    left: Mapped[int]
    asked: Mapped[int] = mapped_column(default=0)


def make_customers() -> Service:
    customers = Service("customers", tables=Base.metadata)

    @customers.handles
    def register(customer: Customer | None, command: Register) -> tuple[Customer, Reserved]:
        customer = customer or Customer(name=command.name, left=command.credit, asked=0)
        return customer, Reserved(name=command.name, left=customer.left)

    @customers.handles
    def reserve(customer: Customer, command: Reserve, step: Step) -> Reserved | LimitExceeded:
        customer.asked += 1
        if command.how == "wrong":
            raise ValueError("a bug")
        if command.how == "nothing":
            return None  # type: ignore[return-value]
        if command.total > customer.left:
            failure = LimitExceeded(available=customer.left)
            if command.how == "unsayable":
                failure.available = "much"  # type: ignore[assignment]
            if command.how == "kept":
                return failure
            step.publish(Reserved(name="never", left=0))
            raise failure
        customer.left -= command.total
        return Reserved(name=command.name, left=customer.left)

    @customers.handles
    async def forget(command: Forget, session: AsyncSession) -> None:
        await session.delete(await session.get_one(Customer, command.name))

    @customers.handles
    async def count(command: Count, session: AsyncSession) -> Reserved:
        found = await session.scalar(select(func.count()).select_from(Customer))
        if not found:
            raise LimitExceeded(available=0)
        return Reserved(name=command.name, left=found)

    return customers


def make_orders() -> Service:
    return Service("orders", calls=[Reserve, Register, Forget, Count])


@asynccontextmanager
async def running(url: str, tmp_path: Path, *services: Service) -> AsyncIterator[World]:
    """The store under test is that of customers, who answer."""
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, *services, stores={"customers": make_store(url, "customers")}) as world,
    ):
        yield world


async def customer_of(customers: Service, name: str) -> tuple[int, int]:
    async with customers.query() as session:
        found = await session.get_one(Customer, name)
        return found.left, found.asked


async def replies(world: World) -> list[Reply]:
    return [read_reply(each.data) for each in await world.messages("orders.replies") if each.type == REPLY]


async def test_a_call_returns_the_reply_and_the_effect_is_there(sql_database: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        assert await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S) == Reserved(name="ann", left=10)
        assert await orders.call(Reserve(name="ann", total=3), timeout=LIMIT_S) == Reserved(name="ann", left=7)
        assert await customer_of(customers, "ann") == (7, 1)
        assert await orders.call(Count(name="x"), timeout=LIMIT_S) == Reserved(name="x", left=1)
        assert await orders.call(Forget(name="ann"), timeout=LIMIT_S) is None  # type: ignore[func-returns-value]
        with pytest.raises(LimitExceeded):
            await orders.call(Count(name="x"), timeout=LIMIT_S)
        commands = [each for each in await world.messages("customers.commands") if each.type != TICK]
        answers = [each for each in await world.messages("orders.replies") if each.type == REPLY]
        for command, answer in zip(commands[:5], answers, strict=False):
            assert (answer.envelope.causation_id, answer.key) == (command.id, command.id)
            assert answer.correlation_id == command.correlation_id
            assert (command.envelope.extensions or {}).get(REPLY_TO) == "orders.replies"


async def test_a_raised_failure_keeps_nothing_and_a_returned_one_keeps_all(sql_database: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        with pytest.raises(LimitExceeded) as raised:
            await orders.call(Reserve(name="ann", total=30), timeout=LIMIT_S)
        assert raised.value.available == 10
        assert await customer_of(customers, "ann") == (10, 0)
        with pytest.raises(LimitExceeded):
            await orders.call(Reserve(name="ann", total=30, how="kept"), timeout=LIMIT_S)
        assert await customer_of(customers, "ann") == (10, 1)
        await settled(world)
        assert await world.published(Reserved) == []
        assert await world.dead_letters(customers) == []


@pytest.mark.parametrize("refused", [1, 7, 40])
async def test_in_a_batch_only_those_that_are_refused_have_no_effect(
    refused: int, sql_database: str, tmp_path: Path
) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=100), timeout=LIMIT_S)
        async with orders.step() as step:
            for number in range(40):
                total = 1000 if number % (40 // refused) == 0 and number // (40 // refused) < refused else 1
                step.ask(Reserve(name="ann", total=total), reply_to="orders.replies", reply_key=f"saga-{number}")
        await settled(world)
        assert await customer_of(customers, "ann") == (100 - (40 - refused), 40 - refused)
        answers = (await replies(world))[1:]
        assert len(answers) == 40
        assert len({each.command for each in answers}) == 40
        assert sum(each.failure == "LimitExceeded" for each in answers) == refused
        keys = [each.key for each in await world.messages("orders.replies") if each.type == REPLY][1:]
        assert sorted(keys) == sorted(f"saga-{number}" for number in range(40))
        counters = (await world.runtimes["customers"].context.books.checkpoints()).values()
        assert sum(each.counters.applied for each in counters) == 41, "a refused command was applied too"
        assert sum(each.counters.retries + each.counters.dead for each in counters) == 0


async def test_a_command_that_is_sent_is_done_and_not_answered(sql_database: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        async with orders.step() as step:
            sent = step.send(Register(name="ann", credit=10))
            step.send(Reserve(name="ann", total=3))
            step.send(Reserve(name="ann", total=30))
        await settled(world)
        assert await customer_of(customers, "ann") == (7, 1)
        assert await replies(world) == []
        first = (await world.messages("customers.commands"))[0]
        assert (first.id, first.envelope.extensions) == (sent, None)
        assert await world.dead_letters(customers) == []


async def test_an_error_is_no_answer_until_an_operator_gives_the_command_up(sql_database: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        waiting = asyncio.create_task(orders.call(Reserve(name="ann", total=3, how="wrong"), timeout=LIMIT_S))
        await until_letters(world, customers, 1, DeadLetterState.DEAD)
        later = asyncio.create_task(orders.call(Reserve(name="ann", total=3), timeout=LIMIT_S))
        await until_letters(world, customers, 1, DeadLetterState.WAITING)
        assert not waiting.done()
        [letter, _] = await world.dead_letters(customers)
        await world.discard(customers, letter)
        with pytest.raises(Discarded):
            await waiting
        assert (await later).left == 7
        assert await customer_of(customers, "ann") == (7, 1)


async def test_a_letter_that_is_tried_again_may_be_refused(sql_database: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        waiting = asyncio.create_task(orders.call(Reserve(name="ann", total=30), timeout=LIMIT_S))
        await until_letters(world, customers, 1, DeadLetterState.DEAD)  # there is no such customer
        [letter] = await world.dead_letters(customers)
        async with customers.step() as step:
            step.session.add(Customer(name="ann", left=10, asked=0))
        await world.retry(customers, letter)
        with pytest.raises(LimitExceeded):
            await waiting
        await settled(world)
        assert await customer_of(customers, "ann") == (10, 0)
        assert await world.dead_letters(customers) == []
        assert len(await replies(world)) == 1


@pytest.mark.parametrize(
    ("how", "says"),
    [("nothing", "returned nothing, expected a Reserved or a Failure"), ("unsayable", "its field available")],
)
async def test_an_answer_that_cannot_be_given_is_the_handlers_fault(how: str, says: str, tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        async with orders.step() as step:
            step.ask(Reserve(name="ann", total=30, how=how), reply_to="orders.replies")
        await settled(world)
        [letter] = await world.dead_letters(customers)
        assert says in letter.error
        assert await customer_of(customers, "ann") == (10, 0)


async def test_an_answer_goes_to_topics_of_answers_alone(tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        async with orders.step() as step:
            step.ask(Register(name="ann", credit=10), reply_to="orders")
            with pytest.raises(UsageError, match=f"extension '{REPLY_KEY}'"):
                step.send(Register(name="bob", credit=10), {REPLY_KEY: "x"})
        await settled(world)
        [letter] = await world.dead_letters(customers)
        assert "expected a topic `<service>.replies`" in letter.error
        await world.discard(customers, letter)
        await settled(world)
        assert await replies(world) == []


async def test_a_strangers_command_that_comes_twice_is_done_and_answered_once(
    sql_database: str, tmp_path: Path
) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(sql_database, tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        sender = Sender(world.broker)
        asks = []
        for number, total in enumerate((3, 30)):
            record = sender.foreign(Reserve(name="ann", total=total), f"stranger-{number}")
            envelope = decode_envelope(record.envelope)
            envelope = msgspec.structs.replace(envelope, extensions={REPLY_TO: "orders.replies"})
            asks.append(msgspec.structs.replace(record, envelope=encode_envelope(envelope)))
        await sender.append(*asks)
        await settled(world)
        await sender.append(*asks, *asks)
        await settled(world)
        assert await customer_of(customers, "ann") == (7, 1)
        answers = [(each.command, each.failure) for each in await replies(world)]
        assert answers[1:] == [("stranger-0", ""), ("stranger-1", "LimitExceeded")]


async def test_a_call_that_takes_too_long_says_that_the_command_goes_on(tmp_path: Path) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        with pytest.raises(ReplyTimeout, match=r"no answer within 0 s\. The command goes on") as late:
            await orders.call(Register(name="ann", credit=10), timeout=0)
        await settled(world)
        assert await customer_of(customers, "ann") == (10, 0)
        store = world.runtimes["orders"].store
        assert [row[0] for row in await store.rows().get(REPLIES, [late.value.id])] == [late.value.id]
        assert await world.runtimes["orders"].context.books.prune_replies(await store.now() + 1, 10) == 1
        assert isinstance(late.value, TimeoutError)


@pytest.mark.parametrize("work", [True, False])
async def test_a_call_ends_with_its_service_and_says_that_the_command_goes_on(
    work: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database that it looks into is closed only when it has ended; who starts again finds the answer."""
    customers, orders, log = Service("customers"), make_orders(), f"sqlite:///{tmp_path}/log.db"
    looked, began, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @customers.handles
    async def forget(command: Forget) -> None:
        began.set()
        await go_on.wait()

    async def look(command_id: str) -> None:
        looked.set()

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, customers, broker=EmbeddedBroker(log)) as world:
        runtime = Runtime(
            orders, store_of(tmp_path, "orders"), EmbeddedBroker(log), world.runtimes["customers"].settings
        )
        monkeypatch.setattr(runtime.context.books, "reply", look)
        async with orders.running(runtime, work=work):
            waiting = asyncio.create_task(orders.call(Forget(name="ann"), timeout=3600))
            await looked.wait()
            if work:
                await began.wait()
        with pytest.raises(ReplyTimeout, match=r"no answer before orders stops\. The command goes on"):
            await waiting
        go_on.set()
        again = make_orders()
        async with bench(tmp_path, again, broker=EmbeddedBroker(log)) as world:
            await again.call(Forget(name="bob"), timeout=LIMIT_S)
            store = world.runtimes["orders"].store
            assert await store.rows().count(REPLIES, REPLIES.lookups[0], ()) == 2


async def test_an_answer_that_another_process_reads_is_found(tmp_path: Path) -> None:
    """A process that serves requests and has no worker; its answers are stored by one that has."""
    customers, orders = make_customers(), make_orders()
    front = make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        working = world.runtimes["orders"]
        runtime = type(working)(
            front, make_store(f"sqlite:///{tmp_path}/orders.db", "orders"), world.broker, working.settings
        )
        async with front.running(runtime, work=False):
            assert (await front.call(Register(name="ann", credit=10), timeout=LIMIT_S)).left == 10


async def test_whoever_waits_where_the_answer_is_stored_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAUSE_FIRST_S", 3600.0)
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders):
        assert (await orders.call(Register(name="ann", credit=10), timeout=3600)).left == 10


async def test_a_database_that_is_away_for_a_while_does_not_end_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        books = world.runtimes["orders"].context.books
        look = books.reply
        away = 3

        async def reply(command_id: str) -> Reply | None:
            nonlocal away
            away -= 1
            if away >= 0:
                raise StoreUnavailable("away")
            return await look(command_id)

        monkeypatch.setattr(books, "reply", reply)
        assert (await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)).left == 10
        away = 1
        with pytest.raises(ReplyTimeout, match="The own database did not answer: away"):
            await orders.call(Register(name="ann", credit=10), timeout=0)


async def test_an_entity_step_that_asks_for_the_session_answers_once(tmp_path: Path) -> None:
    """Its batch is begun anew when it asks, with the answers that were given before."""
    customers, orders = Service("customers", tables=Base.metadata), make_orders()

    @customers.handles
    def register(customer: Customer | None, command: Register) -> tuple[Customer, Reserved]:
        return Customer(name=command.name, left=command.credit), Reserved(name=command.name, left=command.credit)

    @customers.handles
    async def reserve(customer: Customer, command: Reserve, step: Step) -> Reserved:
        if command.how == "look":
            await step.session.scalar(select(func.count()).select_from(Customer))
        customer.left -= command.total
        return Reserved(name=command.name, left=customer.left)

    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        async with orders.step() as step:
            for how in ("", "", "look", ""):
                step.ask(Reserve(name="ann", total=1, how=how), reply_to="orders.replies")
        await settled(world)
        lefts = [msgspec.json.decode(each.data)["left"] for each in await replies(world)]
        assert lefts == [10, 9, 8, 7, 6]


@pytest.mark.parametrize("lacks", ["transactions", "publishes"])
def test_a_store_that_cannot_write_an_answer_with_its_effects_is_refused(lacks: str) -> None:
    capabilities = Capabilities(**{lacks: False})
    with pytest.raises(UsageError, match=r"handles Register, Reserve, .*SQLite, PostgreSQL and MariaDB can"):
        check_fits(make_customers(), capabilities)
    with pytest.raises(UsageError, match=r"calls Reserve, Register, .*SQLite, PostgreSQL and MariaDB can"):
        check_fits(make_orders(), capabilities)


async def test_a_failure_out_of_a_task_group_is_the_answer(tmp_path: Path) -> None:
    customers, orders = Service("customers", tables=Base.metadata), make_orders()

    async def ask_the_bank(error: Exception) -> None:
        raise error

    @customers.handles
    async def count(command: Count) -> Reserved:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask_the_bank(LimitExceeded(available=3)))
            if command.name == "two":
                tasks.create_task(ask_the_bank(ValueError("a bug")))
        raise AssertionError

    result = await given(customers).when(Count(name="one"))
    assert isinstance(result.error, LimitExceeded)
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        with pytest.raises(LimitExceeded) as raised:
            await orders.call(Count(name="one"), timeout=LIMIT_S)
        assert raised.value.available == 3
        async with orders.step() as step:
            step.ask(Count(name="two"), reply_to="orders.replies")
        await until_letters(world, customers, 1, DeadLetterState.DEAD)


async def test_handlers_of_all_kinds_answer(tmp_path: Path) -> None:
    """A plain def in a thread, one that returns what is awaited, one with nothing but the command."""
    customers, orders = Service("customers", tables=Base.metadata), make_orders()

    @customers.handles
    def register(command: Register, session: Session) -> Reserved:
        session.add(Customer(name=command.name, left=command.credit, asked=0))
        if command.credit < 0:
            raise LimitExceeded(available=0)
        return Reserved(name=command.name, left=command.credit)

    async def later(command: Count) -> Reserved:
        await asyncio.sleep(0)
        return Reserved(name=command.name, left=0)

    @customers.handles
    def count(command: Count):  # type: ignore[no-untyped-def]
        return later(command)

    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders):
        assert (await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)).left == 10
        with pytest.raises(LimitExceeded):
            await orders.call(Register(name="bob", credit=-1), timeout=LIMIT_S)
        assert (await orders.call(Count(name="x"), timeout=LIMIT_S)).left == 0
        async with customers.query() as session:
            assert [each.name for each in await session.scalars(select(Customer))] == ["ann"]


async def test_a_command_that_came_before_its_handler_is_done_when_that_is_deployed(tmp_path: Path) -> None:
    older, orders = Service("customers", tables=Base.metadata), make_orders()
    log = f"sqlite:///{tmp_path}/log.db"

    @older.handles
    def forget(command: Forget) -> None: ...

    async with bench(tmp_path, older, orders, broker=EmbeddedBroker(log)) as world:
        async with orders.step() as step:
            step.ask(Register(name="ann", credit=10), reply_to="orders.replies")
            step.ask(Reserve(name="ann", total=30), reply_to="orders.replies")
        await orders.call(Forget(name="bob"), timeout=LIMIT_S)
        assert len(await replies(world)) == 1
        assert await world.dead_letters(older) == []
    customers, orders = make_customers(), make_orders()
    async with bench(tmp_path, customers, orders, broker=EmbeddedBroker(log)) as world:
        assert (await orders.call(Reserve(name="ann", total=3), timeout=LIMIT_S)).left == 7
        assert [each.failure for each in await replies(world)] == ["", "", "LimitExceeded", ""]


async def test_a_handler_does_not_call_its_own_service_nor_another_one(tmp_path: Path) -> None:
    customers, orders = Service("customers", calls=[Count]), make_orders()
    refused = []

    @customers.handles
    async def forget(command: Forget) -> None:
        for service in (customers, orders):
            with pytest.raises(UsageError, match=r"inside a handler of customers: .*step.send\(Count") as error:
                await service.call(Count(name="ann"), timeout=1)
            refused.append(str(error.value).partition(" inside")[0])

    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders):
        await orders.call(Forget(name="ann"), timeout=LIMIT_S)
    assert refused == ["service customers calls Count", "service orders calls Count"]


async def test_a_request_with_a_key_does_not_call(tmp_path: Path) -> None:
    """A retry would send another command, since the answer of the first request is not kept with it."""
    customers, orders = make_customers(), make_orders()
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, orders) as world:
        with (
            coming_from(Origin(idempotency_key="k", fingerprint="f")),
            pytest.raises(UsageError, match=r"a request with an Idempotency-Key: .*step.send\(Register"),
        ):
            await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        with coming_from(Origin(correlation_id="flow-1")):
            await orders.call(Register(name="ann", credit=10), timeout=LIMIT_S)
        [command] = [each for each in await world.messages("customers.commands") if each.type != TICK]
        assert command.correlation_id == "flow-1"


async def test_what_cannot_be_called_is_refused(tmp_path: Path) -> None:
    customers, shop = make_customers(), Service("orders", publishes=[Reserved], calls=[Count])
    async with running(f"sqlite:///{tmp_path}/c.db", tmp_path, customers, shop):
        with pytest.raises(UsageError, match=r"write Service\('orders', calls=\[Reserve\]\)"):
            await shop.call(Reserve(name="ann", total=1), timeout=1)
        for timeout in (-1, math.nan, "5", datetime.timedelta(seconds=5)):
            with pytest.raises(UsageError, match=rf"timeout={re.escape(repr(timeout))}, expected a number of seconds"):
                await shop.call(Count(name="ann"), timeout=timeout)  # type: ignore[arg-type]
        async with shop.step() as step:
            with pytest.raises(UsageError, match=r"calls Count inside another step of orders: .*step.send\(Count"):
                await shop.call(Count(name="ann"), timeout=1)
            with pytest.raises(UsageError, match=r"is a command, .*step.send\(Count"):
                step.publish(Count(name="ann"))
            with pytest.raises(UsageError, match=r"is an event.*step.publish\(Reserved"):
                step.send(Reserved(name="ann", left=1))  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="sends Reserve, which its declaration leaves out"):
                step.send(Reserve(name="ann", total=1))
            step.send(Count(name="ann"))
        with pytest.raises(UsageError, match="is sent after its step has ended"):
            step.send(Count(name="ann"))
