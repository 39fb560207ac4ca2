"""What a source says it has lost, and what the log still has of it: records written by hand, batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config

from ensue import Event, Retry, Service
from ensue.message import GapState, OutboxRecord, Partition
from ensue.testing import World


class Said(Event, topic="words", key="word"):
    word: str


class Listener:
    def __init__(self) -> None:
        self.service = Service("listener")
        self.heard: list[str] = []
        self.deaf_to: set[str] = set()

        @self.service.on
        async def hear(event: Said) -> None:
            if event.word in self.deaf_to:
                self.deaf_to.discard(event.word)
                raise RuntimeError("once")
            self.heard.append(event.word)


def words(sender: Sender, number: int) -> list[OutboxRecord]:
    """records[n] has position n + 1 and the word `w<n + 1>`."""
    return [sender.record(Said(word=f"w{at}")) for at in range(1, number + 1)]


def heard(*positions: int) -> list[str]:
    return [f"w{at}" for at in positions]


async def gaps_of(world: World) -> dict[str, tuple[GapState, int, int]]:
    return {
        source: (gap.state, gap.watermark, gap.lost_through)
        for checkpoint in (await world.runtimes["listener"].store.checkpoints()).values()
        for source, gap in checkpoint.gaps.items()
    }


async def until(world: World, met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            world._progress.clear()  # before looking: what comes meanwhile is not missed
            if await met():
                break
            await world._progress.wait()


async def until_gap(world: World, source: str, state: GapState) -> None:
    async def met() -> bool:
        return (await gaps_of(world)).get(source, ("", 0, 0))[0] == state

    await until(world, met)


@pytest.mark.parametrize("deaf_to", ["", "w55", "other"])
async def test_what_the_log_still_holds_is_read_again_even_when_the_notice_comes_with_a_poison(
    tmp_path: Path, deaf_to: str
) -> None:
    """The batch with the notice is cut by the poison, and reading on after the last piece would pass over it all."""
    listener = Listener()
    engine = config(retry=Retry(first_delay_s=0.001, delay_max_s=0.001), resend_interval_s=60.0)
    async with bench(tmp_path, listener.service, engine=engine) as world:
        sender, other = Sender(world.broker), Sender(world.broker, "other/1")
        records = words(sender, 60)
        await other.append(*[other.record(Said(word=f"before-{at}")) for at in range(3)])
        await sender.append(*records[40:])
        await until_gap(world, sender.source, GapState.OPEN)
        listener.deaf_to = {deaf_to}
        notice = sender.lost("words", 0, 50)
        mixed = [notice, *records[50:55]]
        await sender.append(*mixed, *records[55:])
        await other.append(other.record(Said(word="other")))
        await world.settle()
        assert await gaps_of(world) == {}
        got = [word for word in listener.heard if word.startswith("w")]
        assert sorted(set(got)) == sorted(heard(*range(41, 61)))
        assert "other" in listener.heard


async def test_a_notice_for_an_earlier_part_does_not_reach_past_what_is_held_back(tmp_path: Path) -> None:
    listener = Listener()
    async with bench(tmp_path, listener.service, engine=config(resend_interval_s=60.0)) as world:
        sender = Sender(world.broker)
        records = words(sender, 12)
        await sender.append(*records[:2])
        await world.settle()
        await sender.append(*records[5:8])  # 3 to 5 are missing
        await sender.append(sender.lost("words", 2, 9), *records[9:])
        await until_gap(world, sender.source, GapState.LOST)
        assert (await gaps_of(world))[sender.source] == (GapState.LOST, 2, 5)
        assert listener.heard == heard(1, 2)
        store = world.runtimes["listener"].store
        assert await store.accept_loss(Partition("listener", "words", 0), sender.source) == 5

        async def five() -> bool:
            return len(listener.heard) == 5

        async def eight() -> bool:
            return len(listener.heard) == 8

        await until(world, five)
        # 6 to 8 are read from the log again; 9 is lost too, and that is another alarm.
        assert listener.heard == heard(1, 2, 6, 7, 8)
        await sender.append(sender.lost("words", 8, 9), *records[9:])
        await until_gap(world, sender.source, GapState.LOST)
        assert await store.accept_loss(Partition("listener", "words", 0), sender.source) == 9
        await sender.append(*records[9:])
        await until(world, eight)
        await world.settle()
        assert listener.heard == heard(1, 2, 6, 7, 8, 10, 11, 12)


@pytest.mark.parametrize("notice_first", [True, False])
async def test_records_held_back_that_left_the_log_meanwhile_do_not_hide_the_next_loss(
    tmp_path: Path, notice_first: bool
) -> None:
    """An operator who takes longer than the retention: what was to be read again is not there any more."""
    listener = Listener()
    async with bench(tmp_path, listener.service, engine=config(resend_interval_s=60.0)) as world:
        sender = Sender(world.broker)
        records = words(sender, 12)
        await sender.append(*records[:2])
        await world.settle()
        await sender.append(*records[5:8], sender.lost("words", 2, 5))
        await until_gap(world, sender.source, GapState.LOST)
        assert await world.broker.prune("words", 0, float("inf"), 1000) == 6

        store, partition = world.runtimes["listener"].store, Partition("listener", "words", 0)
        assert await store.accept_loss(partition, sender.source) == 5
        answer = [sender.lost("words", 5, 9), *records[9:]]
        await sender.append(*(answer if notice_first else [*records[9:], answer[0]]))
        await until_gap(world, sender.source, GapState.LOST)
        assert (await gaps_of(world))[sender.source] == (GapState.LOST, 5, 9)
        assert await store.accept_loss(partition, sender.source) == 9
        await sender.append(*records[9:])

        async def all_heard() -> bool:
            return len(listener.heard) == 5

        await until(world, all_heard)
        assert listener.heard == heard(1, 2, 10, 11, 12)
        assert await gaps_of(world) == {}
