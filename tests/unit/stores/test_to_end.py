"""What must not stop halfway (a commit, a rollback) goes on when whoever waits for it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from ensue.stores.ending import to_end


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


async def test_a_cancellation_is_not_lost_when_the_work_fails_whose_error_is_its_cause() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        raise ValueError("the work's own")

    waiting = asyncio.create_task(to_end(work()))
    await begun.wait()
    waiting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    assert str(caught.value.__cause__) == "the work's own"


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


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("the work's own")

    with pytest.raises(ValueError, match="the work's own"):
        await to_end(work())


async def test_work_that_takes_too_long_is_hung_up_on_and_what_does_not_notice_is_cancelled() -> None:
    hung_up, ended = asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = hung_up.is_set()

    async with asyncio.timeout(20.0):
        with pytest.raises(TimeoutError, match="given up after"):
            await to_end(work(), 0.01, hung_up.set)
        assert ended
        hung_up.clear()
        assert await to_end(hung_up.wait(), 0.01, hung_up.set) == (True, None), "it has ended well all the same"


def test_a_loop_that_is_closed_does_not_wait_for_work_that_never_ends() -> None:
    async def main() -> None:
        waiting = asyncio.create_task(to_end(asyncio.Event().wait()))
        await asyncio.sleep(0)
        assert not waiting.done()

    asyncio.run(main())
