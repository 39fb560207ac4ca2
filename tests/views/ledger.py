"""Two topics, who publishes to them, and a view that joins them: what the tests of views have in common.

What a row holds depends on the order of its account's events and on each of them once, so that a lost, repeated or
swapped one shows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import secrets
import signal
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import EngineConfig, Event, Service, TableRepository, View
from ensue.engine.view_versions import Versions
from ensue.errors import UsageError
from ensue.ports import Broker
from ensue.views.states import ViewRow

LIMIT_S = 60.0
QUICK = EngineConfig(
    batch_records_max=7,
    poll_interval_s=0.05,
    tick_first_s=0.1,
    tick_max_s=0.5,
    resend_interval_s=0.1,
    lease_ttl_s=0.6,
    relay_save_interval_s=0.05,
)
PARTITIONS = 3
TABLES = MetaData()
ACCOUNTS = Table(
    "accounts",
    TABLES,
    Column("account", String(50), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("trace", Integer, nullable=False),
    Column("owner", String(50), nullable=False),
    Column("closed", Integer, nullable=False),
)


class LedgerPosted(Event, topic="views.ledger", key="account"):
    account: str
    amount: int


class LedgerClosed(Event, topic="views.ledger", key="account"):
    account: str


class LedgerOwned(Event, topic="views.owners", key="owner"):
    owner: str
    account: str


@dataclasses.dataclass
class Account:
    """trace: of all amounts, in order. closed: a tombstone, so that what comes late makes no new row."""

    account: str
    total: int = 0
    trace: int = 0
    owner: str = ""
    closed: int = 0


def fold(events: Iterable[Event], version: int) -> dict[str, Account]:
    """What the rows of a version have to be."""
    rows: dict[str, Account] = {}
    for event in events:
        assert isinstance(event, LedgerPosted | LedgerClosed | LedgerOwned)
        account = rows.setdefault(event.account, Account(event.account))
        _apply(account, event, version)
    return rows


def _apply(account: Account, event: Event, version: int) -> None:
    if isinstance(event, LedgerPosted) and not account.closed:
        account.total += event.amount * version
        account.trace = zlib.crc32(f"{account.trace}/{event.amount}/{version}".encode()) >> 1
    elif isinstance(event, LedgerClosed):
        account.total, account.closed = 0, 1
    elif isinstance(event, LedgerOwned):
        account.owner = event.owner


def make_scribe(home: Path, engine: EngineConfig = QUICK) -> Service:
    return Service(
        "scribe",
        publishes=[LedgerPosted, LedgerClosed, LedgerOwned],
        database=f"sqlite:///{home}/scribe.db?synchronous=OFF",
        broker=broker_url(home),
        partitions=PARTITIONS,
        engine=engine,
    )


def broker_url(home: Path) -> str:
    return f"sqlite:///{home}/broker.db"


def make_view(home: Path, url: str, version: int, name: str = "ledger") -> View:
    # The server of the tests for the MongoDB protocol does one command at a time: a heartbeat waits for its turn.
    slow = dataclasses.replace(QUICK, lease_ttl_s=5.0, batch_records_max=500)
    view = View(
        name,
        version=version,
        tables=None if url.startswith(("redis", "mongodb")) else TABLES,
        repositories=[TableRepository(Account, ACCOUNTS)],
        database=url,
        broker=broker_url(home),
        partitions=PARTITIONS,
        engine=slow if url.startswith("mongodb") else QUICK,
    )

    @view.on
    def follow(account: Account | None, event: LedgerPosted | LedgerClosed | LedgerOwned) -> Account:
        account = account or Account(event.account)
        _apply(account, event, version)
        return account

    return view


async def rows_of(view: View, accounts: Iterable[str]) -> dict[str, Account]:
    """By a query, as a user makes it."""
    async with view.rows() as rows:
        found = [await rows.get(Account, each) for each in accounts]
    return {each.account: each for each in found if each is not None}


@asynccontextmanager
async def versions_of(view: View) -> AsyncIterator[Versions]:
    base = view.make_base()
    await base.open()
    try:
        versions = view.versions(base)
        await versions.book.prepare()
        yield versions
    finally:
        await base.close()


async def until(true: Callable[[], Any], what: str) -> None:
    """Ask until it is so; what comes from other processes has no event. Who is asked has more time for its work."""
    found: Any = None
    try:
        async with asyncio.timeout(LIMIT_S):
            began = time.monotonic()
            while not (found := await true()):
                await asyncio.sleep(max(0.05, 3 * (time.monotonic() - began)))
                began = time.monotonic()
    except TimeoutError:
        pytest.fail(f"{what} did not come: {found}")


async def until_ready(versions: Versions, version: int, broker: Broker) -> None:
    found: list[Any] = []

    async def ready() -> bool:
        found[:] = await versions.obstacles(version, broker)
        return not found

    try:
        await until(ready, f"version {version}")
    except BaseException:
        print("obstacles:", found)
        raise


async def swap_when_ready(versions: Versions, version: int, broker: Broker) -> ViewRow:
    """As `ensue views swap --wait` does while others write: what was up to date may be behind again a moment later."""
    swapped: list[ViewRow] = []

    async def done() -> bool:
        try:
            swapped.append(await versions.swap(version, "the test", broker))
        except UsageError as error:
            if "what is only behind comes by itself" not in str(error):
                raise
        return bool(swapped)

    await until(done, f"queries are answered by version {version}")
    return swapped[0]


async def until_rows(view: View, expected: dict[str, Account]) -> None:
    found: dict[str, Account] = {}

    async def there() -> bool:
        rows = await rows_of(view, expected)
        found.clear()
        found.update(rows)
        return found == expected

    try:
        await until(there, f"the rows of {view.name}")
    except BaseException:
        print("found:", sorted(found.items()), "\nexpected:", sorted(expected.items()))
        raise


# ------------------------------------------------------------------------------------------------------- processes

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.views.ledger"])


def _feed(home: str, url: str, version: int) -> None:
    async def run() -> None:
        async with make_view(Path(home), url, version).running() as runtime:
            await runtime.wait_failed()

    asyncio.run(run())


class Child:
    """A process that feeds one version, until it is killed."""

    def __init__(self, home: Path, url: str, version: int, feed: Callable[[str, str, int], None] = _feed) -> None:
        self._process = _children.Process(target=feed, args=(str(home), url, version), daemon=True)
        self._process.start()

    def kill(self) -> None:
        assert self._process.pid is not None
        assert self._process.is_alive(), f"the process ended by itself: {self._process.exitcode}"
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(LIMIT_S)


# --------------------------------------------------------------------------------------------------------- databases


def database_of(request: pytest.FixtureRequest, kind: str, home: Path) -> tuple[str, str]:
    """The URLs of two views' databases on one server."""
    name = f"views_{secrets.token_hex(4)}"
    if kind == "postgres":
        server = request.getfixturevalue("postgres_server")
        server.psql("postgres", f"CREATE DATABASE {name}")
        url = server.url(name)
        return f"{url}{'&' if '?' in url else '?'}schema=ledger", f"{url}{'&' if '?' in url else '?'}schema=other"
    if kind == "mariadb":
        server = request.getfixturevalue("mariadb_server")
        return server.url(name), server.url(f"{name}_other")
    if kind == "mongodb":
        server = request.getfixturevalue("mongodb_server")
        return server.url(name), server.url(f"{name}_other")
    if kind == "redis":
        server = request.getfixturevalue("redis_server")
        return server.url(42), server.url(42)
    return f"sqlite:///{home}/ledger.db?synchronous=OFF", f"sqlite:///{home}/other.db?synchronous=OFF"
