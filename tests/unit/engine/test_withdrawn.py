"""An event that the broker would never take, withdrawn by a person: nobody gets it, and nobody misses it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.engine.test_held_records import Broker, Lanes, lanes, sender
from tests.unit.engine.workbench import bench, until, until_held

from ensue.brokers.memory import MemoryBroker
from ensue.chain import partition_of
from ensue.deciding import Deciding, Face
from ensue.engine.ask import ResendRequest
from ensue.engine.lookup import records_between
from ensue.errors import UsageError
from ensue.message import WITHDRAWN, HeldPartition, Message
from ensue.operations.opening import Opened
from ensue.operations.outbox import outbox, withdraw
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
        with pytest.raises(UsageError, match=r"does not answer for t-held/\d, and may take it when it does"):
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
