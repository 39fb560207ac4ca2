"""The example's processes are killed at will: each order is decided once, and both services agree."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import psycopg
import pytest
from servers import PostgresServer
from tests.django.processes import Shop

ORDERS = 200


@pytest.fixture
def shop(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Shop]:
    postgres_server.drop("django_killed")
    shop = Shop(tmp_path, postgres_server.url("django_killed", "postgresql"))
    try:
        yield shop
    finally:
        shop.stop()
        postgres_server.drop("django_killed")


def _until(shop: Shop, holds: Callable[[], bool], what: str, timeout_s: float = 80.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, f"not {what} after {timeout_s:g} s\n{shop.logs()}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_killed_at_will_lose_and_double_nothing(shop: Shop) -> None:
    shop.manage("migrate", "--verbosity", "0")
    chance = Random(20261128)
    shop.commands["placer"][-1] = str(ORDERS)
    with psycopg.connect(shop.environment["ORDERS_DATABASE"], autocommit=True) as orders:

        def one(statement: str) -> int:
            [found] = orders.execute(statement).fetchone() or (0,)
            return int(found)

        def decided() -> int:
            return one("SELECT count(*) FROM orders_order WHERE state <> 'pending'")

        for name in shop.commands:
            shop.start(name)
        customers = shop.directory / "customers.db"
        _until(shop, lambda: _tables(customers), "there are the customers' tables")
        with closing(sqlite3.connect(customers, timeout=30)) as db, db:
            db.executemany("INSERT INTO customers VALUES (?, 300, 0)", [(0,), (1,)])  # the third one has no credit
        for victim in ("placer", "worker", "customers", "other worker"):
            before = decided()
            goes_on = before + chance.randint(1, 40)
            _until(shop, lambda: decided() >= min(goes_on, ORDERS), f"{goes_on} orders are decided")  # noqa: B023
            shop.kill(victim)
            shop.start(victim)
        assert shop.ends("placer") == 0
        _until(shop, lambda: decided() == one("SELECT count(*) FROM orders_order"), "all orders are decided")

        assert one("SELECT count(*) FROM orders_order") == ORDERS
        assert one("SELECT count(*) FROM orders_change") == ORDERS
        assert one("SELECT count(DISTINCT order_id) FROM orders_change") == ORDERS
        open_total = one("SELECT coalesce(sum(total), 0) FROM orders_order WHERE state = 'open'")
        assert one("SELECT count(*) FROM ensue_dead_letter") == 0
        # One event for each order that was placed, and one for each that was decided.
        assert one("SELECT count(*) FROM ensue_outbox WHERE topic = 'web.orders'") == 2 * ORDERS
    with closing(sqlite3.connect(customers, timeout=30)) as db:
        [(reserved,)] = db.execute("SELECT sum(reserved) FROM customers").fetchall()
    assert reserved == open_total == 600


def _tables(path: Path) -> bool:
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=30)) as db:
        return bool(db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'customers'").fetchone())
