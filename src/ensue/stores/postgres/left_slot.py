"""The replication slot that mode `wal` leaves behind when a store is switched to `poll`: dropped, or told of.

A slot keeps the server's log for whoever will read it, and nobody will: everything that is unsent is in the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ensue.stores.sql.link import Link
from ensue.stores.sql.pool import Pool
from ensue.texts import logger

log = logger("ensue.postgres")

#: Inside the switch, which may still come to nothing: dropping a slot is in no transaction.
LEAVE = "UPDATE ensue_tail SET leaving = slot, slot = '' WHERE slot <> ''"
#: How long a reader may take to notice that its slot is left: longer than its heartbeat.
PATIENCE_S = 10.0

_LEFT = (
    "SELECT s.slot_name::text, s.active_pid FROM ensue_tail t JOIN pg_replication_slots s ON s.slot_name = t.leaving "
    "WHERE s.database = current_database() AND s.plugin = 'pgoutput'"
)
_DROP = f"SELECT pg_drop_replication_slot(slot_name) FROM ({_LEFT}) l WHERE active_pid IS NULL"
_LOCK = "SELECT 1 FROM ensue_tail WHERE leaving <> '' FOR UPDATE"
_FORGET = "UPDATE ensue_tail SET leaving = ''"


async def drop(pool: Pool) -> None:
    """Drop the slot if there is one; kept until the next start, and told of, while somebody still reads it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while lines := await pool.run(_drop):
        if loop.time() > until:
            log.warning("%s; it is dropped at the next start", *lines)
            return
        await asyncio.sleep(0.1)


async def _drop(link: Link) -> Sequence[str]:
    if not await link.fetch(_LOCK):  # one process at a time: who drops what is being dropped gets an error
        return ()
    await link.fetch(_DROP)
    lines = await warnings(link)
    if not lines:
        await link.execute(_FORGET)
    return lines


async def warnings(link: Link) -> Sequence[str]:
    return [
        f"replication slot {slot} of outbox=wal is left: it keeps log for nobody, and process {pid} still reads it"
        for slot, pid in await link.fetch(_LEFT)
    ]
