"""A reader of a backlog that is younger than the last ANALYZE reads batches, not the whole backlog for each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from servers import PgBouncer, PostgresServer

from ensue.brokers.postgres import PostgresBroker
from ensue.message import OutboxRecord
from ensue.ports import Broker

RECORDS, BATCH = 6000, 500


@pytest.fixture(params=["straight", "pgbouncer"])
def url(request: pytest.FixtureRequest) -> str:
    name = "pgbouncer_server" if request.param == "pgbouncer" else "postgres_server"
    server: PostgresServer | PgBouncer = request.getfixturevalue(name)
    options = "&pgbouncer=1" if request.param == "pgbouncer" else ""
    return f"{server.url()}?schema=log_{uuid.uuid4().hex}{options}"


async def test_a_backlog_without_statistics_is_read_in_the_order_of_the_index(url: str) -> None:
    broker = PostgresBroker(url)
    await broker.open()
    try:
        await _fill(broker)
        for after in (0, RECORDS // 2):
            plan = await _plan_of_read(broker, after)
            kinds = {node["Node Type"] for node in _nodes(plan)}
            assert "Sort" not in kinds, kinds
            read = max(node["Actual Rows"] for node in _nodes(plan) if "Scan" in node["Node Type"])
            assert read <= BATCH, f"{read} rows were read for a batch of {BATCH}"
    finally:
        await broker.close()


async def _fill(broker: Broker) -> None:
    await broker.ensure_topic("orders", 1)
    records = [OutboxRecord("orders", 0, "k", b"{}", b"x" * 300, each, each - 1) for each in range(1, RECORDS + 1)]
    await broker.append("orders", 0, "orders/1", records)


async def _plan_of_read(broker: PostgresBroker, after: int) -> dict[str, Any]:
    """By the broker's own connections, whose settings count."""
    partition_id = await broker._partition_id("orders", 0)
    explain = f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) {broker._sql.read}"
    [(found,)] = await broker._fetch(explain, partition_id, after, BATCH)
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
