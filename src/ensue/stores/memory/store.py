"""`MemoryStore`: the `Store` port on dicts and lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice

from ensue.embedded.wakeup import Wakeup
from ensue.message import OutboxRecord
from ensue.ports import Capabilities
from ensue.stores import rules
from ensue.stores.collected import CollectingStore
from ensue.stores.identity import check_ends, epoch_of, new_epoch_name
from ensue.stores.memory.data import Data
from ensue.stores.memory.row_reader import MemoryRows
from ensue.stores.memory.transaction import MemoryTransaction
from ensue.stores.numbering import Place, number
from ensue.stores.write_lock import WriteLock

_CHANGED = 0


class MemoryStore(CollectingStore):
    """A store of this object's own, kept while the object lives, also from close to open.

    now: its clock, epoch seconds. Belongs to the event loop in which it was opened.
    """

    kind = "memory"
    capabilities = Capabilities(sessions=False, survives_restart=False, several_processes=False, power_loss_safe=False)

    def __init__(self, service: str, *, now: Callable[[], float] = time.time) -> None:
        super().__init__(service, new_epoch_name())
        self._now = now
        self._made = False
        self._data = Data()
        self._turns = WriteLock(f"memory store of {service}")
        self._wakeup: Wakeup | None = None
        self._seen = 0

    async def exists(self) -> bool:
        return self._made

    async def open(self) -> None:
        self._made = True
        if self._wakeup is None:
            wakeup = Wakeup(None)
            await wakeup.open()
            self._wakeup = wakeup

    async def close(self) -> None:
        turn = await self._turns.acquire()  # wait for the step that is open
        self._turns.release(turn)
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            await wakeup.close()

    async def now(self) -> float:
        self._opened()
        return self._now()

    async def new_epoch(self, published_through: int, ends: str) -> str:
        async with self.transaction():
            check_ends(self.service, self._epoch, epoch_of(ends))
            data = self._data
            del data.outbox[: max(published_through - data.first + 1, 0)]  # what was sent is of no further use here
            data.first = max(data.first, published_through + 1)
            data.heads = {}
            number(data.outbox, data.first - 1, {}, data.heads)
            self._epoch = new_epoch_name()
        self._wake()
        return self.source

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[MemoryTransaction]:
        self._opened()
        return MemoryTransaction(self, self._data, self._turns, self._wake, self._now)

    def rows(self) -> MemoryRows:
        self._opened()
        return MemoryRows(self._data)

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._seen = self._opened().sequence(_CHANGED)
        begin = max(position + 1 - self._data.first, 0)
        return self._data.outbox[begin : begin + limit]

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        first = self._data.first
        found = (
            record
            for record in self._data.outbox[max(after + 1 - first, 0) : max(through + 1 - first, 0)]
            if record.topic == topic and record.partition == partition
        )
        return list(islice(found, limit))

    async def outbox_heads(self) -> Mapping[Place, int]:
        return dict(self._data.heads)

    async def outbox_wait(self, timeout_s: float) -> None:
        self._seen = await self._opened().wait(_CHANGED, self._seen, timeout_s)

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        data = self._data
        last = min(through, data.first - 1 + limit)
        old = data.first - 1
        while data.written and data.written[0][1] < before_s and old < last:
            old = data.written[0][0]
            if old <= last:
                data.written.popleft()
        pruned = max(min(old, last) - data.first + 1, 0)
        del data.outbox[:pruned]
        data.first += pruned
        return pruned

    def _opened(self) -> Wakeup:
        if self._wakeup is None:
            raise rules.store_not_open("memory ", self.service)
        return self._wakeup

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.notify((_CHANGED,))
