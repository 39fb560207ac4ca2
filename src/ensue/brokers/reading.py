"""What all brokers share: appending to one partition and to several; readers, each with its place, closed with them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from ensue.errors import BrokerUnavailable
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Entry


class HasReaders:
    """A broker that closes its open readers with itself."""

    def __init__(self) -> None:
        self._readers: set[BaseReader[Any]] = set()

    async def _close_readers(self) -> None:
        """Reads that wait end with nothing."""
        for reader in tuple(self._readers):
            await reader.close()


class BaseBroker(HasReaders, ABC):
    """One that knows the offsets of what it has appended."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        if not entries:
            return (await self.bounds(topic, partition)).last
        [last] = await self._append(source, {(topic, partition): entries})
        return last

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        if batches := {where: entries for where, entries in batches.items() if entries}:
            await self._append(source, batches)

    @abstractmethod
    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> Sequence[int]:
        """Append as the port says; return the last offset of each partition, in the order of `batches`. There is one at
        least, and none is empty."""

    @abstractmethod
    async def bounds(self, topic: str, partition: int) -> Bounds:
        """See the port."""


B = TypeVar("B", bound=HasReaders)


class BaseReader(ABC, Generic[B]):
    """A subclass brings up what follows `after`, and lets go of what it holds at the broker."""

    def __init__(self, broker: B, topic: str, partition: int, after: int) -> None:
        self._broker = broker
        self.topic = topic
        self.partition = partition
        self.after = max(after, 0)
        self._under_way: asyncio.Timeout | None = None
        broker._readers.add(self)

    @property
    def _is_closed(self) -> bool:
        return self not in self._broker._readers

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        if self._is_closed:
            raise BrokerUnavailable(f"the reader of {self.topic}/{self.partition} is closed: open another")
        try:
            # Without a limit of its own: `close` ends it, wherever it is, with no task for each wait.
            async with asyncio.timeout(None) as self._under_way:
                found = await self._read(limit, wait_s)
        except Exception as error:
            self._let_go()  # the next read begins anew at the same place
            if self._is_closed and isinstance(error, TimeoutError | BrokerUnavailable):
                return ()
            raise
        finally:
            self._under_way = None
            if self._is_closed:
                self._let_go()  # once more: what the read may have taken hold of after `close`, before its end
        if found:
            self.after = found[-1].offset
        return found

    async def close(self) -> None:
        self._broker._readers.discard(self)
        if self._under_way is not None and self._under_way.when() is None:
            self._under_way.reschedule(0)
        self._let_go()

    @abstractmethod
    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        """As the port's read. A cancel loses nothing: what was taken is returned without another await."""

    @abstractmethod
    def _let_go(self) -> None:
        """Release what the reader holds, without waiting for anybody; safe to repeat."""


class LookingReader(BaseReader[B]):
    """A reader that looks, and if there is nothing waits until it may be worth while to look again."""

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        give_up_at: float | None = None
        while True:
            found = await self._look(limit)
            if found or wait_s <= 0:
                return found
            now = asyncio.get_running_loop().time()
            give_up_at = now + wait_s if give_up_at is None else give_up_at
            if now >= give_up_at:
                return found
            await self._woken(give_up_at - now)

    @abstractmethod
    async def _look(self, limit: int) -> Sequence[Message | Garbage]:
        """Return what follows `after` now; remember what it takes for `_woken` to miss nothing from here on."""

    @abstractmethod
    async def _woken(self, seconds: float) -> None:
        """Return when something may have come since the last look, or after `seconds`."""

    def _let_go(self) -> None:
        """Nothing is held."""
