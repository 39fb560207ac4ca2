"""`MemoryStore`: the `Store` port on dicts and lists."""

from __future__ import annotations

import copy
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import TYPE_CHECKING

from ensue.embedded.wakeup import Wakeup
from ensue.errors import UsageError
from ensue.message import Checkpoint, Counters, DeadLetter, DeadLetterState, Lease, LeaseTable, OutboxRecord, Partition
from ensue.ports import Capabilities
from ensue.stores import rules
from ensue.stores.memory.data import Data, Place, no_sessions
from ensue.stores.memory.row_reader import MemoryRows
from ensue.stores.memory.transaction import MemoryTransaction
from ensue.stores.turns import Turns

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

_CHANGED = 0


class MemoryStore:
    """A store of this object's own, kept while the object lives, also from close to open.

    now: its clock, epoch seconds. Belongs to the event loop in which it was opened.
    """

    capabilities = Capabilities(sessions=False, survives_restart=False, several_processes=False, power_loss_safe=False)

    def __init__(self, service: str, *, now: Callable[[], float] = time.time) -> None:
        self.service = service
        self._now = now
        self._made = False
        self._data = Data()
        self._epoch = secrets.token_hex(4)
        self._turns = Turns(f"memory store of {service}")
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

    async def create_tables(self, metadata: MetaData) -> None:
        raise no_sessions()

    async def missing_tables(self, metadata: MetaData) -> Sequence[str]:
        raise no_sessions()

    @property
    def source(self) -> str:
        return f"{self.service}/{self._epoch}"

    async def new_epoch(self, published_through: int) -> str:
        async with self.transaction():
            data = self._data
            del data.outbox[: max(published_through - data.first + 1, 0)]  # what was sent is of no further use here
            data.first = max(data.first, published_through + 1)
            data.heads = {}
            for record in data.outbox:
                place = (record.topic, record.partition)
                record.previous = data.heads.get(place, 0)
                data.heads[place] = record.position
            data.relayed = published_through
            self._epoch = secrets.token_hex(4)
        self._wake()
        return self.source

    def transaction(self) -> AbstractAsyncContextManager[MemoryTransaction]:
        self._opened()
        return MemoryTransaction(self._data, self._turns, self._wake, self._now)

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise no_sessions()

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

    async def outbox_get(self, position: int) -> OutboxRecord | None:
        at = position - self._data.first
        return self._data.outbox[at] if 0 <= at < len(self._data.outbox) else None

    async def outbox_wait(self, timeout_s: float) -> None:
        self._seen = await self._opened().wait(_CHANGED, self._seen, timeout_s)

    async def relay_load(self) -> int:
        return self._data.relayed

    async def relay_save(self, position: int) -> None:
        self._data.relayed = max(self._data.relayed, position)

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

    # --- the consumer's side

    async def checkpoint_load(self, partition: Partition) -> Checkpoint:
        stored = self._data.checkpoints.get(partition)
        return Checkpoint() if stored is None else _copied(stored)

    async def checkpoints(self) -> Mapping[Partition, Checkpoint]:
        return {partition: _copied(stored) for partition, stored in self._data.checkpoints.items()}

    async def accept_loss(self, partition: Partition, source: str) -> int:
        async with self.transaction() as transaction:
            checkpoint = await self.checkpoint_load(partition)
            gap = checkpoint.gaps.get(source)
            left = rules.accepted(partition, source, gap)
            assert gap is not None
            checkpoint.watermarks[source] = gap.lost_through
            del checkpoint.gaps[source]
            if left is not None:
                checkpoint.gaps[source] = left
            await transaction.save_checkpoint(partition, checkpoint, (source,))
        self._wake()
        return gap.lost_through

    async def dead_letters(
        self, partition: Partition | None = None, states: Sequence[DeadLetterState] = (), limit: int = 1000
    ) -> Sequence[DeadLetter]:
        found = (
            copy.copy(letter)
            for _, letter in sorted(self._data.letters.items())
            if (partition is None or letter.partition == partition) and (not states or letter.state in states)
        )
        return list(islice(found, limit))

    async def dead_letter_get(self, letter_id: int) -> DeadLetter | None:
        return copy.copy(self._data.letters.get(letter_id))

    async def dead_letter_counts(self) -> Mapping[tuple[Partition, DeadLetterState], int]:
        return Counter((letter.partition, letter.state) for letter in self._data.letters.values())

    async def dead_letter_decide(self, letter_id: int, state: DeadLetterState) -> DeadLetter:
        async with self.transaction() as transaction:
            letter = copy.copy(rules.check_decision(letter_id, self._data.letters.get(letter_id), state))
            letter.state = state
            await transaction.dead_letter_change(letter)
        self._wake()
        return letter

    async def inbox_prune(self, before_s: float, limit: int) -> int:
        inbox = self._data.inbox
        old = list(islice((key for key, claimed_at in inbox.items() if claimed_at < before_s), limit))
        for key in old:
            del inbox[key]
        return len(old)

    async def responses_prune(self, before_s: float, limit: int) -> int:
        responses = self._data.responses
        old = list(islice((key for key, (_, saved_at) in responses.items() if saved_at < before_s), limit))
        for key in old:
            del responses[key]
        return len(old)

    # --- workers of one service

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        data, now = self._data, self._now()
        until = now + ttl_s
        data.workers[worker] = until
        for name in release:
            if data.leases.get(name, ("", 0.0))[0] == worker:
                del data.leases[name]
        # None lives longer than anybody could have asked for now: what was written before the clock was set back.
        leases = {
            name: (owner, until if owner == worker else min(end, until)) for name, (owner, end) in data.leases.items()
        }
        data.leases = {name: lease for name, lease in leases.items() if lease[1] > now}
        data.workers = {name: min(end, until) for name, end in data.workers.items() if end > now}
        for name in acquire:
            data.leases.setdefault(name, (worker, until))
        return self._table(now)

    async def leases(self) -> LeaseTable:
        return self._table(self._now())

    def _table(self, now: float) -> LeaseTable:
        leases = (
            Lease(name, owner, end - now) for name, (owner, end) in sorted(self._data.leases.items()) if end > now
        )
        return LeaseTable(tuple(sorted(name for name, end in self._data.workers.items() if end > now)), tuple(leases))

    async def resign(self, worker: str) -> None:
        data = self._data
        data.workers.pop(worker, None)
        data.leases = {name: lease for name, lease in data.leases.items() if lease[0] != worker}

    async def hindrances(self) -> Sequence[str]:
        return ()

    def _opened(self) -> Wakeup:
        if self._wakeup is None:
            raise UsageError(f"the memory store of {self.service} is not open: call open() first")
        return self._wakeup

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.notify((_CHANGED,))


def _copied(stored: Checkpoint) -> Checkpoint:
    counters: Counters = copy.copy(stored.counters)
    return Checkpoint(stored.offset, stored.revision, dict(stored.watermarks), dict(stored.gaps), counters)
