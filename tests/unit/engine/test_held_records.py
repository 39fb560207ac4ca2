"""A record that the broker refuses although it was published: its partition waits and says so, all others go on."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from servers import NatsServer
from tests.unit.engine.workbench import LIMIT_S, QUICK, bench, until, until_held

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.chain import partition_of
from ensue.codec import decode_envelope
from ensue.deciding import Deciding, Face
from ensue.engine import held, restored
from ensue.engine.ask import SEEN, ResendRequest, _append
from ensue.engine.witness import ask_subscribers
from ensue.errors import BrokerUnavailable, RecordRefused, StoreRestored
from ensue.message import WHO, Bounds, Garbage, Message
from ensue.operations.opening import Opened
from ensue.operations.outbox import outbox, withdraw
from ensue.ports import Entry
from ensue.testing import World


class Sent(Event, topic="t-held", key="lane"):
    lane: str
    number: int
    load: str = ""


class Small(Event, topic="t-held-small", key="lane"):
    lane: str
    number: int


class Broker(MemoryBroker):
    """Takes data up to `limit` bytes; `fail_after`: so many appends until it is away for one.

    stuck: a partition of which it answers, but an append there comes to no end before `freed`.
    batch_max: so many records of a partition at once. silent: a partition that it does not answer for; `waits` is set
    while somebody waits for that, and the wait ends with `gives_up`. hangs: nor does it ever say where that one ends;
    `hung` is set when somebody has asked.
    """

    limit = 100
    fail_after = -1
    batch_max = 10_000
    silent: tuple[str, int] | None = None
    stuck: tuple[str, int] | None = None
    hangs = False
    names = True

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()
        self.gives_up = asyncio.Event()
        self.freed = asyncio.Event()
        self.away = False
        self.hung = asyncio.Event()
        self.asked_while_away = asyncio.Event()

    async def topics(self) -> Mapping[str, int]:
        if self.away:
            raise BrokerUnavailable("away")
        return await super().topics()

    async def bounds(self, topic: str, partition: int) -> Bounds:
        if (topic, partition) == self.silent:
            if self.hangs:
                self.hung.set()
                await asyncio.Event().wait()
            raise BrokerUnavailable(f"no leader of {self.silent}")
        return await super().bounds(topic, partition)

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        await self.append_many(source, {(topic, partition): entries})
        return (await super().bounds(topic, partition)).last

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        if self.fail_after >= 0:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise BrokerUnavailable("away")
        if self.away:
            self.asked_while_away.set()
            raise BrokerUnavailable("away")
        if self.silent in batches:
            self.waits.set()
            await self.gives_up.wait()
            raise BrokerUnavailable(f"no leader of {self.silent}")
        if self.stuck in batches:
            self.waits.set()
            await self.freed.wait()
        for entries in batches.values():
            if len(entries) > self.batch_max:
                raise RecordRefused(f"{len(entries)} records, at most {self.batch_max}", position=None)
            for each in entries:
                if len(each.data) > self.limit:
                    raise RecordRefused(
                        f"{len(each.data)} bytes, at most {self.limit}: raise the limit",
                        position=each.position if self.names else None,
                    )
        await super().append_many(source, batches)


def asks(batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[tuple[str, int]]:
    """Where these records ask what subscribers have applied."""
    return [place for place, entries in batches.items() if any(WHO.encode() in each.envelope for each in entries)]


class Lanes:
    def __init__(self) -> None:
        self.sender = Service("lane-sender")
        self.reader = Service("lane-reader")
        self.seen: dict[str, list[int]] = {"a": [], "d": [], "small": []}

        @self.reader.on
        async def sent(event: Sent) -> None:
            self.seen[event.lane].append(event.number)

        @self.reader.on
        async def small(event: Small) -> None:
            self.seen["small"].append(event.number)

    async def publish(self, *numbers: int, big: int = -1) -> None:
        """In each lane; the event `big` of lane a is too large."""
        for number in numbers:
            async with self.sender.step() as step:
                step.publish(Sent(lane="a", number=number, load="x" * 200 * (number == big)))
                step.publish(Sent(lane="d", number=number))
                step.publish(Small(lane="a", number=number))

    def others_have(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.seen["d"]) == len(self.seen["small"]) == count


assert partition_of("a", 2) != partition_of("d", 2)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Lanes:
    monkeypatch.setattr(held, "RETRY_S", 0.05)
    monkeypatch.setattr(held, "AGAIN_S", 0.05)
    return Lanes()


def sender(lanes: Lanes, world: World) -> Any:
    return world.runtimes[lanes.sender.name]


async def test_other_partitions_and_topics_go_on_and_the_held_one_says_what_is_wrong(
    lanes: Lanes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=Broker(), partitions=2) as world:
        await lanes.publish(0, 1, 2, 3, big=1)
        await until(lanes.others_have(4), world)
        await lanes.publish(4)
        await until(lanes.others_have(5), world)
        assert lanes.seen["a"] == [0]  # what was before it went out, nothing behind it overtook it
        records = await sender(lanes, world).store.outbox_after(0, 100)
        refused = next(each for each in records if len(each.data) > 100)
        [reason] = await sender(lanes, world).readiness()
        assert f"{refused.topic}/{refused.partition} is held at position {refused.position}" in reason
        for word in ("t-held.Sent.v1 with id ", f"{len(refused.data)} bytes, at most 100: raise the limit"):
            assert word in reason
        logged = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert logged
        assert all(line.startswith(reason) for line in logged)
        assert await sender(lanes, world).context.books.relay_position() < refused.position


async def test_when_the_broker_takes_it_the_held_partition_follows_in_order(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(*range(20), big=3)
        await until(lanes.others_have(20), world)
        broker.fail_after, broker.limit = 2, 1000  # and it goes away in the middle
        await until(lambda: len(lanes.seen["a"]) == 20, world)
        await world.settle()
        assert lanes.seen == {"a": [*range(20)], "d": [*range(20)], "small": [*range(20)]}
        assert await sender(lanes, world).readiness() == []


async def test_a_relay_that_starts_anew_sends_what_was_held(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        await until(lanes.others_have(3), world)
        await sender(lanes, world).stop()
        broker.limit = 1000
        await sender(lanes, world).start()
        await until(lambda: len(lanes.seen["a"]) == 3, world)
        assert lanes.seen == {"a": [0, 1, 2], "d": [0, 1, 2], "small": [0, 1, 2]}


async def test_a_broker_that_names_no_record_holds_the_one_that_is_too_large(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    broker.names = False
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        async with lanes.sender.step() as step:
            for number in range(30):
                step.publish(Sent(lane="a", number=number, load="x" * 200 * (number == 17)))
                step.publish(Sent(lane="d", number=number))
                step.publish(Small(lane="a", number=number))
        await until(lanes.others_have(30), world)
        await until(lambda: len(lanes.seen["a"]) == 17, world)
        assert lanes.seen["a"] == [*range(17)]
        [held] = await until_held(world, lanes.sender, 1)
        records = await sender(lanes, world).store.outbox_after(0, 100)
        assert held.position == next(each.position for each in records if len(each.data) > 100)
        broker.limit = 1000
        await until(lambda: len(lanes.seen["a"]) == 30, world)
        assert lanes.seen["a"] == [*range(30)]
        assert await until_held(world, lanes.sender, 0) == []


async def test_a_batch_that_is_too_much_at_once_goes_in_parts_and_nothing_is_held(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    broker.batch_max = 3
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        async with lanes.sender.step() as step:
            for number in range(50):
                step.publish(Sent(lane="a", number=number))
                step.publish(Sent(lane="d", number=number))
                step.publish(Small(lane="a", number=number))
        await until(lambda: all(len(each) == 50 for each in lanes.seen.values()), world)
        await world.settle()
        assert all(each == [*range(50)] for each in lanes.seen.values())
        assert await sender(lanes, world).readiness() == []


async def test_a_partition_that_is_not_answered_for_keeps_no_other_waiting(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await until(lambda: all(len(each) == 1 for each in lanes.seen.values()), world)
        broker.silent = "t-held", partition_of("a", 2)
        broker.gives_up.set()
        await lanes.publish(1)
        await until(lanes.others_have(2), world)
        assert lanes.seen["a"] == [0]
        [held] = await until_held(world, lanes.sender, 1)
        assert (held.topic, held.partition) == broker.silent
        assert "no leader" in held.reason
        # From now on nobody gives up: it is waited for while all others go on.
        broker.gives_up.clear()
        broker.waits.clear()
        async with asyncio.timeout(LIMIT_S):
            await broker.waits.wait()
        for number in range(2, 12):
            await lanes.publish(number)
            await until(lanes.others_have(number + 1), world)
        # Nor when the relay begins anew meanwhile, after an error, and cannot look at the end of that partition.
        broker.away = True
        await lanes.publish(12)
        async with asyncio.timeout(LIMIT_S):
            await broker.asked_while_away.wait()
        broker.away = False
        await until(lanes.others_have(13), world)
        assert lanes.seen["a"] == [0]
        broker.silent = None
        broker.gives_up.set()
        await until(lambda: len(lanes.seen["a"]) == 13, world)
        assert lanes.seen["a"] == [*range(13)]
        assert await until_held(world, lanes.sender, 0) == []


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_relay_that_starts_while_a_partition_is_not_answered_for_sends_to_all_others(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await until(lambda: all(len(each) == 1 for each in lanes.seen.values()), world)
        await sender(lanes, world).stop()
        await world.runtimes[lanes.reader.name].stop()
        broker.silent, broker.hangs = ("t-held", partition_of("a", 2)), hangs
        broker.gives_up.set()
        monkeypatch.setattr(restored, "LOOK_S", 0.05)
        await sender(lanes, world).start()
        await lanes.publish(1, 2)
        [held] = await until_held(world, lanes.sender, 1)
        assert (held.topic, held.partition, held.id) == (*broker.silent, "")
        assert "before it is known what it holds" in str(held)
        other = "t-held", partition_of("d", 2)
        while (await broker.bounds(*other)).last < 3:  # noqa: ASYNC110  # what is in the log is asked, there is no signal
            await asyncio.sleep(0.01)
        broker.silent = None
        await world.runtimes[lanes.reader.name].start()
        await until(lambda: all(len(each) == 3 for each in lanes.seen.values()), world)
        assert lanes.seen == {"a": [0, 1, 2], "d": [0, 1, 2], "small": [0, 1, 2]}
        assert await until_held(world, lanes.sender, 0) == []


async def test_an_older_copy_is_refused_when_the_partition_that_shows_it_answers_and_nothing_is_sent_there_before(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    path = tmp_path / f"{lanes.sender.name}.db"
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await world.settle()
        await sender(lanes, world).stop()
        copy = path.read_bytes()
        await sender(lanes, world).start()
        async with lanes.sender.step() as step:
            step.publish(Sent(lane="a", number=1))
        await world.settle()
        await sender(lanes, world).stop()
        assert not path.with_name(f"{path.name}-wal").exists()
        path.write_bytes(copy)
        place = broker.silent = "t-held", partition_of("a", 2)
        broker.hangs = True
        ends = (await MemoryBroker.bounds(broker, *place)).last
        monkeypatch.setattr(restored, "LOOK_S", 0.05)
        await sender(lanes, world).start()
        await lanes.publish(2)
        await until_held(world, lanes.sender, 1)
        other = "t-held", partition_of("d", 2)
        while (await broker.bounds(*other)).last < 2:  # noqa: ASYNC110  # what is in the log is asked, there is no signal
            await asyncio.sleep(0.01)
        broker.hung.clear()
        async with asyncio.timeout(LIMIT_S):
            await broker.hung.wait()  # it was asked again, and has sent nothing there
        broker.silent = None
        worker = sender(lanes, world).worker
        await asyncio.wait_for(worker.wait_failed(), LIMIT_S)
        assert isinstance(worker.failed, StoreRestored)
        assert (await broker.bounds(*place)).last == ends


@pytest.mark.parametrize("answers", [True, False])
async def test_where_nobody_could_be_asked_what_was_applied_nothing_is_sent_before_somebody_was(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """The log is gone. answers: the partition is looked at, and does not take the question; else neither."""
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=Broker(), partitions=2) as world:
        await lanes.publish(0)
        await world.settle()
    asked: list[tuple[str, int]] = []

    class Empty(Broker):
        async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
            await super().append_many(source, batches)
            asked.extend(asks(batches))

    broker, place, other = Empty(), ("t-held", partition_of("a", 2)), ("t-held", partition_of("d", 2))
    if answers:
        broker.stuck = place
    else:
        broker.silent, broker.hangs = place, True
    monkeypatch.setattr(restored, "LOOK_S", 0.05)
    engine = dataclasses.replace(QUICK, resend_interval_s=0.1)
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2, engine=engine) as world:
        await lanes.publish(1)
        [waiting] = await until_held(world, lanes.sender, 1)
        assert (waiting.topic, waiting.partition, waiting.id) == (*place, "")
        assert "before it is known" in str(waiting)
        assert other in asked
        assert place not in asked
        while (await broker.bounds(*other)).last < 2:  # noqa: ASYNC110  # what is in the log is asked, there is no signal
            await asyncio.sleep(0.01)
        broker.stuck = broker.silent = None
        broker.freed.set()
        assert await until_held(world, lanes.sender, 0) == []
        assert place in asked
        found = await broker.reader(*place, 0).read(10, 0.0)
        assert [each.data for each in found if isinstance(each, Message) and each.position > 1 and each.data]


async def test_subscribers_that_are_not_heard_have_not_said_that_they_have_applied_nothing(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(MemoryReader):
        async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
            return await asyncio.Event().wait() and ()

    class DeafBroker(Broker):
        deaf = False

        def reader(self, topic: str, partition: int, after: int) -> MemoryReader:
            return (Deaf if self.deaf else MemoryReader)(self, topic, partition, after)

    broker = DeafBroker()
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await world.settle()
        context = sender(lanes, world).context
        assert await ask_subscribers(context, [("t-held", 0)], 0.01) == {}
        broker.deaf = True
        monkeypatch.setattr(restored, "LOOK_S", 0.05)
        with pytest.raises(BrokerUnavailable, match=r"ensue.control: no answer within 0.05 s"):
            await ask_subscribers(context, [("t-held", 0)], 0.01)


async def test_what_a_subscriber_says_last_is_looked_into_before_anything_is_sent(lanes: Lanes, tmp_path: Path) -> None:
    class Answered(Broker):
        limit = 10_000
        words: tuple[ResendRequest, ...] = ()

        async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
            await super().append_many(source, batches)
            if asks(batches):
                words, self.words = self.words, ()
                await _append(world.runtimes[lanes.sender.name].context, SEEN, words)

    broker = Answered()
    engine = dataclasses.replace(QUICK, resend_interval_s=60.0)
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2, engine=engine) as world:
        await lanes.publish(0)
        await world.settle()
        context = sender(lanes, world).context
        [first] = await context.store.outbox_after(0, 1)
        said = ResendRequest(context.store.source, "t-held", 0, 98, 98, "lane-reader")
        copied = msgspec.structs.replace(said, id=decode_envelope(first.envelope).id)  # of ours, at a strange place
        lost = msgspec.structs.replace(said, after=99, id=sender(lanes, world)._hallmarked.next())
        broker.words = copied, lost
        with pytest.raises(StoreRestored, match="has applied position 99"):
            await ask_subscribers(context, [("t-held", 0)], 0.2)


async def test_a_partition_that_is_not_answered_for_when_what_was_sent_last_is_pruned_waits_alone(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await world.settle()
        runtime = sender(lanes, world)
        relay = runtime.worker.loops.relay
        await until(lambda: relay.position == 3, world)
        monkeypatch.setattr(restored, "LOOK_S", 0.05)
        place, other = ("t-held", partition_of("a", 2)), ("t-held", partition_of("d", 2))
        broker.silent, broker.hangs = place, True
        assert await runtime.store.outbox_prune(float("inf"), 3, 10) == 3
        await lanes.publish(1)
        [waiting] = await until_held(world, lanes.sender, 1)
        assert (waiting.topic, waiting.partition, waiting.id) == (*place, "")
        while (await broker.bounds(*other)).last < 2:  # noqa: ASYNC110  # what is in the log is asked, there is no signal
            await asyncio.sleep(0.01)
        ends = (await MemoryBroker.bounds(broker, *place)).last
        broker.silent = None
        assert await until_held(world, lanes.sender, 0) == []
        assert (await broker.bounds(*place)).last > ends


async def test_a_full_batch_of_a_partition_that_is_not_answered_for_lets_others_pass(
    lanes: Lanes, tmp_path: Path
) -> None:
    broker = Broker()
    broker.silent = "t-held", partition_of("a", 2)
    broker.gives_up.set()
    engine = dataclasses.replace(QUICK, batch_records_max=5)
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2, engine=engine) as world:
        async with lanes.sender.step() as step:
            for number in range(12):
                step.publish(Sent(lane="a", number=number))
            step.publish(Sent(lane="d", number=0))
            step.publish(Small(lane="a", number=0))
        await until(lanes.others_have(1), world)
        assert lanes.seen["a"] == []
        broker.silent = None
        await until(lambda: len(lanes.seen["a"]) == 12, world)
        assert lanes.seen["a"] == [*range(12)]


async def test_a_broker_that_is_away_holds_no_partition(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await until(lanes.others_have(1), world)
        broker.away = True
        await lanes.publish(1)
        async with asyncio.timeout(LIMIT_S):
            await broker.asked_while_away.wait()
        assert sender(lanes, world).worker.loops.relay.held == []
        broker.away = False
        await until(lanes.others_have(2), world)
        assert sender(lanes, world).worker.loops.relay.held == []


async def test_a_nats_server_with_a_lower_limit_holds_one_partition_only(
    lanes: Lanes, tmp_path: Path, start: Callable[..., Any]
) -> None:
    server = start(NatsServer, settings=["max_payload: 2048"])
    lanes.sender = Service("lane-sender", database=f"sqlite:///{tmp_path}/n.db", broker=server.url(), partitions=2)
    there = asyncio.Event()

    @lanes.sender.on
    async def small(event: Small) -> None:
        if event.number == 1:
            there.set()

    async with lanes.sender.running() as runtime:
        async with lanes.sender.step() as step:
            step.publish(Small(lane="a", number=0))
            step.publish(Sent(lane="a", number=0, load="x" * 3_000))
            step.publish(Small(lane="a", number=1))
        async with asyncio.timeout(20):
            await there.wait()
        [reason] = await runtime.readiness()
        assert "t-held/" in reason
        assert "the NATS server takes 2048" in reason
        # A person gives it up: what comes behind it is there, and nothing else was missed.
        [refused] = await runtime.context.books.held()
        access = Opened(lanes.sender, runtime.settings, runtime.store, None)
        await withdraw(access, refused.id, Deciding(actor="ann", origin=Face.CLI))
        async with lanes.sender.step() as step:
            step.publish(Sent(lane="a", number=1))
        async with asyncio.timeout(20):
            while (page := await outbox(access, 0, 10)).sent < page.head:  # noqa: ASYNC110  # what is saved has no signal
                await asyncio.sleep(0.02)
        assert [each.withdrawn for each in page.records] == [False, True, False, False]
        assert await runtime.readiness() == []
