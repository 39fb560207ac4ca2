"""What a handler sets in its context (a tenant, words for the log) is of its message alone."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, letters, until_letters

from ensue import Event, Retry, Service
from ensue.repository import TableRepository

TENANT: ContextVar[str] = ContextVar("tenant", default="")
TABLES = MetaData()


@dataclasses.dataclass
class Animal:
    animal: str
    eaten: int


class Fed(Event, topic="contexts", key="animal"):
    animal: str


def _animals() -> TableRepository[Animal]:
    table = Table(
        "animal", TABLES, Column("animal", String, primary_key=True), Column("eaten", Integer), extend_existing=True
    )
    return TableRepository(Animal, table)


def zoo_of(kind: str, seen: list[Any]) -> Service:
    zoo = Service("zoo", tables=TABLES, repositories=[_animals()])

    def sets(event: Fed) -> None:
        seen.append(TENANT.get())
        TENANT.set(event.animal)

    if kind == "def":
        zoo.on(sets)
    elif kind == "async":

        @zoo.on
        async def at_once(event: Fed) -> None:
            sets(event)

    elif kind == "async that waits":

        @zoo.on
        async def waits(event: Fed) -> None:
            await asyncio.sleep(0)
            sets(event)
            await asyncio.sleep(0)
            assert TENANT.get() == event.animal
            inner = asyncio.create_task(asyncio.sleep(0, TENANT.get()))
            assert await inner == event.animal

    elif kind == "entity":

        @zoo.on
        def feed(animal: Animal | None, event: Fed) -> Animal:
            sets(event)
            return animal or Animal(event.animal, 0)

    else:

        @zoo.on
        async def feed_later(animal: Animal | None, event: Fed) -> Animal:
            await asyncio.sleep(0)
            sets(event)
            return animal or Animal(event.animal, 0)

    return zoo


def for_tenant(function: Any) -> Any:
    """A decorator as people write them: plain, around whatever it is given."""

    @functools.wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        event = next(each for each in (*values, *named.values()) if isinstance(each, Fed))
        TENANT.set(event.animal)
        return function(*values, **named)

    return call


@pytest.mark.parametrize("entity", [False, True])
async def test_what_a_decorator_sets_is_there_in_the_coroutine_that_it_returns(entity: bool, tmp_path: Path) -> None:
    seen: list[str] = []
    zoo = Service("zoo", tables=TABLES, repositories=[_animals()])
    if entity:

        @zoo.on
        @for_tenant
        async def feed(animal: Animal | None, event: Fed) -> Animal:
            await asyncio.sleep(0)
            seen.append(TENANT.get())
            return animal or Animal(event.animal, 0)

    else:

        @zoo.on
        @for_tenant
        async def see(event: Fed) -> None:
            await asyncio.sleep(0)
            seen.append(TENANT.get())

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear")])
        await running.settle()
    assert seen == ["ant", "bear"]
    assert TENANT.get() == ""


async def test_the_limit_holds_for_what_a_coroutine_returns_at_once(tmp_path: Path) -> None:
    """As from a decorator that forgot its await."""
    zoo = Service("zoo", handler_limit_s=0.05, retry=Retry(attempts_max=1))

    async def inner() -> None:
        await asyncio.Event().wait()

    @zoo.on
    async def outer(event: Fed) -> Any:
        return inner()

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until_letters(running, zoo, 1)
        [letter] = await letters(running, zoo)
    assert letter.error_type == "HandlerTimeout"


@pytest.mark.parametrize("kind", ["def", "async", "async that waits", "entity", "async entity"])
async def test_the_next_message_finds_nothing_of_it(kind: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    zoo = zoo_of(kind, seen)
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await running.settle()
        assert await letters(running, zoo) == []
    assert seen == [""] * 3


async def test_a_handler_that_waits_is_cancelled_where_it_waits(tmp_path: Path) -> None:
    """What is thrown into it arrives there, and what it does about it is waited for."""
    zoo, ends = Service("zoo", handler_limit_s=0.05), list[str]()

    @zoo.on
    async def feed(event: Fed) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ends.append(f"cleaned up after {event.animal}")

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until_letters(running, zoo, 1)
        assert {each.error_type for each in await letters(running, zoo)} == {"HandlerTimeout"}
    assert set(ends) == {"cleaned up after bear"}
