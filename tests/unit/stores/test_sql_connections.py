"""Who may have how many of a store's connections at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.errors import StoreUnavailable
from ensue.stores.sql import connections
from ensue.stores.sql.connections import Connections

PURPOSES = ("steps", "readings", "relay", "heartbeat")


def made(size: int) -> Connections:
    nothing: Any = None
    return Connections(nothing, size, PURPOSES, "testdb")


async def took(places: Connections, purpose: str) -> asyncio.Task[None]:
    task = asyncio.create_task(places.enter(purpose))
    await asyncio.sleep(0)
    return task


async def test_a_purpose_finds_its_own_place_however_many_steps_there_are() -> None:
    places = made(7)
    steps = [await took(places, "steps") for _ in range(10)]
    assert [each.done() for each in steps] == [True] * 4 + [False] * 6
    for purpose in ("readings", "relay", "heartbeat"):
        async with asyncio.timeout(1):
            await places.enter(purpose)
    for each in steps:
        each.cancel()
    await asyncio.gather(*steps, return_exceptions=True)


async def test_whoever_waits_longest_is_next() -> None:
    places = made(4)
    await places.enter("steps")
    first, second = await took(places, "steps"), await took(places, "steps")
    places.leave("steps")
    await asyncio.sleep(0)
    assert (first.done(), second.done()) == (True, False)
    places.leave("steps")
    async with asyncio.timeout(1):
        await second


async def test_a_wait_that_is_cancelled_just_before_its_place_is_free_ends_as_cancelled() -> None:
    places = made(4)
    await places.enter("steps")
    waiting = await took(places, "steps")
    waiting.cancel()
    places.leave("steps")  # passes over it before the task has run
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await places.enter("steps")


async def test_a_wait_that_is_cancelled_takes_no_place_even_at_the_last_moment() -> None:
    places = made(4)
    await places.enter("steps")
    waiting = await took(places, "steps")
    places.leave("steps")  # the place is given, and the task has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await places.enter("steps")


async def test_a_place_that_is_left_while_a_wait_is_cancelled_goes_to_the_next() -> None:
    places = made(4)
    await places.enter("steps")
    first, second = await took(places, "steps"), await took(places, "steps")
    first.cancel()
    places.leave("steps")  # the cancelled task has not run yet
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(1):
        await second


async def test_a_wait_that_is_too_long_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WAIT_S", 0.01)
    places = made(4)
    await places.enter("steps")
    with pytest.raises(StoreUnavailable, match="pool_size"):
        await places.enter("steps")
    places.leave("steps")
    await places.enter("steps")


async def test_left_returns_when_the_last_one_has_gone() -> None:
    places = made(7)
    await places.enter("steps")
    await places.enter("steps")
    gone = asyncio.create_task(places.left("steps"))
    places.leave("steps")
    await asyncio.sleep(0)
    assert not gone.done()
    places.leave("steps")
    async with asyncio.timeout(1):
        await gone


@given(st.integers(4, 9), st.lists(st.tuples(st.booleans(), st.sampled_from(PURPOSES)), max_size=60))
def test_places_are_never_overdrawn_and_nobody_waits_for_a_free_one(size: int, events: list[tuple[bool, str]]) -> None:
    async def play() -> None:
        places = made(size)
        inside = dict.fromkeys(PURPOSES, 0)
        waiting: dict[str, list[asyncio.Task[None]]] = {each: [] for each in PURPOSES}
        for enters, purpose in events:
            if enters:
                waiting[purpose].append(await took(places, purpose))
            elif inside[purpose]:
                inside[purpose] -= 1
                places.leave(purpose)
                await asyncio.sleep(0)
            for each in PURPOSES:
                done = [task for task in waiting[each] if task.done()]
                waiting[each] = [task for task in waiting[each] if not task.done()]
                inside[each] += len(done)
            assert sum(inside.values()) <= size
            beyond = sum(max(count - 1, 0) for count in inside.values())
            assert beyond <= size - len(PURPOSES)
            for each in PURPOSES:
                if waiting[each]:
                    assert inside[each] >= 1, f"{each} waits for its own place"
                    assert beyond == size - len(PURPOSES), f"{each} waits for a place that is free"
        for tasks in waiting.values():
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(play())
