"""From one mode to another on a running system, and what holds a tail back.

`poll` to a tail: the new slot begins where the table ends (`tail_setup.py`). Between the tails: nothing, both take both
kinds. A tail to `poll`: what was emitted as messages while the switch was made goes into the table before the slot is
dropped. In each case a new epoch begins, and only when everything is sent (`stores/sql/switching.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.pgoutput import WalData
from ensue.stores.postgres.polled import UNSENT
from ensue.stores.postgres.tail_log import LogReader
from ensue.stores.postgres.tail_loop import Access
from ensue.stores.postgres.tail_slot import (
    Rows,
    SlotBusy,
    SlotState,
    described,
    drop_slot,
    failure,
    slot_state,
)
from ensue.stores.postgres.tail_stamp import load_state
from ensue.stores.sql.link import Link

log = logging.getLogger("ensue.tail")

#: How long a switch to `poll` waits for transactions that were open when it was made; else the next start does it.
LEAVE_S = 10.0
#: How long somebody may still read the slot: the server notices a moment later that a process has stopped.
BUSY_S = 3.0

_MODE = "SELECT outbox_mode FROM ensue_meta"
_SLOT = "SELECT slot FROM ensue_tail"
_UNSENT_STAMPED = (
    "SELECT count(*) FROM ensue_stamp s, unnest(s.ids) WITH ORDINALITY u (id, number), ensue_relay r "
    "WHERE s.last > r.position AND s.last - cardinality(s.ids) + u.number > r.position"
)
_UNSENT_ROWS = (
    "SELECT count(*) FROM ensue_outbox o LEFT JOIN (SELECT unnest(ids) AS id FROM ensue_stamp) known USING (id) "
    "WHERE (o.position IS NULL AND known.id IS NULL) OR o.position > (SELECT position FROM ensue_relay)"
)
_PEEK = (
    "SELECT data FROM pg_logical_slot_peek_binary_changes("
    "%s, NULL, NULL, 'proto_version', '1', 'publication_names', %s, 'messages', 'true')"
)
_OLDER = (
    "SELECT string_agg(pid::text, ', ') FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND xact_start < %s AND backend_type = 'client backend'"
)


async def unsent(link: Link, access: Access, *, exactly: bool) -> int:
    """How many committed records the relay's stored position does not cover, in whatever mode they were written.

    exactly: with the messages in the slot's part of the log, for which nobody may be reading it.
    """
    [(mode,)] = await link.fetch(_MODE)
    if mode == "poll":
        [(count,)] = await link.fetch(UNSENT)
        return int(count)
    [(stamped,)] = await link.fetch(_UNSENT_STAMPED)
    [(rows,)] = await link.fetch(_UNSENT_ROWS)
    [(slot,)] = await link.fetch(_SLOT)
    messages = 0
    if slot and exactly:
        own = await access.connect()
        try:
            messages = len(await _messages(own, access, str(slot)))
        finally:
            await own.close()
    return int(stamped) + int(rows) + messages


async def _messages(own: Rows, access: Access, slot: str) -> list[OutboxRecord]:
    """Records in the slot's part of the log that came as messages and have no position yet. Takes nothing away."""
    state = await load_state(own)
    reader = LogReader("ensue_outbox", access.prefix)
    until = asyncio.get_running_loop().time() + BUSY_S
    while True:
        try:
            cursor = await own.execute(_PEEK, (slot, f'"{access.publication}"'))
            break
        except psycopg.errors.UndefinedObject:
            return []  # it was dropped: there is nothing to have
        except psycopg.Error as error:
            ours = failure(error, slot)
            if not isinstance(ours, SlotBusy):
                raise ours from error
            if asyncio.get_running_loop().time() > until:
                raise StoreUnavailable(f"{ours}. Stop it first") from error
        await asyncio.sleep(0.1)
    for (data,) in await cursor.fetchall():
        assert isinstance(data, bytes)
        reader.received(WalData(0, 0, data))
    entries, _ = reader.take(reader.pending)
    return [each.record for each in entries if each.row_id == 0 and each.place > state.place]


async def leave(access: Access, keep: Callable[[list[OutboxRecord], float], Awaitable[None]]) -> None:
    """Drop the slot of the mode before, when nothing can be emitted into it any more; `keep` gets what still was."""
    own = await access.connect()
    try:
        cursor = await own.execute("SELECT leaving, extract(epoch FROM now())::float8, now() FROM ensue_tail")
        row = await cursor.fetchone()
        if row is None or not row[0]:
            return
        slot, since, started = str(row[0]), float(str(row[1])), row[2]
        until = asyncio.get_running_loop().time() + LEAVE_S
        while older := await _scalar(own, _OLDER, started):
            if asyncio.get_running_loop().time() > until:
                log.warning(
                    "slot %s is kept until the next start: processes %s have transactions that began before the outbox "
                    "was switched to poll", slot, older
                )  # fmt: skip
                return
            await asyncio.sleep(0.1)
        found = await slot_state(own, slot)
        if found is not None and found.ours:
            records = [] if found.lost else await _messages(own, access, slot)
            if records:
                log.warning("%d records emitted during the switch to poll go into the table", len(records))
                await keep(records, since)
            await drop_slot(own, slot)
        await own.execute("UPDATE ensue_tail SET leaving = ''")
    finally:
        await own.close()


async def _scalar(own: Rows, text: str, *values: object) -> object:
    cursor = await own.execute(text, values)
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def hindrances(link: Link, kept_bytes: int) -> list[str]:
    """Lines about the slot: gone, lost, read by nobody, or keeping more of the log than `kept_bytes`."""
    rows = await link.fetch(
        "SELECT t.slot, s.active_pid, s.wal_status, s.safe_wal_size, "
        "pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint "
        "FROM ensue_tail t LEFT JOIN pg_replication_slots s ON s.slot_name = t.slot WHERE t.slot <> ''"
    )
    lines: list[str] = []
    for slot, pid, status, left, kept in rows:
        if status is None and kept is None:
            lines.append(described(slot, None))
        elif status == "lost" or not pid or (kept or 0) > kept_bytes:
            state = SlotState(int(pid or 0), str(status), int(kept or 0), None if left is None else int(left), True)
            lines.append(described(slot, state))
    return lines
