"""An event that the broker would never take, withdrawn by a person: nobody gets it, and nobody misses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.unit.engine.test_held_records import Broker, Lanes, Sent, lanes, sender
from tests.unit.engine.workbench import LIMIT_S, bench, config, until, until_held

from ensue.brokers.memory import MemoryBroker
from ensue.chain import partition_of
from ensue.deciding import Deciding, Face
from ensue.engine.ask import ResendRequest
from ensue.engine.books import Books
from ensue.engine.epoch import begin_epoch, find_published
from ensue.engine.faults import Faults
from ensue.engine.held import Held
from ensue.engine.lookup import records_between
from ensue.engine.moving import move
from ensue.errors import StoreUnavailable, UsageError
from ensue.message import WITHDRAWN, HeldPartition, Message
from ensue.operations.opening import Opened
from ensue.operations.outbox import outbox, withdraw
from ensue.ports import Entry
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World

__all__ = ["lanes"]  # a fixture

PLACE = "t-held", partition_of("a", 2)
ANN = Deciding(actor="ann", origin=Face.CLI, reason="nobody reads 2 MB")


def access(lanes: Lanes, world: World) -> Opened:
    runtime = sender(lanes, world)
    return Opened(lanes.sender, runtime.settings, runtime.store, None, target="shop:sender")


async def by_ann(lanes: Lanes, world: World, message_id: str) -> HeldPartition:
    return await withdraw(access(lanes, world), message_id, ANN)


async def logged(broker: MemoryBroker) -> list[Message]:
    """What the log has of lane a, without ticks."""
    records = await records_between(broker, *PLACE, 0, (await MemoryBroker.bounds(broker, *PLACE)).last)
    return [each for each in records if isinstance(each, Message) and each.previous < each.position]


async def gaps_of(lanes: Lanes, world: World) -> int:
    checkpoints = await world.runtimes[lanes.reader.name].context.books.checkpoints()
    return sum(each.counters.gaps_seen + len(each.gaps) for each in checkpoints.values())


async def test_what_waits_behind_a_withdrawn_event_follows_and_nobody_sees_a_gap(lanes: Lanes, tmp_path: Path) -> None:
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=(broker := Broker()), partitions=2) as world:
        await lanes.publish(*range(5), big=2)
        [held] = await until_held(world, lanes.sender, 1)
        assert held.refused
        found = await by_ann(lanes, world, held.id)
        await until(lambda: len(lanes.seen["a"]) == 4, world)
        await lanes.publish(5)
        await world.settle()
        assert found.id == held.id
        assert lanes.seen == {"a": [0, 1, 3, 4, 5], "d": [*range(6)], "small": [*range(6)]}
        assert await gaps_of(lanes, world) == 0
        assert await sender(lanes, world).readiness() == []
        [empty] = [each for each in await logged(broker) if each.type == WITHDRAWN]
        assert (empty.id, empty.position, empty.data, empty.key) == (held.id, held.position, b"", "")
        page = await outbox(access(lanes, world), 0, 100)
        assert [each.position for each in page.records if each.withdrawn] == [held.position]
        [decision] = [each async for each in sender(lanes, world).context.books.decisions()]
        assert (decision.actor, decision.action, decision.target) == ("ann", "outbox withdraw", held.id)
        assert b"at most 100" in bytes(decision.before)


async def test_it_stays_withdrawn_when_the_limit_is_raised_and_the_relay_starts_anew(
    lanes: Lanes, tmp_path: Path
) -> None:
    """Decided while the relay was down, of the last event of its partition: the log ends with what stands in for it,
    and is still that of this database."""
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        await sender(lanes, world).stop()
        broker.limit = 1000
        store = sender(lanes, world).store
        await store.open()
        await by_ann(lanes, world, held.id)
        await store.close()
        for _ in range(2):
            await sender(lanes, world).start()
            await world.settle()
            assert await until_held(world, lanes.sender, 0) == []
            await sender(lanes, world).stop()
        await sender(lanes, world).start()
        await lanes.publish(2)
        await until(lambda: len(lanes.seen["a"]) == 2, world)
        assert lanes.seen["a"] == [0, 2]
        assert {each.type for each in await logged(broker) if each.id == held.id} == {WITHDRAWN}


async def test_what_is_sent_again_is_what_was_sent_in_its_place(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        await by_ann(lanes, world, held.id)
        await until(lambda: len(lanes.seen["a"]) == 2, world)
        await world.settle()
        broker.limit = 1000
        runtime = sender(lanes, world)
        request = ResendRequest(runtime.store.source, *PLACE, 0, held.position, "late")
        before = len(await logged(broker))
        await runtime.worker.loops.relay.resender.answer(request)
        again = (await logged(broker))[before:]
        assert [each.type == WITHDRAWN for each in again] == [False, True, False]
        assert again[1].id == held.id
        await world.settle()
        assert lanes.seen["a"] == [0, 2]


class Hiccup(Faults):
    """The database is away for a moment, when the relay comes to a point after so many times. Armed by `after`."""

    where, after = "relay.read", -1

    def point(self, name: str) -> None:
        if name == self.where and self.after >= 0:
            self.after -= 1
            if self.after < 0:
                raise StoreUnavailable("gone for a moment")


async def test_a_relay_that_begins_anew_before_it_has_saved_how_far_it_is_sends_the_stand_in_again(
    lanes: Lanes, tmp_path: Path
) -> None:
    broker, faults = Broker(), Hiccup()
    seldom = config(relay_save_interval_s=100.0)
    async with bench(
        tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2, faults=faults, engine=seldom
    ) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        await by_ann(lanes, world, held.id)
        await until(lambda: len(lanes.seen["a"]) == 2, world)
        await until_held(world, lanes.sender, 0)
        broker.limit, faults.after = 1000, 0
        await lanes.publish(3)
        await until(lambda: len(lanes.seen["a"]) == 3, world)
        await world.settle()
        types = [each.type for each in await logged(broker) if each.id == held.id]
        assert types == [WITHDRAWN, WITHDRAWN]


async def test_of_two_withdrawn_while_the_relay_was_down_neither_goes_out(lanes: Lanes, tmp_path: Path) -> None:
    """Also when it begins anew between them."""
    broker, faults = Broker(), Hiccup()
    one_by_one = config(batch_records_max=1)
    async with bench(
        tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2, faults=faults, engine=one_by_one
    ) as world:
        async with lanes.sender.step() as step:
            step.publish(Sent(lane="a", number=0, load="x" * 200))
            for number in range(1, 6):
                step.publish(Sent(lane="a", number=number))
            step.publish(Sent(lane="d", number=0, load="x" * 200))
        found = await until_held(world, lanes.sender, 2)
        await sender(lanes, world).stop()
        broker.limit = 1000
        store = sender(lanes, world).store
        await store.open()
        for each in found:
            await by_ann(lanes, world, each.id)
        await store.close()
        faults.where, faults.after = "relay.appended", 3
        await sender(lanes, world).start()
        await until(lambda: len(lanes.seen["a"]) == 5, world)
        await world.settle()
        assert faults.after < 0
        assert lanes.seen == {"a": [1, 2, 3, 4, 5], "d": [], "small": []}


async def test_who_decides_while_the_broker_takes_it_was_late_and_it_is_not_withdrawn(
    lanes: Lanes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Broker):
        """Takes its time for what is large, since the limit was raised."""

        async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
            if self.limit > 100 and any(len(each.data) > 100 for entries in batches.values() for each in entries):
                self.waits.set()
                await self.freed.wait()
            await super().append_many(source, batches)

    broker = Slow()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        broker.limit = 1000
        async with asyncio.timeout(LIMIT_S):
            await broker.waits.wait()
        await by_ann(lanes, world, held.id)
        broker.freed.set()
        await until(lambda: len(lanes.seen["a"]) == 3, world)
        await until_held(world, lanes.sender, 0)
        await world.settle()
        page = await outbox(access(lanes, world), 0, 100)
        assert not any(each.withdrawn for each in page.records)
        assert {each.type for each in await logged(broker) if each.id == held.id} == {"t-held.Sent.v1"}
    assert f"message {held.id} in t-held/{PLACE[1]} was withdrawn while the broker took it: it is out" in caplog.text


async def test_what_went_out_as_the_relay_stopped_cannot_be_withdrawn(
    lanes: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, release = Broker(), Held.release
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        relay = sender(lanes, world).worker.loops.relay

        def and_stop(self: Held, where: tuple[str, int]) -> None:
            release(self, where)
            relay.stop()

        monkeypatch.setattr(Held, "release", and_stop)
        broker.limit = 1000
        await until(lambda: len(lanes.seen["a"]) == 3, world)
        await sender(lanes, world).stop()
        store = sender(lanes, world).store
        await store.open()
        with pytest.raises(UsageError, match="is not what holds a partition"):
            await by_ann(lanes, world, held.id)
        await store.close()


@pytest.mark.parametrize("raised", [True, False])
async def test_an_epoch_that_ends_is_completed_with_the_stand_in(lanes: Lanes, tmp_path: Path, raised: bool) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        await until(lanes.others_have(3), world)
        runtime = sender(lanes, world)
        await runtime.stop()
        await runtime.store.open()
        await by_ann(lanes, world, held.id)
        if raised:
            broker.limit = 1000
        found = await find_published(runtime.store, world.broker)
        assert held.position in found.missing
        await begin_epoch(runtime.store, runtime.context.broker, found)
        await runtime.store.close()
        assert [each.type for each in await logged(broker) if each.id == held.id] == [WITHDRAWN]


async def test_it_is_withdrawn_in_the_database_that_the_service_moves_to(lanes: Lanes, tmp_path: Path) -> None:
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=Broker(), partitions=2) as world:
        await lanes.publish(0, 1, 2, big=1)
        [held] = await until_held(world, lanes.sender, 1)
        await by_ann(lanes, world, held.id)
        await until(lambda: len(lanes.seen["a"]) == 2, world)
        await world.settle()
        target = SqliteStore(f"sqlite:///{tmp_path}/new.db?synchronous=OFF", lanes.sender.name)
        await target.open()
        await move(sender(lanes, world).store, target, lanes.sender.name)
        moved = await Books(target, lanes.sender.name).withdrawn([held.id])
        await target.close()
        assert moved == {held.id}


async def test_what_waits_for_its_topic_is_not_refused_for_what_it_is(lanes: Lanes, tmp_path: Path) -> None:
    class Picky(Broker):
        wrong = True

        async def ensure_topic(self, topic: str, partitions: int) -> None:
            if self.wrong and topic == "t-held":
                raise UsageError("retention.ms is 1000: it would delete what subscribers may count on")
            await super().ensure_topic(topic, partitions)

    broker = Picky()
    async with bench(tmp_path, lanes.sender, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        for each in await until_held(world, lanes.sender, 2):
            with pytest.raises(UsageError, match=r"is not refused for what it is, .* mended: ret"):
                await by_ann(lanes, world, each.id)
        broker.wrong = False
        await until_held(world, lanes.sender, 0)


async def test_what_a_saga_or_a_recurring_step_lives_by_cannot_be_withdrawn(lanes: Lanes, tmp_path: Path) -> None:
    async with bench(tmp_path, lanes.sender, broker=Broker(), partitions=2) as world:
        await lanes.publish(0)
        await world.settle()
        books = sender(lanes, world).context.books
        for kind in ("ensue.saga", "ensue.every.clock.tick.v1"):
            await books.tell_held([HeldPartition("clock", 0, 99, kind, "m-9", "too large", refused=True)])
            with pytest.raises(UsageError, match=f"is Ensue's own, {kind}: a saga or a recurring step"):
                await by_ann(lanes, world, "m-9")


async def test_only_what_the_broker_refuses_can_be_withdrawn_and_once(lanes: Lanes, tmp_path: Path) -> None:
    broker = Broker()
    async with bench(tmp_path, lanes.sender, lanes.reader, broker=broker, partitions=2) as world:
        await lanes.publish(0)
        await until(lambda: all(len(each) == 1 for each in lanes.seen.values()), world)
        broker.silent = PLACE
        broker.gives_up.set()
        await lanes.publish(1)
        [held] = await until_held(world, lanes.sender, 1)
        assert not held.refused
        with pytest.raises(UsageError, match="is not refused for what it is, and may go out when that is mended: no"):
            await by_ann(lanes, world, held.id)
        broker.silent = None
        await until_held(world, lanes.sender, 0)
        with pytest.raises(
            UsageError, match=r"is not what holds a partition: .* now none \(ensue status shop:sender\)"
        ):
            await by_ann(lanes, world, held.id)
        await lanes.publish(2, big=2)
        [held] = await until_held(world, lanes.sender, 1)
        broker.limit = -1  # nor does it take the stand-in
        outcomes = await asyncio.gather(*[by_ann(lanes, world, held.id) for _ in range(2)], return_exceptions=True)
        assert sorted(type(each).__name__ for each in outcomes) == ["HeldPartition", "UsageError"]
        with pytest.raises(UsageError, match="is withdrawn already; its stand-in goes out when the relay tries again"):
            await by_ann(lanes, world, held.id)
        broker.limit = 0
        await until_held(world, lanes.sender, 0)
        assert len([each async for each in sender(lanes, world).context.books.decisions()]) == 1
