"""Ensue's own tables of an older schema get what a newer Ensue adds, while processes of the older one go on.

Any number of processes may do it at once, and be killed at it: each addition may be done twice, and the number that
says that it is done is written together with its rows, or after them. See docs/adr/0032.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.engine.schema import Numbers, release
from ensue.errors import StoreOutdated
from ensue.message import Told

log = logging.getLogger("ensue.upgrade")

#: How long older processes are waited for, in lives of a lease; a living one looks at each heartbeat.
_WAIT_LEASES = 10


async def upgrade(context: Context) -> None:
    """Bring the tables to this process's schema, where they are of an older one.

    Where older processes may not go on, these are told first, and waited for. Raises StoreOutdated when this process
    must not touch the tables, or older ones do not stop.
    """
    books = context.books
    while True:
        found = await books.numbers()
        books.schema.check(context.service, found)
        addition = books.schema.next(found)
        if addition is None:
            return
        readable_by = max(addition.readable_by or 1, found.readable_by)
        if readable_by > found.readable_by:
            await books.renumber(found, Numbers(found.schema, readable_by, release()))
            context.faults.point("upgrade.announced")
            continue
        if readable_by > found.schema:
            await _until_older_ones_stop(context, readable_by)
        await context.store.make_own(addition.tables)
        context.faults.point("upgrade.made")
        if await books.renumber(found, Numbers(found.schema + 1, readable_by, release()), addition.fill):
            log.info("%s: Ensue's tables are of schema %d now", context.service, found.schema + 1)
        context.faults.point("upgrade.done")


async def _until_older_ones_stop(context: Context, schema: int) -> None:
    """Return when no process with an older schema works on the tables any more."""
    books, service = context.books, context.service
    older: list[str] = []
    if not await books.has_worked():
        return
    for _ in range(_WAIT_LEASES):
        await context.clock.sleep(context.config.lease_ttl_s)  # also for those without a worker: see SchemaWatch
        table = await books.leases()
        older = [each for each in table.workers if table.told.get(each, Told()).schema < schema]
        if not older:
            return
        log.warning("%s: waiting for %s, which must stop: its Ensue is too old", service, ", ".join(older))
    raise StoreOutdated(
        f"service {service}: Ensue's tables in its database are about to be for processes of schema {schema} or later, "
        f"and {', '.join(older)} of an older one did not stop in {_WAIT_LEASES * context.config.lease_ttl_s:g} s: stop "
        "what is older, then start this process again",
        found=min(table.told.get(each, Told()).schema for each in older),
        expected=schema,
    )


class SchemaWatch(Loop):
    """For a process without a worker, which has no heartbeat: looks once in the life of a lease whether it may go on.

    refused: why it may not.
    """

    log: ClassVar[logging.Logger] = log

    def __init__(self, context: Context) -> None:
        super().__init__(f"{context.service} schema", context)
        self.refused: StoreOutdated | None = None

    async def _turn(self) -> None:
        books = self._context.books
        try:
            books.schema.check(self._context.service, await books.numbers())
        except StoreOutdated as error:
            log.critical("%s", error)
            self.refused = error
            self.stop()
        else:
            await self._pause(self._context.config.lease_ttl_s)
