"""Whether PostgreSQL finds what loops ask for by an index, whatever the size of the outbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ensue.stores.postgres import polled, stamps, unsent
from ensue.stores.postgres.dialect import PostgresDialect

_text = PostgresDialect().text


async def scans(url: str, rows: int) -> list[str]:
    """Return the statements whose plan reads the outbox from end to end: `name (plan)`, both plans looked at.

    One is made for the values, the other is what a prepared statement may keep for any. rows: how many the outbox has.
    """
    import asyncpg

    statements: dict[str, tuple[str, tuple[Any, ...]]] = {
        "look": (polled.LOOK, (rows, 500)),
        "poll": (polled.WAITING, ()),
        "unsent": (unsent.POLLED, ()),
        "stamps": (_text(stamps.STAMPS_OF), (rows - 600, rows + 2000, rows)),
        "by id": (_text(stamps.BY_ID), (list(range(1, 501)),)),
        "next": (_text(stamps.NEXT), (100,)),
        "oldest stamps": (_text(stamps.OLDEST_STAMPS), (0, 500)),
        "written": (_text(stamps.WRITTEN), (list(range(1, 501)),)),
        "prune": (_text(stamps.DELETE), (list(range(1, 501)),)),
    }
    found: list[str] = []
    connection = await asyncpg.connect(url)
    try:
        for mode in ("custom", "generic"):
            await connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
            for name, (text, values) in statements.items():
                [(plan,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {text}", *values)
                for node in _nodes(json.loads(plan)[0]["Plan"]):
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in ("ensue_outbox", "ensue_stamp"):
                        found.append(f"{name} ({mode})")
    finally:
        await connection.close()
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
