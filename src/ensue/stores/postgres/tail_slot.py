"""The replication slot of a tailed outbox: making it, judging its state, saying what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

import psycopg

from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.stores.postgres.replication import ReplicationConnection
from ensue.stores.postgres.tail_access import Rows
from ensue.stores.sql.link import Link

_SLOT = (
    "SELECT active_pid, coalesce(wal_status, 'reserved'), coalesce(safe_wal_size, -1), "
    "pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, database = current_database() AND plugin = 'pgoutput' "
    "FROM pg_replication_slots WHERE slot_name = %s"
)


class SlotLost(StoreUnavailable):
    """The server has dropped or invalidated the slot. A new one is made: what was not read is in the table.

    attributes: slot.
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
    if isinstance(error, psycopg.errors.UndefinedObject):
        return SlotLost(f"{slot}: {text}", slot=slot)
    if isinstance(error, psycopg.errors.ConfigurationLimitExceeded):
        return UsageError(f"no replication slot: {text}. Raise max_replication_slots, or drop slots that nobody reads")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return UsageError(
            f"no replication slot: {text}. Run as a superuser: ALTER ROLE <user> REPLICATION; or use ?outbox=poll"
        )
    if isinstance(error, psycopg.errors.ObjectNotInPrerequisiteState):
        # Invalidated; or wal_level is not logical: whoever makes it anew looks at both first.
        return SlotLost(f"{slot}: {text}", slot=slot)
    return StoreUnavailable(f"slot {slot}: {text}")


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


async def warnings(link: Link, kept_bytes: int) -> list[str]:
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
