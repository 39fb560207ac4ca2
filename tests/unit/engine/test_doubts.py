"""What a subscriber tells a source of what it has applied: never in the way of its work, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config, letters

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.engine.ask import say_seen
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.doubts import Doubts
from ensue.engine.hallmark import HallmarkedIds
from ensue.engine.witness import find_witness
from ensue.errors import BrokerUnavailable, UsageError
from ensue.message import CONTROL_TOPIC, Checkpoint, Partition
from ensue.plan import Plan
from ensue.ports import Entry


class Fed(Event, topic="doubts", key="animal"):
    animal: str


class Mute(MemoryBroker):
    """The right to append to the control topic is missing, or it has no leader."""

    refusal: Exception | None = None
    tries = 0

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        if topic == CONTROL_TOPIC and self.refusal is not None:
            self.tries += 1
            raise self.refusal
        return await super().append(topic, partition, source, entries)


@pytest.mark.parametrize("refusal", [BrokerUnavailable("no leader"), UsageError("not authorized")])
async def test_a_subscriber_that_can_tell_nobody_works_all_the_same(
    tmp_path: Path, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    broker, fed = Mute("memory:mute"), list[str]()
    await broker.open()
    await broker.ensure_topic("doubts", 1)
    sender = Sender(broker, source="keeper/1")
    for animal in ("ant", "bear"):
        zoo = Service("zoo")

        @zoo.on
        async def feed(event: Fed) -> None:
            fed.append(event.animal)

        async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo, broker=broker) as running:
            await sender.send(Fed(animal=animal))
            await running.settle()
            assert await letters(running, zoo) == []
        broker.refusal = refusal
    assert fed == ["ant", "bear"]
    assert broker.tries
    assert caplog.text.count("needs the right to append to topic ensue.control") == 1
    await broker.close()


async def test_a_source_is_doubted_no_longer_when_its_service_has_begun_another_epoch(tmp_path: Path) -> None:
    zoo = Service("zoo")
    async with bench(
        tmp_path, zoo, engine=config(resend_interval_s=0.001, tick_first_s=0.001, tick_max_s=0.001)
    ) as running:
        context = running.runtimes["zoo"].context
        await running.broker.ensure_topic(CONTROL_TOPIC, 1)
        doubts = Doubts(Partition("zoo", "doubts", 0), context)
        checkpoint = Checkpoint(watermarks={"keeper/1": 30, "cook/1": 7})
        doubts.note(Plan(doubts={"keeper/1": 20, "cook/1": 5}, others={"keeper/0": "m"}))
        await doubts.tell(checkpoint, at_the_end=True)
        assert doubts.sources == ["cook/1", "keeper/0", "keeper/1"]
        doubts.note(Plan(watermarks={"keeper/2": 1}))
        await doubts.tell(checkpoint, at_the_end=True)
        assert doubts.sources == ["cook/1"]
        assert doubts.others == {"keeper/0": "m"}, "nothing of it is applied all the same"


async def test_a_word_about_another_source_hides_none_about_ours(tmp_path: Path) -> None:
    """Both at the same place."""
    zoo = Service("zoo")
    async with bench(tmp_path, zoo) as running:
        runtime = running.runtimes["zoo"]
        await running.broker.ensure_topic(CONTROL_TOPIC, 1)
        ids = HallmarkedIds(UniqueIds(), SystemClock())
        await ids.begin(runtime.store)
        checkpoint = Checkpoint(
            watermarks={runtime.store.source: 30, "zzz/1": 30}, ids={runtime.store.source: ids.next(), "zzz/1": "m"}
        )
        for source in checkpoint.watermarks:
            await say_seen(runtime.context, Partition("farm", "doubts", 0), checkpoint, [source])
        witness = await find_witness(runtime.store, running.broker)
        assert witness is not None
        assert witness.seen.source == runtime.store.source
