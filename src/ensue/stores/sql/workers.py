"""Workers of one service and their leases. They spare work and nothing more: correctness rests on the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ensue.message import Lease, LeaseTable
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link

WORKERS = "SELECT name FROM ensue_worker WHERE expires_at > ? ORDER BY name"
LEASES = "SELECT name, owner, expires_at FROM ensue_lease WHERE expires_at > ? ORDER BY name"


async def heartbeat(
    link: Link, dialect: Dialect, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]
) -> LeaseTable:
    """Live ttl_s more; keep, give up and take leases; return who lives and what is held. In one transaction."""

    async def execute(text: str, *values: object) -> None:
        await link.execute(dialect.text(text), *values)

    await link.fetch(dialect.lock_meta)  # one heartbeat at a time: of two who want one lease, one is first
    now = await clock(link, dialect)
    until = now + ttl_s
    await link.execute(dialect.upsert("ensue_worker", ("name",), ("expires_at",)), worker, until)
    for name in release:
        await execute("DELETE FROM ensue_lease WHERE name = ? AND owner = ?", name, worker)
    # None lives longer than anybody could have asked for now: what was written before the clock was set back.
    await execute("UPDATE ensue_worker SET expires_at = ? WHERE expires_at > ?", until, until)
    await execute("UPDATE ensue_lease SET expires_at = ? WHERE expires_at > ?", until, until)
    # Its own lease, even one that ran out, is kept as long as nobody else took it.
    await execute("UPDATE ensue_lease SET expires_at = ? WHERE owner = ?", until, worker)
    await execute("DELETE FROM ensue_lease WHERE expires_at <= ?", now)
    await execute("DELETE FROM ensue_worker WHERE expires_at <= ?", now)
    for name in acquire:
        await link.execute(dialect.insert_new("ensue_lease", ("name", "owner", "expires_at")), name, worker, until)
    return await table(link, dialect, now)


async def clock(link: Link, dialect: Dialect) -> float:
    """The database's clock, epoch seconds; compared with this machine's on the way."""
    asked = time.time()
    [(now,)] = await link.fetch(dialect.clock)
    link.clock_offset_s = float(now) - (asked + time.time()) / 2
    return float(now)


async def table(link: Link, dialect: Dialect, now: float) -> LeaseTable:
    """Who lives and holds what at `now`."""
    workers = tuple(str(name) for (name,) in await link.fetch(dialect.text(WORKERS), now))
    leases = tuple(
        Lease(str(name), str(owner), float(expires_at) - now)
        for name, owner, expires_at in await link.fetch(dialect.text(LEASES), now)
    )
    return LeaseTable(workers, leases)


async def resign(link: Link, dialect: Dialect, worker: str) -> None:
    await link.execute(dialect.text("DELETE FROM ensue_lease WHERE owner = ?"), worker)
    await link.execute(dialect.text("DELETE FROM ensue_worker WHERE name = ?"), worker)
