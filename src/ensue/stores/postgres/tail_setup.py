"""A slot that begins where the table ends: making it where there is none that can be read.

A slot and a look at the table belong together: the slot is made inside a transaction whose snapshot sees exactly what
committed before the slot begins. What it sees without a position gets one there, in id order (the rule of mode `poll`);
everything later comes from the log. So nothing is missed and nothing comes twice, and a lost slot loses nothing.
"""

from __future__ import annotations

import asyncio
import secrets

import psycopg

from ensue.errors import StoreConflict, StoreUnavailable
from ensue.stores.postgres.by_stamp import Switched
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_access import Access, Rows
from ensue.stores.postgres.tail_server import check_server, ensure_publication
from ensue.stores.postgres.tail_slot import SlotState, create_slot, drop_slot, slot_name, slot_state
from ensue.stores.postgres.tail_stamp import State, load_state
from ensue.stores.postgres.unsent import UNREAD
from ensue.texts import logger

log = logger("ensue.tail")

#: A slot begins only when every transaction that is open has ended.
CREATE_S = 60.0
#: How long a slot may look as if it were being read after its reader was killed.
LEFT_S = 5.0
#: Advisory lock of this database: one process at a time makes a slot.
_LOCK = 0x45_4E_53_54

_STAMP_UNREAD = (
    "WITH start AS (SELECT last_position FROM ensue_counter FOR UPDATE), "
    "unread AS (SELECT o.id, o.topic, o.partition_no, (SELECT last_position FROM start) + row_number() "
    f"OVER (ORDER BY o.id) AS position {UNREAD}), "
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


async def ensure(access: Access, service: str) -> None:
    """Make sure that the slot of this store is there and readable by us, making it where that loses nothing.

    Raises UsageError that says what to set; Switched; StoreUnavailable when it cannot be told now.
    """
    try:
        own = await access.connect()
    except psycopg.Error as error:
        raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
    try:
        await check_server(own)
        replication = await ReplicationConnection.connect(access.conninfo)  # else it is refused, and says why
        try:
            await _publish(own, access.publication)
            if access.path is not None:
                await replication.execute(access.path)
            await replication.execute(f"SELECT pg_advisory_lock({_LOCK})")  # one slot is enough; ends with the session
            state = await load_state(own)
            if not await _usable(own, state):
                await _begin(own, replication, service, state)
        finally:
            await replication.close()
    except psycopg.Error as error:
        raise StoreUnavailable(f"the log cannot be read: {str(error).strip()}") from error
    finally:
        await own.close()


async def _publish(own: Rows, publication: str) -> None:
    cursor = await own.execute("SELECT current_schema()")
    row = await cursor.fetchone()
    assert row is not None
    await ensure_publication(own, publication, str(row[0]), "ensue_outbox")


async def _usable(own: Rows, state: State) -> bool:
    if not state.slot:
        return False
    found = await slot_state(own, state.slot)
    if found is not None and found.ours and not found.lost:
        return True
    how = "is gone" if found is None else "is another database's" if not found.ours else "was invalidated"
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
    # The snapshot says so now: what came before it may have been seen in another mode. And who switches later waits for
    # the counter's lock, or has made this transaction fail.
    [(mode,)] = await replication.execute("SELECT outbox_mode FROM ensue_meta")
    if mode != "wal":
        raise Switched(str(mode))
    rows = await replication.execute(_STAMP_UNREAD)
    # The last entry before the slot's beginning is none of the log's.
    await replication.execute(f"UPDATE ensue_tail SET slot = '{slot}', within = 0, commit_lsn = 0")
    await replication.execute("COMMIT")
    log.info("slot %s begins; %s records of the table have got their positions", slot, rows[0][0] if rows else 0)


async def _drop_old(own: Rows, slot: str) -> None:
    """Drop the slot that was replaced, if it is ours: an invalidated one stays in the way else."""
    found = await slot_state(own, slot)
    if found is not None and found.ours and not found.active_pid:
        await drop_slot(own, slot)
