"""Who may send statements on a connection: a coroutine or a thread, one at a time; and what a thread sends itself."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from servers import PostgresServer
from sqlalchemy import text

from ensue.adapters import make_store
from ensue.conformance.store_suite import SERVICE
from ensue.errors import StoreUnavailable
from ensue.stores.sql.statement_lock import StatementLock


async def test_a_coroutine_waits_for_a_thread_while_its_loop_goes_on() -> None:
    lock, has, go = StatementLock(), threading.Event(), threading.Event()

    def hold() -> bool:
        with lock:
            has.set()
            return go.wait(20)

    async def take() -> bool:
        async with lock:
            return lock.in_thread

    thread = asyncio.create_task(asyncio.to_thread(hold))
    await asyncio.to_thread(has.wait, 20)
    assert lock.in_thread
    waits = asyncio.create_task(take())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waits.done()
    go.set()
    assert not await waits
    assert await thread


async def test_a_thread_waits_for_a_coroutine() -> None:
    lock, order, begun = StatementLock(), [], threading.Event()

    def take() -> None:
        begun.set()
        with lock:
            order.append("has it")

    async with lock:
        thread = threading.Thread(target=take)
        thread.start()
        await asyncio.to_thread(begun.wait, 20)
        order.append("released")
    thread.join(20)
    assert order == ["released", "has it"]


async def test_who_is_cancelled_when_it_was_just_woken_wakes_the_next_one() -> None:
    lock = StatementLock()
    await lock.acquire()
    first, second, third = (asyncio.create_task(lock.acquire()) for _ in range(3))
    await asyncio.sleep(0)
    third.cancel()  # in the middle of its waiting
    await asyncio.sleep(0)
    lock.release()
    first.cancel()
    async with asyncio.timeout(20):
        await second
    assert first.cancelled() or first.cancelling()
    lock.release()
    async with asyncio.timeout(20), lock:
        pass


async def test_it_is_one_lock_whoever_takes_it() -> None:
    lock, inside, seen = StatementLock(), [0], [0]

    def within() -> None:
        inside[0] += 1
        seen[0] = max(seen[0], inside[0])

    def thread() -> None:
        for _ in range(200):
            with lock:
                within()
                inside[0] -= 1

    async def coroutine() -> None:
        for _ in range(200):
            async with lock:
                within()
                await asyncio.sleep(0)
                inside[0] -= 1

    async with asyncio.timeout(60):
        await asyncio.gather(coroutine(), coroutine(), asyncio.to_thread(thread), asyncio.to_thread(thread))
    assert (inside, seen) == ([0], [1])


@pytest.fixture
async def store(postgres_server: PostgresServer) -> AsyncIterator[Any]:
    postgres_server.drop("in_threads")
    store = make_store(postgres_server.url("in_threads", "postgresql+psycopg"), SERVICE)
    await store.open()
    yield store
    await store.close()


async def test_psycopgs_statement_in_a_thread_needs_no_event_loop(store: Any) -> None:
    found: list[Any] = []

    def ask(session: Any) -> None:
        with session.begin_nested():
            found.append(session.execute(text("SELECT 7")).scalar_one())

    async with store.transaction() as step:
        thread = threading.Thread(target=ask, args=[step.sync_session()])
        thread.start()
        thread.join(20)  # the loop stands still
        assert found == [7]


async def test_a_connection_that_is_dropped_while_a_thread_waits_on_it_ends_the_threads_statement(store: Any) -> None:
    raised: list[BaseException] = []
    begun = threading.Event()

    def ask(session: Any) -> None:
        try:
            session.execute(text("SELECT 1"))
            begun.set()
            session.execute(text("SELECT pg_sleep(600)"))
        except Exception as error:
            raised.append(error)

    with pytest.raises(StoreUnavailable):
        async with store.transaction() as step:
            thread = asyncio.create_task(asyncio.to_thread(ask, step.sync_session()))
            await asyncio.to_thread(begun.wait, 20)
            async with asyncio.timeout(20):
                while not step._link.lock.in_thread:  # noqa: ASYNC110  # which nobody tells
                    await asyncio.sleep(0)
                step._link.terminate()
                await thread
            assert raised
            raise raised[0]
    async with store.transaction() as step:  # the next one has another connection
        assert (await step.session.execute(text("SELECT 1"))).scalar_one() == 1
