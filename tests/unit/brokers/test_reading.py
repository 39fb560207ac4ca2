"""What all readers share, where no broker can be made to do it at the right moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ensue.brokers.reading import BaseReader, HasReaders
from ensue.errors import BrokerUnavailable
from ensue.message import Garbage, Message


class Holding(BaseReader[HasReaders]):
    """Takes hold of something when it is answered, and returns; or it waits for more first."""

    holds = False

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.answer
        self.holds = True
        if wait_s:
            await asyncio.Event().wait()
        return []

    def _let_go(self) -> None:
        self.holds = False


async def begun(wait_s: float = 60.0) -> tuple[Holding, asyncio.Task[Sequence[Message | Garbage]]]:
    reader = Holding(HasReaders(), "topic", 0, 0)
    reading = asyncio.create_task(reader.read(1, wait_s))
    await asyncio.sleep(0)
    return reader, reading


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
async def test_what_a_read_takes_hold_of_after_the_close_is_let_go_of_too(wait_s: float) -> None:
    reader, reading = await begun(wait_s)
    reader.answer.set_result(None)  # on its way to the read when the close comes
    await reader.close()
    async with asyncio.timeout(10):
        assert not await reading
    assert not reader.holds


async def test_after_an_error_the_next_read_begins_anew() -> None:
    reader, reading = await begun()
    reader.holds = True
    reader.answer.set_exception(BrokerUnavailable("away"))
    with pytest.raises(BrokerUnavailable, match="away"):
        await reading
    assert not reader.holds


async def test_an_error_that_comes_with_the_close_is_not_the_readers_affair() -> None:
    reader, reading = await begun()
    reader.answer.set_exception(BrokerUnavailable("the connection was closed"))
    await reader.close()
    assert await reading == ()


async def test_who_cancels_a_read_is_not_taken_for_a_close() -> None:
    reader, reading = await begun()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await reader.close()
