"""Making what a tail needs, or saying what is missing: tables, publication, a slot that begins where the table ends.

A slot and a look at the table belong together: the slot is made inside a transaction whose snapshot sees exactly what
committed before the slot begins. What it sees without a position gets one there, in id order (the rule of mode `poll`);
everything later comes from the log. So nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

import psycopg
from psycopg import sql

from ensue.errors import StoreConflict, StoreUnavailable, UsageError
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_loop import Access
from ensue.stores.postgres.tail_slot import (
    Rows,
    SlotLost,
    SlotState,
    check_server,
    create_slot,
    drop_slot,
    ensure_publication,
    slot_name,
    slot_state,
)
from ensue.stores.postgres.tail_stamp import TABLES, State, load_state

log = logging.getLogger("ensue.tail")

#: A slot begins only when every transaction that is open has ended.
CREATE_S = 60.0
#: How long a slot may look as if it were being read after its reader was killed.
LEFT_S = 5.0
#: Advisory lock of this database: one process at a time makes a slot.
_LOCK = 0x45_4E_53_54

_UNREAD_ROWS = (
    "WITH start AS (SELECT last_position FROM ensue_counter FOR UPDATE), "
    "unread AS (SELECT o.id, o.topic, o.partition_no, s.last_position + row_number() OVER (ORDER BY o.id) AS position "
    "FROM start s, ensue_outbox o LEFT JOIN (SELECT unnest(ids) AS id FROM ensue_stamp) known USING (id) "
    "WHERE o.position IS NULL AND known.id IS NULL AND (o.id > (SELECT seen_id FROM ensue_polled) OR EXISTS ("
    "SELECT FROM ensue_polled p, unnest(p.hole_first, p.hole_last) h (first, last) "
    "WHERE o.id BETWEEN h.first AND h.last))), "
    "chained AS (SELECT u.id, u.position, coalesce(lag(u.position) OVER (PARTITION BY u.topic, u.partition_no "
    "ORDER BY u.position), h.position, 0) AS previous "
    "FROM unread u LEFT JOIN ensue_outbox_head h USING (topic, partition_no)), "
    "stamps AS (INSERT INTO ensue_stamp (last, ids, previous) "
    "SELECT max(position), array_agg(id ORDER BY position), array_agg(previous ORDER BY position) FROM chained "
    "GROUP BY (position - 1) / 2000), "
    "heads AS (INSERT INTO ensue_outbox_head (topic, partition_no, position) "
    "SELECT topic, partition_no, max(position) FROM unread GROUP BY topic, partition_no "
    "ON CONFLICT (topic, partition_no) DO UPDATE SET position = excluded.position) "
    "UPDATE ensue_counter SET last_position = greatest(last_position, coalesce((SELECT max(position) FROM unread), 0)) "
    "RETURNING (SELECT count(*) FROM unread)"
)
_OPEN = (
    "SELECT string_agg(pid::text || ' (' || coalesce(nullif(application_name, ''), usename, '?') || ', for ' || "
    "round(extract(epoch FROM now() - xact_start)) || ' s)', ', ') FROM (SELECT * FROM pg_stat_activity "
    "WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 3) oldest"
)


async def ensure(access: Access, service: str, mode: str) -> None:
    """Make sure that the slot of this store is there and readable by us, making it where that loses nothing.

    Raises UsageError that says what to set; SlotLost in mode `messages` when events may have been lost with the slot;
    StoreUnavailable when it cannot be told now.
    """
    try:
        own = await access.connect()
    except psycopg.Error as error:
        raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
    try:
        await check_server(own)
        replication = await ReplicationConnection.connect(access.replication)  # else it is refused, and says why
        try:
            await _tables(own, access.publication)
            if access.schema:
                await replication.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(access.schema)))
            await replication.execute(f"SELECT pg_advisory_lock({_LOCK})")  # one slot is enough; ends with the session
            state = await load_state(own)
            if not await _usable(own, state, mode):
                await _begin(own, replication, service, state)
        finally:
            await replication.close()
    except psycopg.Error as error:
        raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
    finally:
        await own.close()


async def _tables(own: Rows, publication: str) -> None:
    cursor = await own.execute("SELECT to_regclass('ensue_tail') IS NOT NULL, current_schema()")
    row = await cursor.fetchone()
    assert row is not None
    there, schema = row
    if not there:
        async with own.transaction():
            for statement in TABLES:
                await own.execute(statement)
    await ensure_publication(own, publication, str(schema), "ensue_outbox")


async def _usable(own: Rows, state: State, mode: str) -> bool:
    """Whether the slot can be read. Raises SlotLost when a new one might hide a loss."""
    if not state.slot:
        return False
    found = await slot_state(own, state.slot)
    if found is not None and found.ours and not found.lost:
        return True
    how = "is gone" if found is None else "is another database's" if not found.ours else "was invalidated"
    if mode == "messages":
        raise SlotLost(
            f"replication slot {state.slot} {how}. What steps published since the log was last read is lost with it: "
            "those events have no row anywhere else. What has a position is in the outbox and safe. Find out which "
            "entities changed meanwhile, then accept the loss in this database by UPDATE ensue_tail SET slot = '' and "
            "start again: a new slot begins and positions go on. To be safe from this, use ?outbox=wal, and set "
            "max_slot_wal_keep_size for the longest time that nobody reads the log",
            slot=state.slot,
        )
    log.warning("replication slot %s %s: a new one is made; what was not read yet is in the table", state.slot, how)
    return False


async def _begin(own: Rows, replication: ReplicationConnection, service: str, state: State) -> None:
    """Make a slot and give positions to what is in the table before it."""
    for attempt in range(5):
        slot = slot_name(service, state.epoch)
        there = await _left_alone(own, slot)
        if there is not None and there.ours and not there.active_pid:
            await drop_slot(own, slot)  # of a process that was killed while it made it, or invalidated
        elif there is not None:
            slot = f"{slot}_{secrets.token_hex(3)}"
        try:
            await _create(own, replication, slot)
        except psycopg.errors.SerializationFailure:
            log.info("another process gave positions while slot %s was made (attempt %d): again", slot, attempt + 1)
            await replication.execute("ROLLBACK")
            await drop_slot(own, slot)
            state = await load_state(own)
            continue
        except BaseException:
            await replication.close()
            left = await _left_alone(own, slot)
            if left is not None and left.ours and not left.active_pid:
                await drop_slot(own, slot)
            raise
        if state.slot and state.slot != slot:
            await _drop_old(own, state.slot)
        return
    raise StoreConflict("another process gives positions all the time: is one left in mode poll? Stop it")


async def _left_alone(own: Rows, slot: str) -> SlotState | None:
    """Return the slot's state, after a while if somebody reads it: the server notices late that a process has died."""
    until = asyncio.get_running_loop().time() + LEFT_S
    while True:
        found = await slot_state(own, slot)
        if found is None or not found.active_pid or not found.ours or asyncio.get_running_loop().time() > until:
            return found
        await asyncio.sleep(0.05)


async def _create(own: Rows, replication: ReplicationConnection, slot: str) -> None:
    await replication.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    try:
        async with asyncio.timeout(CREATE_S):
            await create_slot(replication, slot)
    except TimeoutError:
        cursor = await own.execute(_OPEN)
        row = await cursor.fetchone()
        await own.execute("SELECT pg_terminate_backend(%s)", (replication.backend_pid,))
        raise StoreUnavailable(
            f"slot {slot} cannot begin before every open transaction has ended; for {CREATE_S:g} s these have not: "
            f"processes {row[0] if row else '?'}"
        ) from None
    # The last entry before the slot's beginning is none of the log's.
    await replication.execute(f"UPDATE ensue_tail SET slot = '{slot}', within = 0, commit_lsn = '0/0'")
    rows = await replication.execute(_UNREAD_ROWS)
    await replication.execute("COMMIT")
    log.info("slot %s begins; %s records of the table have got their positions", slot, rows[0][0] if rows else 0)


async def _drop_old(own: Rows, slot: str) -> None:
    """Drop the slot that was replaced, if it is ours: an invalidated one stays in the way else."""
    found = await slot_state(own, slot)
    if found is not None and found.ours and not found.active_pid:
        await drop_slot(own, slot)


__all__ = ["CREATE_S", "UsageError", "ensure"]
