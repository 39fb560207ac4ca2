"""Workers of one service and their leases. They spare work and nothing more: correctness rests on the checkpoint."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ensue.message import Lease, LeaseTable


def heartbeat(
    connection: sqlite3.Connection,
    worker: str,
    until: float,
    now: float,
    acquire: Sequence[str],
    release: Sequence[str],
) -> LeaseTable:
    """Live until `until`; keep, give up and take leases; return who lives and what is held. In one transaction."""
    execute = connection.execute
    execute(
        "INSERT INTO ensue_worker VALUES (?, ?) ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at",
        (worker, until),
    )
    for name in release:
        execute("DELETE FROM ensue_lease WHERE name = ? AND owner = ?", (name, worker))
    # None lives longer than anybody could have asked for now: what was written before the clock was set back.
    execute("UPDATE ensue_worker SET expires_at = ? WHERE expires_at > ?", (until, until))
    execute("UPDATE ensue_lease SET expires_at = ? WHERE expires_at > ?", (until, until))
    # Its own lease, even one that ran out, is kept as long as nobody else took it.
    execute("UPDATE ensue_lease SET expires_at = ? WHERE owner = ?", (until, worker))
    execute("DELETE FROM ensue_lease WHERE expires_at <= ?", (now,))
    execute("DELETE FROM ensue_worker WHERE expires_at <= ?", (now,))
    for name in acquire:
        execute("INSERT INTO ensue_lease VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (name, worker, until))
    return table(connection, now)


def table(connection: sqlite3.Connection, now: float) -> LeaseTable:
    """Who lives and holds what at `now`."""
    execute = connection.execute
    workers = tuple(
        name for (name,) in execute("SELECT name FROM ensue_worker WHERE expires_at > ? ORDER BY name", (now,))
    )
    leases = tuple(
        Lease(name, owner, expires_at - now)
        for name, owner, expires_at in execute(
            "SELECT name, owner, expires_at FROM ensue_lease WHERE expires_at > ? ORDER BY name", (now,)
        )
    )
    return LeaseTable(workers, leases)


def resign(connection: sqlite3.Connection, worker: str) -> None:
    connection.execute("DELETE FROM ensue_lease WHERE owner = ?", (worker,))
    connection.execute("DELETE FROM ensue_worker WHERE name = ?", (worker,))
