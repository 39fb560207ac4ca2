"""A message that cannot be applied: its key waits, and nothing else does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, insert, select, text
from tests.unit.engine.workbench import (
    LIMIT_S,
    CountingStore,
    Sender,
    bench,
    config,
    letters,
    store_of,
    until_letters,
)

from ensue import BadMessage, Event, Retry, Service, Step
from ensue.brokers.memory import MemoryBroker
from ensue.engine.books import Books
from ensue.engine.gauges import GARBAGE, measure
from ensue.message import DeadLetterState, Garbage, OutboxRecord
from ensue.tables import CHECKPOINTS

DEAD, WAITING, RETRYING = DeadLetterState.DEAD, DeadLetterState.WAITING, DeadLetterState.RETRYING


class Fed(Event, topic="zoo", key="animal"):
    animal: str
    number: int


class Noticed(Event, topic="notices", key="animal"):
    animal: str
    number: int


tables = MetaData()
meals = Table(
    "meal", tables, Column("id", Integer, primary_key=True), Column("animal", String), Column("number", Integer)
)
plates = Table("plate", tables, Column("number", Integer, primary_key=True))
bills = Table(
    "bill",
    tables,
    Column("id", Integer, primary_key=True),
    Column("plate", ForeignKey("plate.number", deferrable=True, initially="DEFERRED")),
)


class Zoo:
    """A service that writes down each meal, and fails at the numbers in `sick`."""

    def __init__(self) -> None:
        self.sick: set[int] = set()
        self.service = Service("zoo", tables=tables)
        self.calls: list[int] = []

        @self.service.on
        async def feed(event: Fed, step: Step) -> None:
            self.calls.append(event.number)
            await step.session.execute(insert(meals).values(animal=event.animal, number=event.number))
            step.publish(Noticed(animal=event.animal, number=event.number))
            if event.number in self.sick:
                raise RuntimeError(f"meal {event.number} is off")

    async def eaten(self, animal: str | None = None) -> list[int]:
        async with self.service.query() as session:
            found = await session.execute(select(meals.c.animal, meals.c.number).order_by(meals.c.id))
            return [number for each, number in found if animal in (None, each)]


@pytest.fixture
def zoo() -> Zoo:
    return Zoo()


async def test_a_poison_message_holds_back_its_key_and_no_other(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {3}
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        await sender.send(*[Fed(animal="ab"[number % 2], number=number) for number in range(10)])
        await world.settle()
        assert await zoo.eaten("a") == [0, 2, 4, 6, 8]
        assert await zoo.eaten("b") == [1]
        found = await letters(world, zoo.service)
        assert [(each.key, each.state) for each in found] == [("b", DEAD)] + [("b", WAITING)] * 3
        assert (found[0].attempts, found[0].error_type) == (3, "RuntimeError")
        assert found[0].error.startswith("handler feed: meal 3 is off\n")
        assert len(await world.published(Noticed)) == 6


async def test_a_message_that_comes_later_queues_behind_its_key(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        await sender.send(Fed(animal="b", number=1))
        await world.settle()
        await sender.send(Fed(animal="b", number=2), Fed(animal="a", number=3))
        await world.settle()
        assert await zoo.eaten() == [3]
        assert [each.state for each in await letters(world, zoo.service)] == [DEAD, WAITING]


async def test_after_a_fix_a_released_letter_goes_first_and_its_key_follows_in_order(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        await sender.send(*[Fed(animal="b", number=number) for number in range(1, 7)])
        await world.settle()
        assert await zoo.eaten() == []
        zoo.sick = set()
        [first, *_] = await letters(world, zoo.service)
        await world.runtimes["zoo"].context.books.decide(first.id, DeadLetterState.RELEASED)
        await sender.send(Fed(animal="b", number=7))
        await world.settle()
        assert await zoo.eaten() == [1, 2, 3, 4, 5, 6, 7]
        assert await letters(world, zoo.service) == []


async def test_a_released_letter_that_fails_again_has_all_its_attempts_anew(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        await Sender(world.broker).send(Fed(animal="b", number=1))
        await world.settle()
        [dead] = await letters(world, zoo.service)
        calls = len(zoo.calls)
        await world.runtimes["zoo"].context.books.decide(dead.id, DeadLetterState.RELEASED)
        await world.settle()
        [again] = await letters(world, zoo.service)
        assert (again.state, again.attempts) == (DEAD, 3)
        assert len(zoo.calls) - calls == 3


async def test_a_discarded_letter_is_kept_as_a_record_and_frees_its_key(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        await Sender(world.broker).send(*[Fed(animal="b", number=number) for number in (1, 2, 3)])
        await world.settle()
        [first, *_] = await letters(world, zoo.service)
        await world.runtimes["zoo"].context.books.decide(first.id, DeadLetterState.DISCARDED)
        async with asyncio.timeout(LIMIT_S):
            while await zoo.eaten() != [2, 3]:
                await world.runtimes["zoo"].store.outbox_wait(0.05)
        [kept] = await letters(world, zoo.service)
        assert (kept.id, kept.state, kept.error) == (first.id, DeadLetterState.DISCARDED, first.error)
        assert "meal 1 is off" in kept.error


async def test_a_checkpoint_that_was_deleted_to_read_anew_gives_no_number_twice(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        store = world.runtimes["zoo"].store
        sender = Sender(world.broker)
        await sender.send(Fed(animal="bear", number=1))
        await world.settle()
        async with store.transaction() as transaction:
            await transaction.delete_rows(CHECKPOINTS, ["zoo/0"])
        await until_letters(world, zoo.service, 2)
        found = await letters(world, zoo.service)
        assert [(each.id, each.state) for each in found] == [("zoo/0:1", DEAD), ("zoo/0:2", WAITING)]


async def test_attempts_survive_a_restart(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    an_hour = config(retry=Retry(attempts_max=4, first_delay_s=3600.0, factor=1.0, delay_max_s=3600.0))
    async with bench(tmp_path, zoo.service, engine=an_hour) as world:
        await Sender(world.broker).send(Fed(animal="b", number=1))
        await until_letters(world, zoo.service, 1)
    soon = config(retry=Retry(attempts_max=4, first_delay_s=0.001, factor=1.0, delay_max_s=0.001))
    store = store_of(tmp_path, "zoo")
    await store.open()
    books = Books(store, "zoo")
    [letter] = await books.letters()
    assert (letter.state, letter.attempts) == (RETRYING, 1)
    assert letter.due_at - letter.parked_at > 2000
    async with store.transaction() as transaction:
        letter.due_at = 0.0  # the hour is over
        await books.change_letter(transaction, letter)
    await store.close()
    zoo.calls.clear()
    async with bench(tmp_path, zoo.service, engine=soon) as world:
        await world.settle()
        [letter] = await letters(world, zoo.service)
        assert (letter.state, letter.attempts, len(zoo.calls)) == (DEAD, 4, 3)


async def test_one_poison_in_a_hundred_costs_few_transactions(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {57}
    store = CountingStore(f"sqlite:///{tmp_path}/zoo.db?synchronous=OFF", "zoo")
    engine = config(retry=Retry(attempts_max=1))
    async with bench(tmp_path, zoo.service, stores={"zoo": store}, engine=engine) as world:
        before = store.transactions
        await Sender(world.broker).send(*[Fed(animal=f"{number}", number=number) for number in range(100)])
        await world.settle()
        # All; those before; it alone; set aside; those after.
        assert store.transactions - before == 5
        assert len(await zoo.eaten()) == 99


async def test_a_batch_of_nothing_but_poison_is_all_set_aside(zoo: Zoo, tmp_path: Path) -> None:
    """However long the batch: each failure cuts it once, and a thousand cuts must not lie inside each other."""
    number = 1500
    zoo.sick = set(range(number))
    engine = config(batch_records_max=number, retry=Retry(attempts_max=1))
    async with bench(tmp_path, zoo.service, engine=engine) as world:
        await Sender(world.broker).send(*[Fed(animal=f"{each}", number=each) for each in range(number)])
        await world.settle(60.0)
        found = await world.runtimes["zoo"].context.books.letters(None, (DEAD,), limit=number + 1)
        assert [each.position for each in found] == list(range(1, number + 1))
        assert await zoo.eaten() == []


async def test_data_of_the_wrong_shape_is_a_dead_letter_at_once_with_the_field_named(zoo: Zoo, tmp_path: Path) -> None:
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        wrong = [sender.raw(sender.record(Fed(animal=f"{at}", number=at)), data) for at, data in enumerate((
            b'{"animal": "x"}', b'{"animal": "x", "number": "many"}', b"not json", b"\xff\xfe", b"", b"[" * 5000
        ))]  # fmt: skip
        await sender.append(*wrong, sender.record(Fed(animal="x", number=9)))
        await world.settle()
        found = await letters(world, zoo.service)
        assert [(each.state, each.error_type) for each in found[:5]] == [(DEAD, BadMessage.__name__)] * 5
        assert [each.attempts for each in found[:5]] == [1] * 5
        assert "`number`" in found[0].error
        assert "$.number" in found[1].error
        assert found[5].state is DEAD
        assert await zoo.eaten() == [9]
        assert zoo.calls == [9]


async def test_unknown_types_are_counted_and_passed_over(zoo: Zoo, tmp_path: Path) -> None:
    async with bench(tmp_path, zoo.service) as world:
        await world.broker.ensure_topic("zoo", 1)
        sender = Sender(world.broker)
        known, other = sender.record(Fed(animal="a", number=1)), sender.record(Fed(animal="a", number=2))
        other.envelope = other.envelope.replace(b"zoo.Fed.v1", b"zoo.Fed.v2")
        await sender.append(known, other, sender.record(Fed(animal="a", number=3)))
        await world.settle()
        assert await zoo.eaten() == [1, 3]
        [checkpoint] = (await world.runtimes["zoo"].context.books.checkpoints()).values()
        assert (checkpoint.counters.applied, checkpoint.counters.unknown) == (2, 1)


async def test_garbage_in_the_log_is_kept_with_the_reason_and_holds_nothing_back(zoo: Zoo, tmp_path: Path) -> None:
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        await sender.send(Fed(animal="a", number=1))
        await sender.append(OutboxRecord("zoo", 0, "a", b"\x00not an envelope", b"whatever"))
        sender._position = 1
        await sender.send(Fed(animal="a", number=2))
        await world.settle()
        assert await zoo.eaten() == [1, 2]
        [letter] = await letters(world, zoo.service)
        assert (letter.state, letter.error_type, letter.data) == (DEAD, Garbage.__name__, b"whatever")
        assert (await measure(world.runtimes["zoo"].context, None, database=True))[GARBAGE] == {("zoo",): 1}


class Cook:
    """Handlers whose statements are refused late: at the flush, or at the commit."""

    def __init__(self) -> None:
        self.service = Service("cook", tables=tables, repositories=[])
        self.forgiving = False

    def at_flush(self) -> None:
        @self.service.on
        async def lay(event: Fed, step: Step) -> None:
            step.session.add(_Plate(number=event.number if self.forgiving else event.number % 7))

    def at_commit(self) -> None:
        @self.service.on
        async def bill(event: Fed, step: Step) -> None:
            await step.session.execute(insert(plates).values(number=event.number))
            plate = 1000 if event.number == 5 and not self.forgiving else event.number
            await step.session.execute(insert(bills).values(plate=plate))


def _mapped() -> type:
    from sqlalchemy.orm import registry

    class Plate:
        def __init__(self, number: int) -> None:
            self.number = number

    registry(metadata=tables).map_imperatively(Plate, plates)
    return Plate


_Plate = _mapped()


async def test_what_fails_at_the_flush_is_found_one_by_one_and_retried_without_blocking(tmp_path: Path) -> None:
    cook = Cook()
    cook.at_flush()
    async with bench(tmp_path, cook.service) as world:
        await Sender(world.broker).send(*[Fed(animal=f"{number}", number=number) for number in range(10)])
        await world.settle()
        found = await letters(world, cook.service)
        assert [(each.key, each.state, each.error_type) for each in found] == [
            (key, DEAD, "IntegrityError") for key in "789"
        ]
        assert [each.attempts for each in found] == [3, 3, 3]
        cook.forgiving = True
        for each in found:
            await world.runtimes["cook"].context.books.decide(each.id, DeadLetterState.RELEASED)
        await world.settle()
        assert await letters(world, cook.service) == []
        async with cook.service.query() as session:
            assert list(await session.scalars(text("SELECT number FROM plate ORDER BY number"))) == list(range(10))


async def test_what_the_database_refuses_at_commit_is_found_one_by_one(tmp_path: Path) -> None:
    cook = Cook()
    cook.at_commit()
    async with bench(tmp_path, cook.service) as world:
        await Sender(world.broker).send(*[Fed(animal=f"{number}", number=number) for number in range(10)])
        await world.settle()
        [letter] = await letters(world, cook.service)
        assert (letter.key, letter.state, letter.attempts) == ("5", DEAD, 3)
        assert "FOREIGN KEY" in letter.error
        cook.forgiving = True
        await world.runtimes["cook"].context.books.decide(letter.id, DeadLetterState.RELEASED)
        await world.settle()
        async with cook.service.query() as session:
            assert len(list(await session.scalars(text("SELECT plate FROM bill")))) == 10


async def test_a_handler_that_is_cancelled_from_inside_fails_like_any_other(tmp_path: Path) -> None:
    """E.g. a client library whose own task was cancelled. It must not end the loop that called it."""
    service = Service("zoo")
    done: list[int] = []

    @service.on
    async def feed(event: Fed) -> None:
        if event.number == 2:
            raise asyncio.CancelledError("the keeper went home")
        done.append(event.number)

    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(*[Fed(animal=f"{number}", number=number) for number in range(1, 5)])
        await world.settle()
        assert sorted(set(done)) == [1, 3, 4]
        [letter] = await letters(world, service)
        assert (letter.state, letter.attempts, letter.key) == (DEAD, 3, "2")
        assert "the keeper went home" in letter.error


async def test_a_foreign_message_waiting_behind_its_key_still_takes_effect_once(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = {1}
    async with bench(tmp_path, zoo.service) as world:
        sender = Sender(world.broker)
        await sender.append(sender.foreign(Fed(animal="b", number=1), "one"))
        await world.settle()
        again = [sender.foreign(Fed(animal="b", number=2), "two") for _ in range(2)]
        await sender.append(*again)
        await sender.append(*again)
        await world.settle()
        assert [each.state for each in await letters(world, zoo.service)] == [DEAD, WAITING]
        zoo.sick = set()
        [first, _] = await letters(world, zoo.service)
        await world.runtimes["zoo"].context.books.decide(first.id, DeadLetterState.RELEASED)
        await world.settle()
        await sender.append(*again, sender.foreign(Fed(animal="b", number=1), "one"))
        await world.settle()
        assert await zoo.eaten() == [1, 2]


async def test_garbage_does_not_push_the_keys_that_wait_out_of_sight(zoo: Zoo, tmp_path: Path) -> None:
    """A worker that does not know of a letter would apply the next message of its key."""
    zoo.sick = {1}
    broker = MemoryBroker("memory:garbage")  # one log for both lives
    async with bench(tmp_path, zoo.service, broker=broker) as world:
        sender = Sender(world.broker)
        await sender.append(*[OutboxRecord("zoo", 0, "", b"?", b"") for _ in range(1200)])
        await sender.send(Fed(animal="b", number=1))
        await world.settle()
    async with bench(tmp_path, zoo.service, broker=broker, engine=config(dead_letters_max=100)) as world:
        await sender.send(Fed(animal="b", number=2))
        books = world.runtimes["zoo"].context.books
        for each in await books.letters(limit=1150):
            await books.decide(each.id, DeadLetterState.DISCARDED)
        await world.settle()
        assert await zoo.eaten() == []
        found = await letters(world, zoo.service, DEAD, WAITING)
        assert [each.state for each in found if each.key] == [DEAD, WAITING]


async def test_a_partition_with_too_many_set_aside_waits_for_an_operator(zoo: Zoo, tmp_path: Path) -> None:
    zoo.sick = set(range(5))
    engine = config(dead_letters_max=5, batch_records_max=5)
    async with bench(tmp_path, zoo.service, engine=engine) as world:
        await Sender(world.broker).send(*[Fed(animal=f"{number}", number=number) for number in range(8)])
        await until_letters(world, zoo.service, 5, DEAD)
        [consumer] = world.runtimes["zoo"].worker.loops.consumers  # type: ignore[union-attr]
        assert consumer.offset == 5
        for each in (await letters(world, zoo.service, DEAD))[:2]:
            await world.runtimes["zoo"].context.books.decide(each.id, DeadLetterState.DISCARDED)
        await world.settle()
        assert await zoo.eaten() == [5, 6, 7]


async def test_a_handler_that_publishes_what_no_broker_takes_fails_and_its_message_is_set_aside(
    zoo: Zoo, tmp_path: Path
) -> None:
    """The relay never sees such an event, so that everything else goes out."""
    keeper = Service("keeper")

    @keeper.on
    async def notice(event: Fed, step: Step) -> None:
        step.publish(Noticed(animal=event.animal * 2_000, number=event.number))

    async with bench(tmp_path, keeper) as world:
        sender = Sender(world.broker)
        await sender.send(Fed(animal="b", number=1), Fed(animal="", number=2))
        await world.settle()
        [letter] = await letters(world, keeper)
        assert (letter.key, letter.state, letter.error_type) == ("b", DEAD, "EventRefused")
        assert "2000 bytes, expected at most 1024 bytes of UTF-8" in letter.error
        assert [each.number for each in await world.published(Noticed)] == [2]
