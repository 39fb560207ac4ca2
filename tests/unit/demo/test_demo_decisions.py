"""Who waits for an order to be decided goes on as soon as it is, and not before; one task looks for all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

import pytest

from shop.demo.databases import database_at
from shop.demo.decisions import Decisions

OPENED, REJECTED, NEW = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as found:
        found.execute("PRAGMA journal_mode = WAL")
        found.execute("CREATE TABLE orders (order_id TEXT PRIMARY KEY, status TEXT)")
        for each in (OPENED, REJECTED, NEW):
            found.execute("INSERT INTO orders VALUES (?, 'NEW')", (each.hex,))
        yield found


async def test_each_is_woken_when_its_order_is_decided(database: sqlite3.Connection, tmp_path: Path) -> None:
    decisions = Decisions(database_at("orders", f"sqlite:///{tmp_path}/orders.db"))
    looking = asyncio.create_task(decisions.run())
    waiting = {each: asyncio.create_task(decisions.wait(each, 30.0)) for each in (OPENED, REJECTED)}
    assert await decisions.wait(NEW, 0.1) is False
    assert not any(each.done() for each in waiting.values())
    for each, status in ((OPENED, "OPEN"), (REJECTED, "REJECTED")):
        database.execute("UPDATE orders SET status = ? WHERE order_id = ?", (status, each.hex))
        assert await waiting[each] is True
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
