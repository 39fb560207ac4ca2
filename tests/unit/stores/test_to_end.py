"""What must not stop halfway (a commit, a rollback) goes on when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from ensue.stores.sql.link import to_end


async def test_work_ends_although_its_waiter_is_cancelled_again_and_again_and_the_waiter_is_told_afterwards() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await go_on.wait()
        return "done"

    waiting = asyncio.create_task(to_end(work()))
    await begun.wait()
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
    assert not waiting.done()
    go_on.set()
    result, cancelled = await waiting
    assert result == "done"
    assert isinstance(cancelled, asyncio.CancelledError)


async def test_without_a_cancellation_there_is_none_to_tell_of() -> None:
    assert await to_end(asyncio.sleep(0, "done")) == ("done", None)


async def test_an_error_of_the_work_is_raised_also_when_its_waiter_was_cancelled() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        raise ValueError("the work's own")

    waiting = asyncio.create_task(to_end(work()))
    await begun.wait()
    waiting.cancel()
    go_on.set()
    with pytest.raises(ValueError, match="the work's own"):
        await waiting


async def test_a_time_limit_around_it_is_reported_when_the_work_has_ended() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        await asyncio.sleep(0.05)
        ended = True

    async def limited() -> None:
        async with asyncio.timeout(0.001):
            _, cancelled = await to_end(work())
            if cancelled is not None:
                raise cancelled

    with pytest.raises(TimeoutError):
        await limited()
    assert ended


def test_a_loop_that_is_closed_does_not_wait_for_work_that_never_ends() -> None:
    async def main() -> None:
        waiting = asyncio.create_task(to_end(asyncio.Event().wait()))
        await asyncio.sleep(0)
        assert not waiting.done()

    asyncio.run(main())
