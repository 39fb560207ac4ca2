"""How far the outbox is sent, what the broker does not take, and what retention took away."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import blake2b

import msgspec

from ensue.engine.books.base import Base
from ensue.message import HeldPartition
from ensue.ports import Row, StepTransaction
from ensue.tables import LEASES, RELAY

#: Rows of RELAY with the two halves of the store's key, see `ensue.engine.hallmark`. Databases that are there name
#: them so.
HALLMARK = ("seal 1", "seal 2")
#: Row of RELAY that says which version of a view this one began from: see `ensue.engine.seeding`.
SEEDED = "seeded from"
_HELD = "held"
_read_held_partitions = msgspec.json.Decoder(list[HeldPartition]).decode


class Relays(Base):
    """How far the relay is, and what it holds."""

    async def tell_held(self, held: Sequence[HeldPartition]) -> None:
        """Tell which partitions the relay holds, for whoever asks in another process."""
        async with self._store.transaction(upkeep=True) as transaction:
            rows = await transaction.load_rows(LEASES, [_HELD])
            if rows or held:
                await self._write(transaction, _HELD, rows[0] if rows else None, list(held))

    async def held(self) -> list[HeldPartition]:
        """Partitions that the relay holds, as it told last."""
        rows = await self._store.rows().get(LEASES, [_HELD])
        return _read_held_partitions(rows[0][2]) if rows else []

    async def held_for(self, transaction: StepTransaction) -> list[HeldPartition]:
        """As `held`; nobody else decides about these before the transaction ends."""
        rows = await transaction.load_rows(LEASES, [_HELD])
        return _read_held_partitions(rows[0][2]) if rows else []

    async def withdraw(self, transaction: StepTransaction, held: HeldPartition) -> bool:
        """Have an empty record go out in place of the one that holds a partition; return False when that was decided
        before."""
        name = _withdrawn(held.id)
        if await transaction.load_rows(RELAY, [name]):
            return False
        await transaction.insert_rows(RELAY, [(name, held.position)])
        return True

    async def withdrawn(self, ids: Iterable[str]) -> set[str]:
        """Which of these message ids are withdrawn."""
        names = {_withdrawn(each): each for each in ids}
        rows = await self._store.rows().get(RELAY, list(names)) if names else []
        return {names[row[0]] for row in rows}

    async def went_out(self, topic: str, partition: int, ids: Sequence[str]) -> list[str]:
        """The partition is held no more, and these have gone out as they are; return those that were withdrawn
        meanwhile, which they are not any more."""
        names = {_withdrawn(each): each for each in ids}
        async with self._store.transaction(upkeep=True) as transaction:
            rows = await transaction.load_rows(LEASES, [_HELD])
            held = _read_held_partitions(rows[0][2]) if rows else []
            left = [each for each in held if (each.topic, each.partition) != (topic, partition)]
            if len(left) < len(held):
                await self._write(transaction, _HELD, rows[0], left)
            late = [row[0] for row in await transaction.load_rows(RELAY, list(names))]
            if late:
                await transaction.delete_rows(RELAY, late)
        return [names[each] for each in late]

    async def withdrawals(self, ids: Iterable[str]) -> list[Row]:
        """The rows that say that these messages are withdrawn, for another database that goes on as this one."""
        return list(await self._store.rows().get(RELAY, [_withdrawn(each) for each in ids]))

    async def relay_position(self) -> int:
        """Position through which everything of the store's source is known to be in the log. May lag: sending again is
        harmless. 0 in a new epoch."""
        rows = await self._store.rows().get(RELAY, [self._store.source])
        return int(rows[0][1]) if rows else 0

    async def pruned_before(self) -> float | None:
        """All records that retention took out of this source's outbox were written before this time, seconds since the
        epoch; None: it took none."""
        rows = await self._store.rows().get(RELAY, [pruned(self._store.source)])
        return rows[0][1] / 1e6 if rows else None

    async def note_pruning(self, before_s: float) -> None:
        """Retention is about to take away what was written before this time."""
        await self.save_relay_position(pruned(self._store.source), math.ceil(before_s * 1e6))

    async def relay_waits(self) -> int | None:
        """The relay's position when it first began with a log that knew nothing of its source, if nothing was unsent
        then and nothing was sent since; -1: something was; None: it never began so."""
        rows = await self._store.rows().get(RELAY, [waits(self._store.source)])
        return int(rows[0][1]) if rows else None

    async def note_waiting(self, position: int, head: int) -> None:
        """The relay begins so at `position`, with records up to `head` in the outbox.

        A second beginning there says nothing new of what was unsent at the first one. And what was sent once, and lost
        again, nobody can tell from what the copy had.
        """
        known = await self.relay_waits()
        if known is None or (known >= 0 and known != position):
            await self._set(waits(self._store.source), position if head <= position else -1)

    async def note_sending(self) -> None:
        """From here on the relay sends: see `relay_waits`."""
        await self._set(waits(self._store.source), -1)

    async def seeded_from(self) -> int:
        """The version of the view of whose rows this one began; 0: it began from the log."""
        rows = await self._store.rows().get(RELAY, [SEEDED])
        return int(rows[0][1]) if rows else 0

    async def note_seed(self, transaction: StepTransaction, version: int) -> None:
        """Written with all that is made of that version's rows. Raises RowConflict when another process was quicker."""
        await transaction.insert_rows(RELAY, [(SEEDED, version)])

    async def _set(self, name: str, value: int) -> None:
        async with self._store.transaction(upkeep=True) as transaction:
            known = await transaction.load_rows(RELAY, [name])
            await (transaction.update_rows if known else transaction.insert_rows)(RELAY, [(name, value)])

    async def save_relay_position(
        self, source: str, position: int, also: Callable[[StepTransaction], Awaitable[None]] | None = None
    ) -> None:
        """Store that position; never moves backwards. also: what is done in the same transaction."""
        async with self._store.transaction(upkeep=True) as transaction:
            rows = await transaction.load_rows(RELAY, [source])
            if not rows:
                await transaction.insert_rows(RELAY, [(source, position)])
            elif rows[0][1] < position:
                await transaction.update_rows(RELAY, [(source, position)])
            if also is not None:
                await also(transaction)


def pruned(source: str) -> str:
    """The id of the row that says up to when a source's records were taken away."""
    return f"{source} pruned before"


def _withdrawn(message_id: str) -> str:
    """The id of the row that says that a message is withdrawn. By id, since a new epoch has the message too; as a
    digest, since an id may be of any length."""
    return f"withdrawn {blake2b(message_id.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def waits(source: str) -> str:
    """The id of the row that says where the relay of a source waits to be told what was applied."""
    return f"{source} waits at"
