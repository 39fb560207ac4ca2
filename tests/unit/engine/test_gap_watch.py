"""How often a source is asked for what is missing of it: soon when it may answer, seldom when it does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
from tests.unit.engine.workbench import bench, config

from ensue import Service
from ensue.engine.clock import SystemClock
from ensue.engine.gap_watch import GapWatch
from ensue.message import CONTROL_TOPIC, Checkpoint, Gap, Partition


class Stopped(SystemClock):
    at = 0.0

    def monotonic(self) -> float:
        return self.at


async def test_a_source_that_does_not_answer_is_asked_ever_more_seldom(tmp_path: Path) -> None:
    clock = Stopped()
    async with bench(tmp_path, zoo := Service("zoo")) as world:
        engine = config(resend_interval_s=2.0, tick_max_s=60.0)
        context = dataclasses.replace(world.runtimes[zoo.name].context, clock=clock, config=engine)
        await world.broker.ensure_topic(CONTROL_TOPIC, 1)
        watch = GapWatch(Partition("zoo", "cages", 0), context)
        gap = Gap("keeper/1", 3, 9, 0.0)

        async def asked(gap: Gap, until: float) -> list[float]:
            times = []
            while clock.at < until:
                before = (await world.broker.bounds(CONTROL_TOPIC, 0)).last
                await watch.ask(Checkpoint(watermarks={gap.source: gap.watermark}, gaps={gap.source: gap}), True)
                times += [clock.at] * ((await world.broker.bounds(CONTROL_TOPIC, 0)).last - before)
                clock.at += 1.0
            return times

        assert await asked(gap, 300.0) == [0.0, 2.0, 6.0, 14.0, 30.0, 62.0, 122.0, 182.0, 242.0]
        assert await asked(msgspec.structs.replace(gap, needed=10), 310.0) == [300.0, 304.0], "it has sent something"
        clock.at = 400.0
        assert await asked(msgspec.structs.replace(gap, watermark=5, needed=10), 405.0) == [402.0], "it answers"
