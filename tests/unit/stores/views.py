"""A ledger in SQLite that publishes deposits, and a view of the totals elsewhere, which a double effect would spoil."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import EngineConfig, Event, Service, TableRepository
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.runtime import Runtime
from ensue.ports import Store
from ensue.rows import Rows
from ensue.stores.sqlite import SqliteStore

LIMIT_S = 30.0
QUICK = EngineConfig(poll_interval_s=0.05, tick_first_s=0.1, resend_interval_s=0.1, lease_ttl_s=1.0)
PARTITIONS = 2


class Deposited(Event, topic="savings", key="account"):
    account: str
    amount: int


@dataclasses.dataclass
class Total:
    account: str
    amount: int = 0
    deposits: int = 0


TOTALS = Table(
    "totals",
    MetaData(),
    Column("account", String, primary_key=True),
    Column("amount", Integer, index=True),
    Column("deposits", Integer),
)


def make_totals() -> Service:
    totals = Service(
        "totals",
        publishes=[],
        repositories=[TableRepository(Total, TOTALS)],
    )

    @totals.on
    def add(total: Total | None, event: Deposited) -> Total:
        total = total or Total(event.account)
        total.amount += event.amount
        total.deposits += 1
        return total

    return totals


class Pair:
    """Both services running, the view on `store`."""

    def __init__(self, ledger: Runtime, totals: Runtime, definition: Service) -> None:
        self.ledger = ledger
        self.totals = totals
        self.expected: dict[str, Total] = {}
        self._definition = definition

    async def deposit(self, count: int) -> None:
        async with self.ledger.step() as step:
            for number in range(count):
                total = self.expected.setdefault(f"account-{number % 5}", Total(f"account-{number % 5}"))
                total.amount += number + 1
                total.deposits += 1
                step.publish(Deposited(account=total.account, amount=number + 1))

    async def found(self) -> dict[str, Total]:
        rows = Rows(self.totals.store.rows(), self._definition.repositories)
        return {each.account: each for each in await rows.find(Total, order=("account",), limit=1000)}

    async def until_the_view_is_right(self) -> None:
        found: dict[str, Total] = {}
        try:
            async with asyncio.timeout(LIMIT_S):
                while (found := await self.found()) != self.expected:  # noqa: ASYNC110  # views have no event for it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"the view is {found}, expected {self.expected}")


@contextlib.asynccontextmanager
async def running(tmp_path: Path, make_store: Callable[[], Store]) -> AsyncIterator[Pair]:
    url = f"sqlite:///{tmp_path}/log.db"
    settings = Settings(database="", broker=url, partitions=PARTITIONS, engine=QUICK)
    ledger = Service("ledger", publishes=[Deposited])
    totals = make_totals()
    first = Runtime(ledger, SqliteStore(f"sqlite:///{tmp_path}/ledger.db", "ledger"), EmbeddedBroker(url), settings)
    second = Runtime(totals, make_store(), EmbeddedBroker(url), settings)
    try:
        await first.start()
        await second.start()
        yield Pair(first, second, totals)
    finally:
        await second.stop()
        await first.stop()
