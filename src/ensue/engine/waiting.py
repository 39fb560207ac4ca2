"""Who waits in this process for which answer, or for the end of which saga."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ensue.message import Message


class Waiting:
    """Wakes those for whom something was stored in this process, and all of them when it stops. ended: it does."""

    def __init__(self) -> None:
        self.ended = False
        self._woken: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._left = asyncio.Event()

    async def end(self) -> None:
        """Have all give up, and return when they have: they still look into the database."""
        self.ended = True
        for events in self._woken.values():
            for event in events:
                event.set()
        while self._woken:
            self._left.clear()
            await self._left.wait()

    @contextmanager
    def waits(self, name: str) -> Iterator[asyncio.Event]:
        """The event that is set when the answer to this command, or something for the saga of this key, was stored
        here."""
        event = asyncio.Event()
        self._woken[name].add(event)
        try:
            yield event
        finally:
            self._woken[name].discard(event)
            if not self._woken[name]:
                del self._woken[name]
            self._left.set()

    def stored(self, messages: Iterable[Message]) -> None:
        """What these brought is committed."""
        if self._woken:
            for each in messages:
                for name in (each.envelope.causation_id, each.key):
                    for event in self._woken.get(name, ()):
                        event.set()
