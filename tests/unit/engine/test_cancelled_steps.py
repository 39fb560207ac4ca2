"""Steps that are cancelled at any moment, as by a client that goes away: state and event are both there, or neither."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from tests.unit.engine.workbench import bench

from ensue import Event, Service, Step

tables = MetaData()
guests = Table("guest", tables, Column("number", Integer, primary_key=True))


class Came(Event, topic="door", key="number"):
    number: int


@pytest.mark.parametrize("seed", range(4))
async def test_a_cancelled_step_publishes_if_and_only_if_it_committed(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    service = Service("door", tables=tables)
    handled: list[int] = []

    @service.on
    async def note(event: Came, step: Step) -> None:
        await asyncio.sleep(0)
        handled.append(event.number)

    async def come(number: int) -> None:
        async with service.step() as step:
            if random.random() < 0.5:
                await asyncio.sleep(0)
            await step.session.execute(insert(guests).values(number=number))
            step.publish(Came(number=number))
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            if random.random() < 0.1:
                raise RuntimeError("fell over the doorstep")

    async with bench(tmp_path, service) as world:
        coming: list[asyncio.Task[None]] = []
        for number in range(400):
            coming.append(asyncio.create_task(come(number)))
            if random.random() < 0.5:
                await asyncio.sleep(0)
            if random.random() < 0.4:
                random.choice(coming[-20:]).cancel()
        ended = await asyncio.gather(*coming, return_exceptions=True)
        await world.settle()
        async with service.query() as session:
            rows = set(await session.scalars(select(guests.c.number)))
        published = [each.number for each in await world.published(Came)]
        assert sorted(published) == sorted(rows), f"seed {seed}"
        assert sorted(handled) == sorted(rows), f"seed {seed}"
        # Whoever was told that it went well is in; who failed is not; who was cancelled is either.
        assert {number for number, end in enumerate(ended) if end is None} <= rows
        assert not rows & {number for number, end in enumerate(ended) if isinstance(end, RuntimeError)}
        assert 50 < len(rows) < 400, f"seed {seed}: the test tries nothing"
