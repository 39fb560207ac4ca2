"""The relay against a broker and a database that come and go, against another relay, and against loss."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.unit.engine.workbench import LIMIT_S, QUICK, ReadByBroker, bench, config, until

from ensue import Event, Service, Step
from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.chain import partition_of
from ensue.codec import decode_envelope
from ensue.engine.ask import ask_again
from ensue.errors import BrokerUnavailable, StoreUnavailable
from ensue.message import CONTROL_TOPIC, TICK, Gap, Message, Partition
from ensue.ports import Entry
from ensue.stores.sqlite import SqliteStore


class Rung(Event, topic="bells", key="bell"):
    bell: str
    number: int


class Heard(Event, topic="ears", key="bell"):
    bell: str
    number: int


class Tower:
    """One service that rings, one that hears: the numbers heard, by bell, in the order of their effect."""

    def __init__(self) -> None:
        self.rings = Service("rings")
        self.hears = Service("hears")
        self.heard: dict[str, list[int]] = {}

        @self.hears.on
        async def hear(event: Rung, step: Step) -> None:
            # Outside of the database on purpose: a second time would show even if it was rolled back.
            self.heard.setdefault(event.bell, []).append(event.number)
            step.publish(Heard(bell=event.bell, number=event.number))

    async def ring(self, *numbers: int, bells: int = 1) -> None:
        async with self.rings.step() as step:
            for number in numbers:
                step.publish(Rung(bell=f"bell-{number % bells}", number=number))


@pytest.fixture
def tower() -> Tower:
    return Tower()


class Broker(ReadByBroker):
    """Notes what is appended; refuses to while it is `down`; loses what `loses` says it loses, and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.refused = 0
        self.calls: list[list[tuple[str, int, str]]] = []
        self.random: Random | None = None

    def loses(self, entry: Entry) -> bool:
        return self.random is not None and self.random.random() < 0.1

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        await self.append_many(source, {(topic, partition): entries})
        return (await self.bounds(topic, partition)).last

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        if self.down:
            self.refused += 1
            raise BrokerUnavailable("the broker is down")
        self.calls.append(
            [(*where, decode_envelope(each.envelope).type) for where, entries in batches.items() for each in entries]
        )
        kept = {where: [each for each in entries if not self.loses(each)] for where, entries in batches.items()}
        await super().append_many(source, kept)

    async def read_by(self, reader: MemoryReader, reading: Any) -> Any:
        if self.down:
            self.refused += 1
            reading.close()
            raise BrokerUnavailable("the broker is down")
        return await reading


async def test_steps_go_on_committing_while_the_broker_is_away_and_are_sent_when_it_is_back(
    tower: Tower, tmp_path: Path
) -> None:
    broker = Broker()
    async with bench(tmp_path, tower.rings, tower.hears, broker=broker) as world:
        await tower.ring(1, 2)
        await world.settle()
        broker.down = True
        for number in range(3, 203):
            await tower.ring(number)
            await asyncio.sleep(0)
        # Each refusal makes the pause longer, and commits do not shorten it: no busy loop while it is away.
        assert broker.refused < 60
        broker.down = False
        await world.settle(20.0)
    assert tower.heard == {"bell-0": list(range(1, 203))}


class Store(SqliteStore):
    """Does not answer while it is `down`."""

    down = False

    def _open(self) -> Any:
        if self.down:
            raise StoreUnavailable("the database is down")
        return super()._open()


async def test_a_database_that_does_not_answer_for_a_while_costs_time_and_nothing_else(
    tower: Tower, tmp_path: Path
) -> None:
    store = Store(f"sqlite:///{tmp_path}/hears.db?synchronous=OFF", "hears")
    async with bench(tmp_path, tower.rings, tower.hears, stores={"hears": store}) as world:
        for number in range(50):
            store.down = number % 10 >= 5
            await tower.ring(number)
            await asyncio.sleep(0.005)
        store.down = False
        await world.settle(20.0)
        assert {each.number for each in await world.published(Heard)} == set(range(50))
        assert not await world.dead_letters(tower.hears)
    assert tower.heard == {"bell-0": list(range(50))}


@pytest.mark.parametrize("seed", range(5))
async def test_with_loss_while_live_records_flow_resending_converges(tower: Tower, tmp_path: Path, seed: int) -> None:
    """Every tenth record of everything is lost, the resent ones and requests and ticks too."""
    broker = Broker()
    broker.random = Random(seed)
    engine = config(batch_records_max=7)
    async with bench(tmp_path, tower.rings, tower.hears, broker=broker, engine=engine, partitions=2) as world:
        for start in range(0, 400, 4):
            await tower.ring(*range(start, start + 4), bells=5)
            await asyncio.sleep(0)
        await until(lambda: sum(map(len, tower.heard.values())) >= 400, world, f"all heard, seed {seed}")
        await world.settle(20.0)
    assert tower.heard == {f"bell-{bell}": list(range(bell, 400, 5)) for bell in range(5)}, f"seed {seed}"


async def test_two_relays_at_once_send_the_very_same_chain(tower: Tower, tmp_path: Path) -> None:
    """Each believes to be the only one: two workers whose leases do not hold them back."""
    from ensue.engine.relay import Relay

    async with bench(tmp_path, tower.rings, tower.hears, engine=config(batch_records_max=3)) as world:
        other = Relay(world.runtimes["rings"].context)
        running = asyncio.create_task(other.run())
        for start in range(0, 200, 5):
            await tower.ring(*range(start, start + 5))
            await asyncio.sleep(0)
        await until(lambda: other.position == 200, world)
        await world.settle()
        other.stop()
        await running
        sent = [each for each in await world.messages("bells") if each.type != TICK]
        assert len(sent) > 200
        chain = {(each.position, each.previous, each.id) for each in sent}
        assert {(position, previous) for position, previous, _ in chain} == {(at, at - 1) for at in range(1, 201)}
        assert len(chain) == 200
        [checkpoint] = (await world.runtimes["hears"].context.books.checkpoints()).values()
        assert (checkpoint.counters.applied, checkpoint.counters.gaps_seen) == (200, 0)
    assert tower.heard == {"bell-0": list(range(200))}


async def test_a_busy_partition_does_not_keep_a_quiet_one_from_ticking(tower: Tower, tmp_path: Path) -> None:
    broker = Broker()
    quiet, busy = (next(each for each in "abcdefgh" if partition_of(each, 2) == wanted) for wanted in (0, 1))
    engine = config(batch_records_max=1, tick_first_s=0.001, tick_max_s=0.001)
    async with bench(tmp_path, tower.rings, broker=broker, partitions=2, engine=engine) as world:
        async with tower.rings.step() as step:
            for number, bell in enumerate([quiet, *[busy] * 2000]):
                step.publish(Rung(bell=bell, number=number))
        await world.settle(LIMIT_S)
    last = max(at for at, [(_, _, kind), *_] in enumerate(broker.calls) if kind != TICK)
    assert ("bells", 0, TICK) in [each for call in broker.calls[:last] for each in call]


async def test_a_request_for_what_does_not_exist_does_not_stop_the_relay(tower: Tower, tmp_path: Path) -> None:
    async with bench(tmp_path, tower.rings, tower.hears) as world:
        runtime = world.runtimes["rings"]
        relay = runtime.worker and runtime.worker.loops.relay
        for where in (Partition("hears", "bells", 77), Partition("hears", "nowhere", 0)):
            await ask_again(runtime.context, where, Gap(runtime.store.source, 0, 5, 0.0))
            await ask_again(runtime.context, where, Gap("rings/of-old", 0, 5, 0.0))
        await tower.ring(1, 2, 3)
        await world.settle()
        assert (await world.broker.bounds(CONTROL_TOPIC, 0)).last == 4
        await tower.ring(4)
        await world.settle()
        assert (runtime.worker and runtime.worker.loops.relay) is relay
    assert tower.heard == {"bell-0": [1, 2, 3, 4]}


async def test_a_request_that_cannot_be_answered_is_not_read_for_ever(tower: Tower, tmp_path: Path) -> None:
    """Whatever the store makes of it: those behind it are answered."""
    async with bench(tmp_path, tower.rings, tower.hears) as world:
        runtime = world.runtimes["rings"]
        outbox_of = runtime.store.outbox_of

        async def fails(topic: str, partition: int, *rest: Any) -> Any:
            if topic == "belfries":
                raise OverflowError("int too large to convert to SQLite INTEGER")
            return await outbox_of(topic, partition, *rest)

        runtime.store.outbox_of = fails  # type: ignore[assignment,method-assign]
        await tower.ring(1)
        await world.settle()
        source = runtime.store.source
        await ask_again(runtime.context, Partition("hears", "belfries", 0), Gap(source, 0, 5, 0.0))
        position = (await world.broker.bounds("bells", 0)).last
        await ask_again(runtime.context, Partition("hears", "bells", 0), Gap(source, 0, 1, 0.0))

        reader = world.broker.reader("bells", 0, position)
        async with asyncio.timeout(LIMIT_S):
            while not any(isinstance(each, Message) and each.type != TICK for each in await reader.read(10, LIMIT_S)):
                pass
        await reader.close()
    assert tower.heard == {"bell-0": [1]}


async def test_a_relay_asks_nobody_in_partitions_that_its_new_log_does_not_have(tower: Tower, tmp_path: Path) -> None:
    """As in a test on a database that was filled with more partitions."""
    async with bench(tmp_path, tower.rings, tower.hears, partitions=4) as world:
        await tower.ring(*range(16), bells=16)
        await world.settle()
    engine = config(resend_interval_s=0.1)
    async with bench(tmp_path, tower.rings, broker=MemoryBroker("memory:fewer"), partitions=2, engine=engine) as world:
        await tower.ring(16)
        await world.settle()
        assert await world.runtimes["rings"].store.outbox_after(16, 1), "it was the seventeenth"


async def test_correlation_flows_through_and_causation_names_the_message_before(tmp_path: Path) -> None:
    first, second, third = Service("first"), Service("second"), Service("third")
    ended: list[Message] = []

    @second.on
    async def pass_on(event: Rung, step: Step) -> None:
        step.publish(Heard(bell=event.bell, number=event.number))

    @third.on
    async def end(event: Heard, message: Message) -> None:
        ended.append(message)

    async with bench(tmp_path, first, second, third, engine=QUICK) as world:
        async with first.step() as step:
            flow = step.correlation_id
            begun = step.publish(Rung(bell="a", number=1))
        await world.settle()
        [rung] = [each for each in await world.messages("bells") if each.type != TICK]
        [heard] = ended
        assert (rung.id, rung.correlation_id, rung.envelope.causation_id) == (begun, flow, "")
        assert (heard.correlation_id, heard.envelope.causation_id) == (flow, begun)
