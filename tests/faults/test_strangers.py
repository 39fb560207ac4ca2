"""Somebody who can write to the log, and means harm: what he writes in a source's name is noticed, and costs little."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec
import pytest
from tests.unit.engine.workbench import LIMIT_S, bench, config, until

from ensue import Event, Service
from ensue.adapters import make_broker
from ensue.brokers.memory import MemoryBroker
from ensue.codec import encode_envelope
from ensue.engine.ask import REQUEST, SEEN, ResendRequest
from ensue.engine.gauges import DOUBTED, measure
from ensue.engine.rewind import before_last
from ensue.event import event_type
from ensue.message import CONTROL_TOPIC, TICK, Envelope, Message, OutboxRecord, Partition
from ensue.ports import Broker
from ensue.seal import sealed
from ensue.testing import World

Urls = Callable[[Any, Path], str]
HUGE = 10**15
WHERE = Partition("shop", "orders", 0)


class Ordered(Event, topic="orders", key="customer"):
    customer: str
    number: int


class Town:
    def __init__(self) -> None:
        self.till = Service("till", publishes=[Ordered])
        self.shop = Service("shop")
        self.got: list[int] = []

        @self.shop.on
        async def take(event: Ordered) -> None:
            self.got.append(event.number)

    async def order(self, *numbers: int, customer: str = "ann") -> None:
        async with self.till.step() as step:
            for number in numbers:
                step.publish(Ordered(customer=customer, number=number))


@pytest.fixture
def town() -> Town:
    return Town()


def forged(position: int, previous: int, kind: str = "", **envelope: Any) -> OutboxRecord:
    kind = kind or event_type(Ordered).type
    attributes = {"id": f"forged-{position}", "type": kind} | envelope
    data = b'{"customer":"ann","number":-1}' if kind != TICK else b""
    return OutboxRecord("orders", 0, "ann", encode_envelope(Envelope(**attributes)), data, position, previous)


async def forge(world: World, source: str, *records: OutboxRecord) -> None:
    """With the checksum that a whole record has: anybody can make that."""
    await world.broker.append("orders", 0, source, [sealed("orders", 0, source, each) for each in records])


async def say(world: World, kind: str, *said: ResendRequest | bytes) -> None:
    records = [
        OutboxRecord(
            CONTROL_TOPIC, 0, "", encode_envelope(Envelope(f"said-{at}", kind)),
            each if isinstance(each, bytes) else msgspec.json.encode(each),
        )
        for at, each in enumerate(said)
    ]  # fmt: skip
    await world.broker.append(CONTROL_TOPIC, 0, "evil", [sealed(CONTROL_TOPIC, 0, "evil", each) for each in records])


async def eventually(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(2 * LIMIT_S):
        while not await met():  # noqa: ASYNC110  # another task of the same loop makes it so
            await asyncio.sleep(0.01)


async def doubted(world: World, count: int) -> None:
    shop = world.runtimes["shop"]

    async def met() -> bool:
        return (await measure(shop.context, shop.worker))[DOUBTED] == {(): count}

    await eventually(met)


async def heard_all(world: World) -> None:
    """Wait until the till's relay has heeded what is in the control topic."""
    last = (await world.broker.bounds(CONTROL_TOPIC, 0)).last
    worker = world.runtimes["till"].worker
    assert worker is not None

    async def heeded() -> bool:
        return worker.loops.relay is not None and (worker.loops.relay.resender._heeded or 0) >= last

    await eventually(heeded)


async def events(world: World) -> list[Message]:
    return [each for each in await world.messages("orders") if each.type != TICK]


# ------------------------------------------------------------------------------------------------- the control topic


@pytest.mark.parametrize(
    "positions",
    [[0] * 50, list(range(400, 350, -1)), [0, 1] * 25, list(range(50)), [HUGE] * 50],
    ids=["the same", "descending", "alternating", "ascending", "far ahead"],
)
async def test_requests_of_some_kilobytes_bring_the_outbox_at_most_twice(
    town: Town, tmp_path: Path, positions: Sequence[int]
) -> None:
    engine = config(resend_interval_s=60.0, tick_first_s=60.0, tick_max_s=60.0)
    async with bench(tmp_path, town.till, engine=engine) as world:
        await town.order(*range(400))
        await world.settle()
        source = world.runtimes["till"].store.source
        asked = [ResendRequest(source, "orders", 0, after, max(400, after), "shop") for after in positions]
        await say(world, REQUEST, *asked)
        await heard_all(world)
        assert len(await events(world)) <= 3 * 400
        assert world.runtimes["till"].worker.failed is None  # type: ignore[union-attr]  # it works


async def test_nonsense_in_the_control_topic_harms_nobody(town: Town, tmp_path: Path) -> None:
    async with bench(tmp_path, town.till, town.shop) as world:
        await town.order(1)
        await world.settle()
        source = world.runtimes["till"].store.source
        whole = {"source": source, "topic": "orders", "partition": 0, "after": 0, "needed": 5, "subscriber": "shop"}
        changes: list[dict[str, Any]] = [
            {"after": 10**30}, {"after": -1}, {"needed": -(10**30)}, {"partition": 10**30}, {"partition": -1},
            {"topic": "a\r\nPUB x\0"}, {"topic": CONTROL_TOPIC}, {"topic": "nowhere"}, {"partition": 4000},
            {"source": "till/of-old", "topic": CONTROL_TOPIC}, {"source": "till/of-old", "topic": "a\0b"},
            {"source": "till/of-old", "partition": 4000}, {"id": 7},
        ]  # fmt: skip
        nested = b'{"source":"s","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for kind in (REQUEST, SEEN):
            await say(world, kind, nested, *(msgspec.json.encode(whole | each) for each in changes))
        said = (await world.broker.bounds(CONTROL_TOPIC, 0)).last
        await heard_all(world)
        await town.order(2, 3)
        await world.settle()
        assert (await world.broker.bounds(CONTROL_TOPIC, 0)).last == said, "nothing is sent into it"
        assert world.runtimes["till"].worker.failed is None  # type: ignore[union-attr]  # it works
    assert town.got == [1, 2, 3]


class Leaky(MemoryBroker):
    """Loses what is appended while `leaks`."""

    leaks = False

    async def append_many(self, source: str, batches: Any) -> None:
        if not self.leaks:
            await super().append_many(source, batches)


async def test_a_long_gap_heals_while_somebody_asks_for_everything_again_and_again(town: Town, tmp_path: Path) -> None:
    broker = Leaky()
    async with asyncio.timeout(3 * LIMIT_S), bench(tmp_path, town.till, town.shop, broker=broker) as world:
        await town.order(0)
        await world.settle()
        source = world.runtimes["till"].store.source
        broker.leaks = True
        await town.order(*range(1, 1500))
        relay = world.runtimes["till"].worker.loops.relay  # type: ignore[union-attr]  # it works
        await until(lambda: relay is not None and relay.position == 1500, world)
        broker.leaks = False
        await say(world, REQUEST, *(ResendRequest(source, "orders", 0, 1499 - at, 1500, "evil") for at in range(30)))
        await until(lambda: len(town.got) == 1500, world, "all are applied")
    assert town.got == list(range(1500))


# ------------------------------------------------------------------------------------------------- in a source's name


@pytest.mark.parametrize(
    "record", [forged(HUGE, 0), forged(HUGE, 0, TICK), forged(HUGE, 1)], ids=["event", "tick", "behind the first"]
)
async def test_what_cannot_be_of_the_chain_is_set_aside(town: Town, tmp_path: Path, record: OutboxRecord) -> None:
    async with bench(tmp_path, town.till, town.shop) as world:
        await town.order(1, 2, 3)
        await world.settle()
        await forge(world, world.runtimes["till"].store.source, record)
        await town.order(*range(4, 20))
        await world.settle()
        assert town.got == list(range(1, 20))
        [letter] = await world.runtimes["shop"].context.books.letters()
        assert letter.error


BROKERS: dict[str, Urls] = {
    "memory": lambda get, path: "memory:",
    "embedded": lambda get, path: f"sqlite:///{path}/log.db",
    "nats": lambda get, path: get("nats_server").url(),
    "redis": lambda get, path: get("redis_server").url(),
    "kafka": lambda get, path: f"{get('kafka_server').url()}?timeout_s=30&prefix=t{token_hex(4)}.",
    "rabbitmq": lambda get, path: f"{get('rabbitmq_server').url()}?prefix=t{token_hex(4)}.",
    "postgresql": lambda get, path: f"{get('postgres_server').url()}?schema=t{token_hex(4)}",
}


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_record_far_ahead_of_its_source_is_an_alarm_and_can_be_taken_back(
    town: Town, tmp_path: Path, broker: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    log: Broker = make_broker(BROKERS[broker](request.getfixturevalue, tmp_path))
    async with asyncio.timeout(3 * LIMIT_S), bench(tmp_path, town.till, town.shop, broker=log) as world:
        await town.order(1, 2, 3)
        await world.settle()
        source, shop = world.runtimes["till"].store.source, world.runtimes["shop"]
        await forge(world, source, forged(HUGE, 3))
        await until(lambda: town.got == [1, 2, 3, -1], world, "nobody can tell yet")
        await town.order(4, 5)
        await doubted(world, 1)
        assert "ensue gaps rewind MODULE:shop --topic orders --partition 0" in caplog.text
        await heard_all(world)

        async def told() -> bool:
            return "which neither this database nor one that it is a copy of has written" in caplog.text

        await eventually(told)
        assert world.runtimes["till"].worker.failed is None  # type: ignore[union-attr]  # its database is its own
        checkpoint = await shop.context.books.checkpoint(WHERE)
        assert await before_last(world.broker, WHERE, checkpoint, source) == 3
        await shop.context.books.rewind(WHERE, source, 3)
        await until(lambda: len(town.got) == 6, world, "what was skipped is applied")
        await town.order(6)
        await until(lambda: len(town.got) == 7, world)
        await doubted(world, 0)
    assert town.got == [1, 2, 3, -1, 4, 5, 6]


async def test_a_log_that_holds_the_forged_record_no_more_does_not_tell_what_was_before_it(
    town: Town, tmp_path: Path
) -> None:
    async with bench(tmp_path, town.till, town.shop) as world:
        await town.order(1, 2, 3)
        await world.settle()
        source, books = world.runtimes["till"].store.source, world.runtimes["shop"].context.books
        await forge(world, source, forged(HUGE, 3), forged(HUGE + 1, HUGE))
        await until(lambda: len(town.got) == 5, world)
        assert await before_last(world.broker, WHERE, await books.checkpoint(WHERE), source) == HUGE
        await books.rewind(WHERE, source, HUGE)
        checkpoint = await books.checkpoint(WHERE)
        assert await before_last(world.broker, WHERE, checkpoint, source) == 3, "step by step"
        await world.broker.prune("orders", 0, float("inf"), 1000)
        assert await before_last(world.broker, WHERE, checkpoint, source) is None


async def test_a_source_that_never_ticks_is_doubted_too(town: Town, tmp_path: Path) -> None:
    class NoTicks(MemoryBroker):
        async def append_many(self, source: str, batches: Any) -> None:
            kept = {
                where: [each for each in records if TICK.encode() not in each.envelope]
                for where, records in batches.items()
            }
            await super().append_many(source, {where: records for where, records in kept.items() if records})

    async with asyncio.timeout(3 * LIMIT_S), bench(tmp_path, town.till, town.shop, broker=NoTicks()) as world:
        await town.order(1)
        await world.settle()
        shop = world.runtimes["shop"]
        await forge(world, world.runtimes["till"].store.source, forged(HUGE, 1))
        number = 1
        while (await measure(shop.context, shop.worker))[DOUBTED] != {(): 1}:
            number += 1
            await town.order(number)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["invented", "copied", "tick"])
async def test_a_strangers_record_is_no_evidence_that_a_database_went_back(
    town: Town, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker("memory:false-restore")
    async with bench(tmp_path, town.till, broker=broker) as world:
        await town.order(1, 2, 3)
        await world.settle()
        source = world.runtimes["till"].store.source
        copied = (await events(world))[1].id if kind == "copied" else "forged"
        await forge(world, source, forged(10**9, 10**9 - (kind != "tick"), TICK if kind == "tick" else "", id=copied))
        await say(world, SEEN, ResendRequest(source, "orders", 0, HUGE, HUGE, "shop", copied))
        await heard_all(world)
        assert world.runtimes["till"].worker.failed is None  # type: ignore[union-attr]  # it works
    with caplog.at_level(logging.ERROR):
        async with bench(tmp_path, town.till, broker=broker) as world:
            await town.order(4)
            await world.settle()
            assert [each.position for each in await events(world)][-1] == 4
            assert world.runtimes["till"].worker.failed is None  # type: ignore[union-attr]  # it works


async def test_a_bad_record_without_a_chain_holds_back_none_of_the_source(town: Town, tmp_path: Path) -> None:
    async with bench(tmp_path, town.till, town.shop) as world:
        await town.order(1)
        await world.settle()
        await world.broker.append(
            "orders", 0, world.runtimes["till"].store.source,
            [OutboxRecord("orders", 0, "ann", encode_envelope(Envelope("bad", event_type(Ordered).type)), b"{}")],
        )  # fmt: skip
        await town.order(*range(2, 12))
        await world.settle()
        assert town.got == list(range(1, 12))
        assert len(await world.dead_letters(town.shop)) == 1
