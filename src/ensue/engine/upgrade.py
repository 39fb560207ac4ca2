"""Ensue's own tables of an older schema get what a newer Ensue adds, while processes of the older one go on.

Any number of processes may do it at once, and be killed at it: each addition may be done twice, and the number that
says that it is done is written together with its rows, or after them. See docs/adr/0032.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import ClassVar

from ensue.engine.books import Books
from ensue.engine.context import Context
from ensue.engine.faults import Faults
from ensue.engine.loop import Loop
from ensue.engine.schema import Numbers, release
from ensue.errors import StoreOutdated
from ensue.message import Told
from ensue.ports import Clock, Store
from ensue.texts import logger

log = logger("ensue.upgrade")

#: How long older processes are waited for, in lives of a lease; a living one looks at each heartbeat.
_WAIT_LEASES = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Upgrade:
    """Of the tables in the store of `books`. lease_ttl_s: of this service's leases."""

    store: Store
    books: Books
    clock: Clock
    lease_ttl_s: float
    faults: Faults

    async def run(self) -> None:
        """Bring the tables to this process's schema, where they are of an older one.

        Where older processes may not go on, these are told first, and waited for. Raises StoreOutdated when this
        process must not touch the tables, or older ones do not stop.
        """
        books = self.books
        while True:
            found = await books.numbers()
            books.schema.check(books.subscription, found)
            addition = books.schema.next(found)
            if addition is None:
                return
            readable_by = max(addition.readable_by or 1, found.readable_by)
            if readable_by > found.readable_by:
                await books.renumber(found, Numbers(found.schema, readable_by, release()))
                self.faults.point("upgrade.announced")
                continue
            if readable_by > found.schema:
                await self._until_older_ones_stop(readable_by)
            await self.store.make_own(addition.tables)
            self.faults.point("upgrade.made")
            if await books.renumber(found, Numbers(found.schema + 1, readable_by, release()), addition.fill):
                log.info("%s: Ensue's tables are of schema %d now", books.subscription, found.schema + 1)
            self.faults.point("upgrade.done")

    async def _until_older_ones_stop(self, schema: int) -> None:
        """Return when no process with an older schema works on the tables any more."""
        service = self.books.subscription
        older: dict[str, int] = {}
        if not await self.books.has_worked():
            return
        for _ in range(_WAIT_LEASES):
            await self.clock.sleep(self.lease_ttl_s)  # also for those without a worker: see SchemaWatch
            table = await self.books.leases()
            found = {each: table.told.get(each, Told()).schema for each in table.workers}
            older = {each: number for each, number in found.items() if number < schema}
            if not older:
                return
            log.warning("%s: waiting until %s stop, whose Ensue is too old", service, ", ".join(older))
        raise StoreOutdated(
            f"service {service}: Ensue's tables in its database are about to be for processes of schema {schema} or "
            f"later, and {', '.join(older)} of an older one did not stop within {_WAIT_LEASES * self.lease_ttl_s:g} s: "
            "stop them, then start this process again",
            found=min(older.values()),
            expected=schema,
        )


async def upgrade(context: Context) -> None:
    """See `Upgrade.run`."""
    config = context.config
    await Upgrade(context.store, context.books, context.clock, config.lease_ttl_s, context.faults).run()


async def check_upgraded(books: Books) -> None:
    """For who looks and decides beside the service: raises StoreOutdated unless the tables can be worked with as they
    are."""
    service, schema, found = books.subscription, books.schema, await books.numbers()
    schema.check(service, found)
    if schema.next(found) is not None:
        raise StoreOutdated(
            f"service {service}: Ensue's tables in its database are of schema {found.schema}, this Ensue works with "
            f"{schema.number}: they are brought to it when the service starts with this Ensue, or by `ensue db init`",
            found=found.schema,
            expected=schema.number,
        )


class SchemaWatch(Loop):
    """For a process without a worker, which has no heartbeat: looks as often as others beat whether it may go on.

    refused: why it may not.
    """

    log: ClassVar[logging.Logger] = log

    def __init__(self, context: Context) -> None:
        super().__init__(f"{context.service} schema", context)
        self.refused: StoreOutdated | None = None

    async def _turn(self) -> None:
        books = self._context.books
        await self._pause(self._context.config.lease_ttl_s / 3)  # first: the start has looked
        try:
            books.schema.check(self._context.service, await books.numbers())
        except StoreOutdated as error:
            log.critical("%s", error)
            self.refused = error
            self.stop()
