"""A token has the positions of what its step has published, on every store that publishes, whoever else looks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from tests.unit.stores.conftest import MakeStore

import ensue.testing
from ensue import Event, Service, TableRepository, Token
from ensue.engine.positions import SharedLook
from ensue.ports import Store


class BoxFilled(Event, topic="token-boxes", key="box"):
    box: str
    n: int


@dataclasses.dataclass
class Box:
    name: str
    n: int


METADATA = MetaData()
BOXES = Table("token_boxes", METADATA, Column("name", String(60), primary_key=True), Column("n", Integer))
REPOSITORY = TableRepository(Box, BOXES)


def boxes() -> Service:
    return Service("boxes", tables=METADATA, repositories=[REPOSITORY])


async def fill(service: Service, name: str, events: int) -> Token:
    async with service.step() as step:
        await REPOSITORY.save(step.transaction, {}, {name: Box(name, events)})
        for n in range(events):
            step.publish(BoxFilled(box=name, n=n))
    return await step.token()


async def positions(store: Store, key: str) -> list[int]:
    return [each.position for each in await store.outbox_after(0, 100_000) if each.key == key]


async def test_a_token_has_the_positions_of_its_step(make_any_store: MakeStore) -> None:
    if not make_any_store("boxes").capabilities.publishes:
        pytest.skip("a store for views")
    service = boxes()
    async with ensue.testing.run(service, make_store=make_any_store) as world:
        store = world.runtimes["boxes"].store
        for name in ("a", "b"):
            token = await fill(service, name, 3)
            [part] = token.parts
            assert (part.source, part.topic) == (store.source, "token-boxes")
            assert part.position == max(await positions(store, name))  # nobody else writes
        assert not await fill(service, "c", 0)


async def test_of_many_at_once_each_has_a_token_that_holds_its_own(make_any_store: MakeStore) -> None:
    if not make_any_store("boxes").capabilities.publishes:
        pytest.skip("a store for views")
    service = boxes()
    async with ensue.testing.run(service, make_store=make_any_store) as world:
        names = [str(each) for each in range(60)]
        tokens = await asyncio.gather(*(fill(service, name, 2) for name in names))
        store = world.runtimes["boxes"].store
        head = await store.outbox_heads()
        for name, token in zip(names, tokens, strict=True):
            [part] = token.parts
            assert max(await positions(store, name)) <= part.position <= head[part.topic, part.partition]


async def test_what_is_published_later_is_in_no_token(make_store: MakeStore | None) -> None:
    import datetime

    service = boxes()
    async with ensue.testing.run(service, make_store=make_store):
        async with service.step() as step:
            step.publish(BoxFilled(box="later", n=1), after=datetime.timedelta(hours=1))
        assert not await step.token()


async def test_whoever_asks_while_a_look_is_under_way_shares_the_next() -> None:
    """The one under way may have looked before what they ask for was committed."""
    looks: list[asyncio.Future[Mapping[tuple[str, int], int]]] = []

    async def look() -> Mapping[tuple[str, int], int]:
        looks.append(asyncio.get_running_loop().create_future())
        return await looks[-1]

    shared = SharedLook(look)
    first = asyncio.create_task(shared.heads())
    await turns()
    others = [asyncio.create_task(shared.heads()) for _ in range(50)]
    await turns()
    assert len(looks) == 1
    others[0].cancel()
    looks[0].set_result({("a", 0): 1})
    await turns()
    assert await first == {("a", 0): 1}
    assert len(looks) == 2
    latest = asyncio.create_task(shared.heads())
    await turns()
    assert len(looks) == 2
    looks[1].set_result({("a", 0): 2})
    assert await asyncio.gather(*others[1:]) == [{("a", 0): 2}] * 49
    await turns()
    looks[2].set_result({("a", 0): 3})
    assert await latest == {("a", 0): 3}
    assert len(looks) == 3


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
