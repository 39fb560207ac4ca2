"""One writer at a time, first come first served, and nobody waits for himself."""

from __future__ import annotations

import asyncio

import pytest

from ensue.errors import UsageError
from ensue.stores.write_lock import WriteLock

LIMIT_S = 20.0


async def test_turns_come_in_the_order_of_asking() -> None:
    turns = WriteLock("store")
    order: list[int] = []

    async def take(number: int) -> None:
        turn = await turns.acquire()
        order.append(number)
        await asyncio.sleep(0)
        turns.release(turn)

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(take(number))
    assert order == list(range(10))


async def test_a_task_that_has_the_turn_is_refused_another() -> None:
    turns = WriteLock("the store of orders")
    turn = await turns.acquire()
    with pytest.raises(UsageError, match="the store of orders"):
        await turns.acquire()
    turns.release(turn)
    turns.release(await turns.acquire())


async def test_turns_of_two_stores_nest() -> None:
    orders, customers = WriteLock("orders"), WriteLock("customers")
    outer = await orders.acquire()
    inner = await customers.acquire()
    with pytest.raises(UsageError, match="orders"):
        await orders.acquire()
    customers.release(inner)
    orders.release(outer)
    orders.release(await orders.acquire())


async def test_a_task_begun_inside_a_turn_gets_its_own_after_it() -> None:
    turns = WriteLock("store")
    turn = await turns.acquire()
    task = asyncio.create_task(turns.acquire())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    turns.release(turn)
    async with asyncio.timeout(LIMIT_S):
        turns.release(await task)


async def test_a_turn_that_waits_for_a_task_that_waits_for_it_is_told() -> None:
    turns = WriteLock("store", nested_wait_s=0.05)
    turn = await turns.acquire()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(UsageError, match="begun inside another one"):
            await asyncio.gather(turns.acquire())
    turns.release(turn)
    turns.release(await turns.acquire())


async def test_whoever_is_cancelled_while_waiting_holds_up_nobody() -> None:
    turns = WriteLock("store")
    turn = await turns.acquire()
    waiting = [asyncio.create_task(turns.acquire()) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    turns.release(turn)
    async with asyncio.timeout(LIMIT_S):
        turns.release(await waiting[2])
    assert waiting[0].cancelled()
