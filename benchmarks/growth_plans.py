"""Whether PostgreSQL finds what loops ask for by an index, whatever the size of the outbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ensue.stores.postgres import dialect
from ensue.stores.postgres.dialect import PostgresDialect
from ensue.stores.sql import stamped, wakeup

_SQL = PostgresDialect()


async def scans(url: str, rows: int) -> list[str]:
    """Return the statements whose plan reads the outbox from end to end: `name (plan)`, both plans looked at.

    One is made for the values, the other is what a prepared statement may keep for any. rows: how many the outbox has.
    """
    import asyncpg

    statements: dict[str, tuple[str, tuple[Any, ...]]] = {
        "look": (stamped.LOOK, ()),
        "poll": (wakeup._LOOK, ()),
        "stamp": (dialect.STAMP, (rows, 500)),
        "after": (_SQL.text(stamped.AFTER), (rows - 100, 500)),
        "get": (_SQL.text(stamped.GET), (rows - 5,)),
        "of": (_SQL.text(stamped.OF), (rows - 10_000, rows, "transfers", 1, 500)),
        "next": (_SQL.text(stamped.NEXT), (100,)),
        "prune": (_SQL.prune_text("ensue_outbox", "position", "written_at", True), (1000, 50.0, rows)),
    }
    found: list[str] = []
    connection = await asyncpg.connect(url)
    try:
        for mode in ("custom", "generic"):
            await connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
            for name, (text, values) in statements.items():
                [(plan,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {text}", *values)
                for node in _nodes(json.loads(plan)[0]["Plan"]):
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "ensue_outbox":
                        found.append(f"{name} ({mode})")
    finally:
        await connection.close()
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
