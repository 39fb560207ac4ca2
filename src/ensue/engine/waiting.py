"""Who waits in this process for which answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ensue.message import Message


class Waiting:
    """Wakes those whose answers were stored in this process, and all of them when it stops. ended: it does."""

    def __init__(self) -> None:
        self.ended = False
        self._woken: dict[str, asyncio.Event] = {}
        self._left = asyncio.Event()

    async def end(self) -> None:
        """Have all give up, and return when they have: they still look into the database."""
        self.ended = True
        for event in self._woken.values():
            event.set()
        while self._woken:
            self._left.clear()
            await self._left.wait()

    @contextmanager
    def waits(self, command_id: str) -> Iterator[asyncio.Event]:
        """The event that is set when the answer to this command was stored here."""
        self._woken[command_id] = event = asyncio.Event()
        try:
            yield event
        finally:
            del self._woken[command_id]
            self._left.set()

    def stored(self, replies: Iterable[Message]) -> None:
        """These answers are committed."""
        if self._woken:
            for each in replies:
                event = self._woken.get(each.envelope.causation_id)
                if event is not None:
                    event.set()
