"""A service that grows: handlers that come later, and processes of several versions of it beside each other."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.unit.engine.workbench import Sender, bench, config, letters, store_of, until, until_letters

from ensue import Event, Retry, Service
from ensue.brokers.embedded import EmbeddedBroker
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.catch_up import adopted, plan_catch_up
from ensue.chain import partition_of
from ensue.engine.attempt import DEATHS_MAX, Attempt
from ensue.engine.books import Books
from ensue.engine.consumer import PartitionConsumer
from ensue.errors import UsageError
from ensue.event import event_type
from ensue.message import CatchUp, Checkpoint, DeadLetterState, Envelope, Garbage, Message, OutboxRecord, Partition
from ensue.testing import World

PARTITIONS = 2


class Booked(Event, topic="bookings", key="booking"):
    booking: str
    number: int = 0


class Moved(Event, topic="bookings", key="booking"):
    booking: str
    number: int = 0


class Cancelled(Event, topic="bookings", key="booking"):
    booking: str
    number: int = 0


ALL = (Booked, Moved, Cancelled)
Since = Any


class Mail:
    """The service `mail` in a version that handles these events. seen: what its handlers were given, in order."""

    def __init__(self, *kinds: type, since: Since = "beginning", seen: list[Any] | None = None) -> None:
        self.service = Service("mail", publishes=[])
        self.seen: list[Any] = [] if seen is None else seen
        for kind in kinds:
            self._handle(kind, since)

    def _handle(self, kind: Any, since: Since) -> None:
        async def handle(event: Any) -> None:
            self.seen.append(event)

        handle.__annotations__["event"] = kind
        self.service.on(name=f"handle_{kind.__name__}", since=since)(handle)


def log_of(directory: Path) -> EmbeddedBroker:
    return EmbeddedBroker(f"sqlite:///{directory}/log.db?synchronous=OFF")


@asynccontextmanager
async def running(directory: Path, mail: Mail, **engine: Any) -> AsyncIterator[World]:
    async with bench(
        directory, mail.service, broker=log_of(directory), partitions=PARTITIONS, engine=config(**engine)
    ) as world:
        yield world


async def run(directory: Path, mail: Mail) -> None:
    """Until it has dealt with everything."""
    async with running(directory, mail) as world:
        await world.settle()
        assert not await letters(world, mail.service)


@pytest.fixture
async def sender(tmp_path: Path) -> AsyncIterator[Sender]:
    broker = log_of(tmp_path)
    await broker.open()
    await broker.ensure_topic("bookings", PARTITIONS)
    yield Sender(broker, partitions=PARTITIONS)
    await broker.close()


def numbers(mail: Mail, kind: type[Any]) -> list[int]:
    return sorted(each.number for each in mail.seen if isinstance(each, kind))


async def test_a_handler_that_comes_later_sees_what_was_published_before(tmp_path: Path, sender: Sender) -> None:
    await sender.send(*[kind(booking=str(n), number=n) for n in range(20) for kind in (Booked, Moved)])
    await run(tmp_path, old := Mail(Booked))
    await run(tmp_path, new := Mail(Booked, Moved))
    assert numbers(old, Booked) == numbers(new, Moved) == list(range(20))
    assert numbers(new, Booked) == []
    await sender.send(Moved(booking="a", number=20), Booked(booking="a", number=20))
    await run(tmp_path, newer := Mail(Booked, Moved))
    assert newer.seen == [Moved(booking="a", number=20), Booked(booking="a", number=20)]


async def test_what_a_process_of_another_version_passed_over_is_made_up_for_once(
    tmp_path: Path, sender: Sender
) -> None:
    """Deployed, taken back, deployed again."""
    versions = [(Booked,), (Booked, Moved), (Booked,), (Moved, Booked), (Moved,), ALL]
    seen: list[Any] = []
    for deploy, kinds in enumerate(versions):
        await sender.send(*[kind(booking=str(n), number=10 * deploy + n) for n in range(10) for kind in ALL])
        await run(tmp_path, Mail(*kinds, seen=seen))
    for kind in ALL:
        assert numbers(Mail(seen=seen), kind) == list(range(60)), kind


async def test_now_wants_nothing_older(tmp_path: Path, sender: Sender) -> None:
    await sender.send(Booked(booking="a", number=1), Moved(booking="a", number=1))
    await run(tmp_path, Mail(Booked))
    await sender.send(Moved(booking="a", number=2))
    await run(tmp_path, new := Mail(Booked, Moved, since="now"))
    await sender.send(Moved(booking="a", number=3))
    await run(tmp_path, newer := Mail(Booked, Moved))
    assert (new.seen, newer.seen) == ([], [Moved(booking="a", number=3)])


async def test_a_new_service_may_want_nothing_older_too(tmp_path: Path, sender: Sender) -> None:
    await sender.send(*[Booked(booking=str(n), number=n) for n in range(10)])
    await run(tmp_path, first := Mail(Booked, since="now"))
    await sender.send(Booked(booking="a", number=10))
    await run(tmp_path, second := Mail(Booked, since="now"))
    assert (first.seen, second.seen) == ([], [Booked(booking="a", number=10)])


async def test_a_time_wants_what_was_published_from_then_on(tmp_path: Path) -> None:
    publisher = Service("publisher")
    times: list[datetime.datetime] = []
    async with bench(tmp_path, publisher, broker=log_of(tmp_path), partitions=PARTITIONS) as world:
        for number in range(3):
            async with publisher.step() as step:
                step.publish(Booked(booking="a", number=number))
                times.append(step.now)
        await world.settle()
    await run(tmp_path, mail := Mail(Booked, since=times[1]))
    assert numbers(mail, Booked) == [1, 2]


@pytest.mark.parametrize("since", ["today", 5, datetime.datetime(2026, 1, 1)])
def test_another_since_is_refused(since: Since) -> None:
    with pytest.raises(UsageError, match='expected "beginning", "now" or a datetime with a time zone'):
        Mail(Booked, since=since)


async def test_a_reading_again_that_is_killed_goes_on_and_repeats_nothing(tmp_path: Path, sender: Sender) -> None:
    await sender.send(*[kind(booking=str(n), number=n) for n in range(60) for kind in (Booked, Moved)])
    await run(tmp_path, Mail(Booked))
    seen: list[Any] = []
    for _ in range(4):  # each ends in the middle
        mail = Mail(Booked, Moved, seen=seen)
        before = len(seen)
        async with running(tmp_path, mail, batch_records_max=3) as world:
            await until(lambda: len(seen) >= before + 5, world, "some are read again")  # noqa: B023  # at once
    await run(tmp_path, Mail(Booked, Moved, seen=seen))
    assert numbers(Mail(seen=seen), Moved) == list(range(60))


async def test_order_is_kept_when_the_new_type_goes_on_after_it(tmp_path: Path, sender: Sender) -> None:
    await sender.send(*[Moved(booking="a", number=n) for n in range(20)])
    await run(tmp_path, Mail(Booked))
    await sender.send(*[Moved(booking="a", number=n) for n in range(20, 40)])
    await run(tmp_path, mail := Mail(Booked, Moved))
    assert [each.number for each in mail.seen] == list(range(40))


async def test_a_process_of_an_older_version_leaves_its_partitions_to_a_newer_one(
    tmp_path: Path, sender: Sender
) -> None:
    old, new = Mail(Booked), Mail(Booked, Moved)
    quick = {"lease_ttl_s": 0.3}
    async with running(tmp_path, old, **quick) as before:
        assert len(held(before)) == PARTITIONS
        async with running(tmp_path, new, **quick) as after:
            await until(lambda: len(held(after)) == PARTITIONS, after, "the newer one has all partitions")
            await sender.send(*[kind(booking=str(n), number=n) for n in range(20) for kind in (Moved, Booked)])
            await after.settle()
            assert not held(before)
        await until(lambda: len(held(before)) == PARTITIONS, before, "alone again, the older one works")
        await sender.send(Booked(booking="a", number=20), Moved(booking="a", number=20))
        await before.settle()
    assert (numbers(new, Moved), numbers(new, Booked)) == (list(range(20)), list(range(20)))
    assert old.seen == [Booked(booking="a", number=20)]
    await run(tmp_path, newer := Mail(Booked, Moved))
    assert newer.seen == [Moved(booking="a", number=20)], "what the older one passed over when it was alone"


def held(world: World) -> Sequence[PartitionConsumer]:
    worker = world.runtimes["mail"].worker
    assert worker is not None
    return worker.loops.consumers


@pytest.mark.parametrize("since", ["beginning", "now"])
async def test_an_operator_has_a_type_handled_again_while_the_service_runs(
    tmp_path: Path, sender: Sender, since: Since
) -> None:
    await sender.send(*[kind(booking="a", number=n) for n in range(5) for kind in (Moved, Booked)])
    async with running(tmp_path, mail := Mail(Booked, Moved, since=since), lease_ttl_s=0.3) as world:
        await world.settle()
        before = len(mail.seen)
        books = world.runtimes["mail"].context.books
        for number in range(PARTITIONS):
            where = Partition("mail", "bookings", number)
            await books.replay(where, event_type(Moved).type, mail.service.wanted("bookings"))
        await until(lambda: len(mail.seen) == before + 5, world, "all of one type is handled again")
    assert mail.seen[before:] == [Moved(booking="a", number=n) for n in range(5)]


async def test_what_the_log_has_no_longer_is_not_waited_for(tmp_path: Path, sender: Sender) -> None:
    await sender.send(*[kind(booking="a", number=n) for n in range(10) for kind in (Moved, Booked)])
    await run(tmp_path, Mail(Booked))
    broker = log_of(tmp_path)
    await broker.open()
    await broker.prune("bookings", partition_of("a", PARTITIONS), before_s=time.time() + 60, limit=7)
    await broker.close()
    await run(tmp_path, mail := Mail(Booked, Moved))
    assert numbers(mail, Moved) == list(range(4, 10)), "the first seven records are gone"


async def test_what_follows_a_loss_that_was_accepted_is_read_again_too(tmp_path: Path, sender: Sender) -> None:
    events = [kind(booking="a", number=n) for n in range(6) for kind in (Moved, Booked)]
    records = [sender.record(each) for each in events]
    lost = records[4:6]
    await sender.append(*[each for each in records if each not in lost])
    partition = records[0].partition
    await sender.append(sender.lost("bookings", lost[0].previous, lost[-1].position, partition))
    async with running(tmp_path, old := Mail(Booked)) as world:
        books = world.runtimes["mail"].context.books
        where = Partition("mail", "bookings", partition)
        await world.settle()
        await books.accept_loss(where, sender.source)
        await until(lambda: len(old.seen) == 5, world, "what follows the loss")
    await run(tmp_path, mail := Mail(Booked, Moved))
    assert numbers(mail, Moved) == [0, 1, 3, 4, 5]


class Source(Sender):
    """Loses records at first; `all_again` sends everything once more, in order."""

    def __init__(self, broker: EmbeddedBroker, name: str, random: Random) -> None:
        super().__init__(broker, name, PARTITIONS)
        self._random = random
        self._sent: list[OutboxRecord] = []

    async def send(self, *events: object) -> None:
        for event in events:
            record = self.record(event)
            self._sent.append(record)
            if self._random.random() < 0.8:
                await self.append(record)
            if self._random.random() < 0.2:
                await self.append(self._random.choice(self._sent))

    async def all_again(self) -> None:
        await self.append(*self._sent)


@pytest.mark.parametrize("seed", range(16))
async def test_whatever_is_lost_or_repeated_each_event_is_handled_once(tmp_path: Path, seed: int) -> None:
    """By processes of any versions, each stopped at some point; the last one handles all types."""
    random = Random(seed)
    seen: list[Any] = []
    sent = 0
    broker = log_of(tmp_path)
    await broker.open()
    try:
        await broker.ensure_topic("bookings", PARTITIONS)
        sources = [Source(broker, f"source-{number}/1", random) for number in range(2)]
        for _ in range(random.randrange(2, 6)):
            for _ in range(random.randrange(1, 30)):
                event = random.choice(ALL)(booking=random.choice("abcd"), number=sent)
                await random.choice(sources).send(event)
                sent += 1
            if random.random() < 0.3:
                await random.choice(sources).all_again()
            mail = Mail(*random.sample(ALL, random.randrange(1, 4)), seen=seen)
            enough = len(seen) + random.randrange(20)
            async with running(tmp_path, mail, batch_records_max=random.choice([1, 3, 50])):
                for _ in range(200):
                    await asyncio.sleep(0)
                    if len(seen) >= enough:
                        break
        for source in sources:
            await source.all_again()
        await run(tmp_path, Mail(*ALL, seen=seen))
    finally:
        await broker.close()
    assert sorted(each.number for each in seen) == list(range(sent)), f"seed {seed}"


class SlowReader(MemoryReader):
    """Its first reads that wait end empty although there is something: that is still on its way."""

    slow = True

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        if self.slow and wait_s:
            self.slow = False
            return ()
        return await super().read(limit, wait_s)


class SlowToSend(MemoryBroker):
    def reader(self, topic: str, partition: int, after: int) -> MemoryReader:
        return SlowReader(self, topic, partition, after)


async def test_a_read_that_ends_before_anything_has_come_does_not_end_a_reading_again(tmp_path: Path) -> None:
    broker = SlowToSend("memory:slow-to-send")
    await broker.open()
    await broker.ensure_topic("bookings", 1)
    await Sender(broker).send(*[kind(booking=str(n), number=n) for n in range(4) for kind in (Booked, Moved)])
    for mail in (Mail(Booked), new := Mail(Booked, Moved)):
        async with bench(tmp_path, mail.service, broker=broker) as world:
            await world.settle()
    assert numbers(new, Moved) == [0, 1, 2, 3]


@pytest.mark.parametrize("poison", [0, 2, 3])
async def test_a_message_that_fails_in_a_reading_again_is_set_aside_alone(
    tmp_path: Path, sender: Sender, poison: int
) -> None:
    await sender.send(*[kind(booking=str(n), number=n) for n in range(4) for kind in (Booked, Moved)])
    await run(tmp_path, Mail(Booked))
    service, moved = Service("mail", publishes=[], retry=Retry(attempts_max=1)), Counter[int]()

    @service.on(name="handle_Booked")
    async def book(event: Booked) -> None: ...

    @service.on
    async def move(event: Moved) -> None:
        moved[event.number] += 1
        if event.number == poison:
            raise ValueError("no such seat")

    new = Mail()
    new.service = service
    async with running(tmp_path, new) as world:
        await until_letters(world, service, 1)
        await until(lambda: len(moved) == 4, world)
        [letter] = await letters(world, service)
        await world.settle()
    assert (letter.key, letter.state) == (str(poison), DeadLetterState.DEAD)
    assert moved.total() < 30, "the batch was cut, and not read again and again"


@pytest.mark.parametrize("deaths", [DEATHS_MAX - 2, DEATHS_MAX - 1])
async def test_a_message_that_kills_in_a_reading_again_is_found_too(
    tmp_path: Path, sender: Sender, deaths: int
) -> None:
    """What is stored as read lies behind it, and says nothing of how its attempt ended."""
    await sender.send(*[kind(booking="a", number=n) for n in range(4) for kind in (Booked, Moved)])
    partition = Partition("mail", "bookings", partition_of("a", PARTITIONS))
    await run(tmp_path, Mail(Booked))
    store = store_of(tmp_path, "mail")
    await store.open()
    books = Books(store, "mail")
    await books.heartbeat("dead", 600.0, [partition.place])
    [checkpoint] = [each for each in (await books.checkpoints()).values() if each.offset]
    following = adopted(checkpoint, {event_type(kind).type: "beginning" for kind in (Booked, Moved)}, 0)
    assert following is not None
    async with store.transaction() as transaction:
        await books.save_checkpoint(transaction, partition, following)
    await books.save_attempts([(partition, Attempt(target="4", alone=True, single=True, deaths={"4": deaths}))])
    await books.bury("dead")
    await store.close()
    new = Mail(Booked, Moved)
    async with running(tmp_path, new) as world:
        await world.settle()
        found = [each.error_type for each in await letters(world, new.service) if each.error_type]
    assert found == (["HandlerKilled"] if deaths == DEATHS_MAX - 1 else [])


def test_a_record_ahead_of_what_was_applied_does_not_end_the_chain_of_what_is_read_again() -> None:
    """It was taken back since, say: what follows on it in the log is the source's own."""
    chain = [(1, 0), (10**15, 1), (2, 1), (3, 2)]
    records = [
        Message("t", 0, offset, "k", "s/1", position, previous, Envelope(f"m{position}", "new"), b"")
        for offset, (position, previous) in enumerate(chain, 1)
    ]
    running = CatchUp(("new",), 0, len(records), {}, {}, {})
    todo = plan_catch_up(records, Checkpoint(watermarks={"s/1": 3}, catching_up=running), {"new": "beginning"}, ())
    assert [each.position for each in todo.apply] == [1, 2, 3]
    assert (todo.ends, todo.catching_up) == (True, None)
