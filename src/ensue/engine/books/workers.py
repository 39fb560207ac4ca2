"""Who lives and works on what, which schema the tables have, and what was attempted last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from ensue.engine.attempt import Attempt
from ensue.engine.books.base import Base, encode
from ensue.engine.leases import Held
from ensue.engine.schema import Fill, Numbers
from ensue.errors import RowConflict, StoreBehind
from ensue.message import LeaseTable, Partition, Told
from ensue.ports import Row, StepTransaction
from ensue.tables import LEASES

_ONE_ROW = "leases"
#: Row of LEASES that says of which schema Ensue's tables are.
NUMBERS = "schema"
_read_numbers = msgspec.json.Decoder(Numbers).decode
_read_held = msgspec.json.Decoder(Held).decode
_read_attempt = msgspec.json.Decoder(Attempt).decode


class Workers(Base):
    """Who lives and works on what."""

    async def heartbeat(
        self,
        worker: str,
        ttl_s: float,
        acquire: Sequence[str] = (),
        release: Sequence[str] = (),
        handles: Mapping[str, Sequence[str]] | None = None,
        *,
        cleared: Sequence[str] = (),
        busy: tuple[float, str] | None = None,
        log: str = "",
        relay: Sequence[str] = (),
    ) -> LeaseTable:
        """See `Held.beat`. Of two workers that acquire one lease at once, exactly one gets it. log: its log's name.
        relay: why its relay does not send."""
        told = Told(self.schema.number, log, tuple(relay))
        return await self._change_leases(
            lambda held, now: held.beat(
                worker, now, ttl_s, acquire, release, handles, cleared=cleared, busy=busy, told=told
            )
        )

    async def resign(self, *workers: str) -> LeaseTable:
        """Give up everything that these workers hold: a graceful stop."""
        return await self._change_leases(lambda held, now: held.without(workers.__contains__))

    async def bury(self, *workers: str) -> LeaseTable:
        """As `resign`, for workers that are known to be dead or to hang: what they held is suspect."""
        return await self._change_leases(lambda held, now: held.without(workers.__contains__, suspect=True))

    async def steer(
        self, change: Callable[[Held], Held], also: Callable[[StepTransaction], Awaitable[None]] | None = None
    ) -> LeaseTable:
        """What a person wants to be otherwise with the leases; workers see it with their next heartbeat. also: what is
        done in the same transaction. Raises what `change` does, and then nothing is written."""
        return await self._change_leases(lambda held, now: change(held), also)

    async def leases(self) -> LeaseTable:
        """Who lives and holds what now, for whoever only looks: nothing is taken and nobody is made to live."""
        rows = await self._store.rows().get(LEASES, [_ONE_ROW])
        return (_read_held(rows[0][2]) if rows else Held()).table(await self._store.now())

    async def _change_leases(
        self,
        change: Callable[[Held, float], Held],
        also: Callable[[StepTransaction], Awaitable[None]] | None = None,
    ) -> LeaseTable:
        """Read, change, write; again when somebody else was quicker, who has then done what was to be done.

        Raises StoreOutdated, and writes nothing, when this process must not work on the tables; StoreBehind when they
        want to be upgraded first.
        """
        while True:
            try:
                async with self._store.transaction(upkeep=True) as transaction:
                    rows = {row[0]: row for row in await transaction.load_rows(LEASES, [_ONE_ROW, NUMBERS])}
                    numbers = numbers_of(rows.get(NUMBERS))
                    self.schema.check(self.subscription, numbers)
                    if self.schema.next(numbers) is not None:
                        raise StoreBehind(
                            f"{self.subscription}: Ensue's tables are of schema {numbers.schema} again, this process "
                            f"had brought them to {self.schema.number}: it does so once more"
                        )
                    row = rows.get(_ONE_ROW)
                    held = change(_read_held(row[2]) if row else Held(), transaction.now)
                    await self._write(transaction, _ONE_ROW, row, held)
                    if also is not None:
                        await also(transaction)
                    return held.table(transaction.now)
            except RowConflict:
                continue

    async def has_worked(self) -> bool:
        """Whether a worker has ever lived on these tables."""
        return bool(await self._store.rows().get(LEASES, [_ONE_ROW]))

    async def numbers(self) -> Numbers:
        """What the database says of Ensue's tables."""
        rows = await self._store.rows().get(LEASES, [NUMBERS])
        return numbers_of(rows[0] if rows else None)

    async def renumber(self, found: Numbers, following: Numbers, fill: Fill | None = None) -> bool:
        """Write the numbers if they still are `found`, and with them, and before them, what `fill` writes; return
        whether they were."""
        try:
            async with self._store.transaction(upkeep=True) as transaction:
                if fill is not None:
                    await fill(
                        transaction
                    )  # first: where rows are written one by one, the numbers speak for the others
                rows = await transaction.load_rows(LEASES, [NUMBERS])
                row = rows[0] if rows else None
                if numbers_of(row) != found:
                    raise RowConflict("another process upgrades these tables")
                await self._write(transaction, NUMBERS, row, following)
        except RowConflict:
            return False
        return True

    async def attempt(self, partition: Partition) -> Attempt:
        """What was written before the last attempt of a suspect partition; an empty one when nothing was."""
        rows = await self._store.rows().get(LEASES, [partition.place])
        return _read_attempt(rows[0][2]) if rows else Attempt()

    async def save_attempts(self, attempts: Sequence[tuple[Partition, Attempt]]) -> None:
        """Write down what is attempted now, all or nothing, before it begins. Raises RowConflict when another worker
        writes the same at the same time."""
        async with self._store.transaction(upkeep=True) as transaction:
            known = {row[0]: row[1] for row in await transaction.load_rows(LEASES, [at.place for at, _ in attempts])}
            rows = [
                (at.place, self._next(known.get(at.place, 0)), encode(attempt).decode()) for at, attempt in attempts
            ]
            if old := [row for row in rows if row[0] in known]:
                await transaction.update_rows(LEASES, old, expect=[known[row[0]] for row in old])
            if new := [row for row in rows if row[0] not in known]:
                await transaction.insert_rows(LEASES, new)

    async def forget_attempt(self, partition: Partition) -> None:
        async with self._store.transaction(upkeep=True) as transaction:
            await transaction.delete_rows(LEASES, [partition.place])


def numbers_of(row: Row | None) -> Numbers:
    """What the row `NUMBERS` says."""
    return Numbers() if row is None else _read_numbers(row[2])
