"""A running service belongs to the process and to the event loop that started it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.unit.engine.workbench import LIMIT_S, bench, settled

from ensue import Event, Service
from ensue.adapters import make_store
from ensue.errors import UsageError


class Noted(Event, topic="notes", key="key"):
    key: int


async def step(service: Service, key: int) -> None:
    async with service.step() as opened:
        opened.publish(Noted(key=key))


async def query(service: Service, key: int) -> None:
    async with service.query() as session:
        await session.execute(text("SELECT 1"))


async def rows(service: Service, key: int) -> None:
    async with service.rows():
        pass


@pytest.mark.parametrize("work", [step, query, rows])
async def test_another_event_loop_is_refused(
    sql_database: str, tmp_path: Path, work: Callable[[Service, int], Coroutine[Any, Any, None]]
) -> None:
    service = Service("notes")
    stores = {service.name: make_store(sql_database, service.name)}
    async with asyncio.timeout(LIMIT_S * 2), bench(tmp_path, service, stores=stores) as world:
        with pytest.raises(UsageError, match="notes was started on another event loop"):
            await asyncio.to_thread(asyncio.run, work(service, 1))
        await asyncio.to_thread(_by_way_of, asyncio.get_running_loop(), lambda: work(service, 2))
        await work(service, 3)
        await settled(world)
        assert [each.key for each in await world.published(Noted)] == ([2, 3] if work is step else [])


def _by_way_of(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    assert threading.current_thread() is not threading.main_thread()
    asyncio.run_coroutine_threadsafe(work(), loop).result(LIMIT_S)


def in_a_fork(work: Callable[[], None]) -> str:
    """Run `work` in a child of this process; return the error that it ended with."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-4000:])
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        return said.read()


# Whoever forks a process with threads is warned by Python 3.12 and later, and rightly so.
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_fork_is_refused_a_step(sql_database: str, tmp_path: Path) -> None:
    service = Service("notes")
    stores = {service.name: make_store(sql_database, service.name)}
    async with asyncio.timeout(LIMIT_S * 2), bench(tmp_path, service, stores=stores) as world:

        def on_this_loop() -> None:
            """As after os.fork() in a coroutine: the step does not come to wait for anything."""
            step(service, 1).send(None)

        def started_anew() -> None:
            service.running().__aenter__().send(None)

        assert "is a fork of it" in in_a_fork(on_this_loop)
        assert "is a fork of it" in in_a_fork(started_anew)
        await step(service, 2)
        await settled(world)
        assert [each.key for each in await world.published(Noted)] == [2]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_fork_inside_a_step_can_neither_commit_it_nor_roll_it_back(sql_database: str, tmp_path: Path) -> None:
    service = Service("notes")
    stores = {service.name: make_store(sql_database, service.name)}
    async with asyncio.timeout(LIMIT_S * 2), bench(tmp_path, service, stores=stores) as world:
        for fails in (False, True):
            async with service.step() as mine:
                await mine.session.execute(text("SELECT 1"))
                opened = mine.transaction

                def end(opened: Any = opened, fails: bool = fails) -> None:
                    error = ValueError("in the child") if fails else None
                    ending = opened.__aexit__(type(error) if error else None, error, None)
                    try:
                        while True:
                            ending.send(None)
                    except StopIteration:
                        return

                said = in_a_fork(end)
                assert said == "" if fails else "was forked from the one that opened" in said
                mine.publish(Noted(key=int(fails)))
        await settled(world)
        assert sorted(each.key for each in await world.published(Noted)) == [0, 1]
