"""The replication slot and the publication of a tailed outbox: making them, judging their state, saying what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

import psycopg

from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.stores.postgres.replication import ReplicationConnection

Rows = psycopg.AsyncConnection[tuple[object, ...]]

_SLOT = (
    "SELECT active_pid, coalesce(wal_status, 'reserved'), coalesce(safe_wal_size, -1), "
    "pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, database = current_database() AND plugin = 'pgoutput' "
    "FROM pg_replication_slots WHERE slot_name = %s"
)


class SlotLost(StoreUnavailable):
    """The server has dropped or invalidated the slot, and with it the log that nobody had read. attributes: slot.

    A relay meets it again and again, and goes on as soon as an operator has acted; a store does not open with it.
    """


class SlotBusy(StoreUnavailable):
    """Another connection reads the slot: it numbers the records, this one reads what it has numbered.

    attributes: slot.
    """


class SlotState(NamedTuple):
    """active_pid: of the server's process that sends the log to whoever reads it; 0: nobody reads.

    kept_bytes: of the log, which the server keeps for this slot. left_bytes: how much more it will keep before it
    invalidates the slot; None: without limit. ours: made by us, in this database.
    """

    active_pid: int
    status: str
    kept_bytes: int
    left_bytes: int | None
    ours: bool

    @property
    def lost(self) -> bool:
        return self.status == "lost"


def slot_name(service: str, epoch: str) -> str:
    """A name that the server allows, different for each epoch, so that a copied database has one of its own."""
    return f"ensue_{re.sub('[^a-z0-9_]', '_', service.lower())[:40]}_{epoch}"


async def slot_state(connection: Rows, slot: str) -> SlotState | None:
    """Return the slot's state, or None when there is no such slot."""
    cursor = await connection.execute(_SLOT, (slot,))
    row = await cursor.fetchone()
    if row is None:
        return None
    pid, status, left, kept, ours = row
    assert isinstance(left, int)
    return SlotState(
        active_pid=pid if isinstance(pid, int) else 0,
        status=str(status),
        kept_bytes=kept if isinstance(kept, int) else 0,
        left_bytes=None if left < 0 else left,
        ours=bool(ours),
    )


def described(slot: str, state: SlotState | None) -> str:
    """One line for people."""
    if state is None:
        return f"replication slot {slot} is gone"
    reader = f"read by process {state.active_pid}" if state.active_pid else "read by nobody"
    line = f"replication slot {slot}: {reader}, keeps {state.kept_bytes / 1e6:.1f} MB of log"
    if state.status == "lost":
        return f"replication slot {slot} is invalidated: it fell too far behind (max_slot_wal_keep_size)"
    if state.left_bytes is not None:
        line += f", {state.left_bytes / 1e6:.1f} MB before it is lost (max_slot_wal_keep_size)"
    return line


def failure(error: psycopg.Error, slot: str) -> EnsueError:
    """What a failed command about a slot means."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, psycopg.errors.ObjectInUse):
        return SlotBusy(f"{text}: another worker tails the log", slot=slot)
    if isinstance(error, psycopg.errors.UndefinedObject) or "invalidated" in str(error) or "no longer" in text:
        return SlotLost(f"{slot}: {text}", slot=slot)
    if isinstance(error, psycopg.errors.ConfigurationLimitExceeded):
        return UsageError(f"no replication slot: {text}. Raise max_replication_slots, or drop slots that nobody reads")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return UsageError(
            f"no replication slot: {text}. Run as a superuser: ALTER ROLE <user> REPLICATION; or use ?outbox=poll"
        )
    if "wal_level" in text:
        return UsageError(
            f"no replication slot: {text}. Set wal_level = logical in postgresql.conf and restart the server, "
            "or use ?outbox=poll"
        )
    return StoreUnavailable(f"slot {slot}: {text}")


async def check_server(connection: Rows) -> None:
    """Raise UsageError when the server does not write what a tail needs."""
    cursor = await connection.execute(
        "SELECT current_setting('wal_level'), current_setting('max_replication_slots'), "
        "current_setting('server_version_num')::int"
    )
    row = await cursor.fetchone()
    assert row is not None
    if isinstance(row[2], int) and row[2] < 140000:
        raise UsageError(
            f"the server is PostgreSQL {row[2] // 10000}; tailing its log needs 14 or later. Use ?outbox=poll",
            found=row[2],
            expected=140000,
        )
    if row[0] != "logical":
        raise UsageError(
            f"the server has wal_level = {row[0]}, tailing its log needs logical: set wal_level = logical in "
            "postgresql.conf and restart the server, or use ?outbox=poll",
            found=row[0],
            expected="logical",
        )
    if row[1] == "0":
        raise UsageError("the server has max_replication_slots = 0, tailing its log needs one: set it and restart")


async def ensure_publication(connection: Rows, publication: str, schema: str, table: str) -> None:
    """Make the publication of what is inserted into the outbox. Safe to repeat and to race."""
    found = await connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (publication,))
    if await found.fetchone():
        return
    try:
        await connection.execute(
            f'CREATE PUBLICATION "{publication}" FOR TABLE "{schema}"."{table}" WITH (publish = \'insert\')'
        )
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return  # another process was quicker
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"no publication: {str(error).strip()}. The user needs CREATE on the database and must own {table}; or "
            f'let a superuser run: CREATE PUBLICATION "{publication}" FOR TABLE "{schema}"."{table}" '
            "WITH (publish = 'insert')"
        ) from error


async def drop_slot(connection: Rows, slot: str) -> None:
    """Drop the slot if it is there. Raises SlotBusy while someone reads it."""
    try:
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (slot,)
        )
    except psycopg.errors.UndefinedObject:
        return
    except psycopg.Error as error:
        raise failure(error, slot) from error


async def create_slot(connection: ReplicationConnection, slot: str) -> None:
    """Make the slot in an open transaction, whose snapshot then sees exactly what committed before the slot begins.

    Waits for transactions that are open: only then is there such a point.
    """
    try:
        await connection.execute(f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'use')")
    except psycopg.Error as error:
        raise failure(error, slot) from error
