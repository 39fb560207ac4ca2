"""The latency sampler on a view's database that changes while it looks."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from uuid import UUID

import pytest

from shop.demo.databases import database_at, embedded
from shop.demo.latency import FOLLOWED_MAX, LatencySampler, percentile

OPENED, REJECTED = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0), (0.001, 1.0)])
def test_percentile_is_a_value_that_the_share_does_not_exceed(share: float, expected: float) -> None:
    assert percentile([float(each) for each in range(1, 101)], share) == expected


def test_percentile_of_nothing_is_nothing() -> None:
    assert percentile([], 0.5) is None


async def test_an_order_counts_when_it_is_open_and_not_before_and_a_rejected_one_never(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/order_history.db"
    with closing(sqlite3.connect(tmp_path / "order_history_v1.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE history_orders (order_id TEXT PRIMARY KEY, status TEXT)")
        sampler = LatencySampler(database_at("order_history", url))
        task = asyncio.create_task(sampler.run())
        sent_at = time.monotonic()
        sampler.follow(OPENED, sent_at)
        sampler.follow(REJECTED, sent_at)
        for status in ("NEW", "OPEN"):
            assert sampler.summary().samples == 0
            for order_id in (OPENED, REJECTED):
                shown = "REJECTED" if (status, order_id) == ("OPEN", REJECTED) else status
                database.execute("INSERT OR REPLACE INTO history_orders VALUES (?, ?)", (order_id.hex, shown))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            while not sampler.latencies_s:  # noqa: ASYNC110  # the sampler itself can only look again and again
                await asyncio.sleep(0.005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    summary = sampler.summary()
    assert summary.samples == 1
    assert summary.p50_s is not None
    assert 0.05 <= summary.p50_s <= time.monotonic() - sent_at


def test_not_more_orders_are_followed_than_can_be_looked_at(tmp_path: Path) -> None:
    sampler = LatencySampler(embedded(tmp_path)["order_history"])
    for number in range(100):
        sampler.follow(UUID(int=number), 0.0)
    assert len(sampler._followed) == FOLLOWED_MAX
