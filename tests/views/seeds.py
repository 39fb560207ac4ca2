"""A version of the ledger that is made of another one's rows: other columns, the same events.

Its processes may be stopped in the middle of it: while there is a file `hold` beside the databases, the function that
makes the rows goes no further than some of them, and says so by a file `held`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.ext.asyncio import AsyncSession
from tests.views.ledger import PARTITIONS, QUICK, LedgerClosed, LedgerOwned, LedgerPosted, broker_url

from ensue import Event, TableRepository, View

#: More than a page, so that a part of the rows is written when it is held.
HELD_AT = 700

OLD = MetaData()
OLD_BALANCES = Table(
    "balances",
    OLD,
    Column("account", String(50), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("trace", Integer, nullable=False),
    Column("owner", String(50), nullable=False),
)
NEW = MetaData()
NEW_BALANCES = Table(
    "balances",
    NEW,
    Column("account", String(50), primary_key=True),
    Column("pence", Integer, nullable=False),
    Column("trace", Integer, nullable=False),
    Column("holder", String(60), nullable=False),
)


@dataclasses.dataclass
class OldBalance:
    account: str
    total: int = 0
    trace: int = 0
    owner: str = ""


@dataclasses.dataclass
class Balance:
    account: str
    pence: int = 0
    trace: int = 0
    holder: str = ""


def traced(trace: int, event: LedgerPosted | LedgerClosed) -> int:
    """Depends on the order of all events of an account, and on each of them once."""
    amount = event.amount if isinstance(event, LedgerPosted) else "closed"
    return zlib.crc32(f"{trace}/{amount}".encode()) >> 1


def fold(events: Iterable[Event]) -> dict[str, Balance]:
    """What the new version's rows have to be."""
    rows: dict[str, Balance] = {}
    for event in events:
        assert isinstance(event, LedgerPosted | LedgerClosed | LedgerOwned)
        rows[event.account] = applied(rows.get(event.account), event)
    return rows


def applied(balance: Balance | None, event: LedgerPosted | LedgerClosed | LedgerOwned) -> Balance:
    balance = balance or Balance(event.account)
    if isinstance(event, LedgerOwned):
        balance.holder = f"owned by {event.owner}"
        return balance
    balance.trace = traced(balance.trace, event)
    balance.pence = balance.pence + 100 * event.amount if isinstance(event, LedgerPosted) else 0
    return balance


def make_old(home: Path, url: str, *, refuses: int = -1) -> View:
    """refuses: an amount that its handler fails at."""
    view = View(
        "ledger", version=1, tables=OLD, repositories=[TableRepository(OldBalance, OLD_BALANCES)], database=url,
        broker=broker_url(home), partitions=PARTITIONS, engine=QUICK,
    )  # fmt: skip

    @view.on
    def follow(balance: OldBalance | None, event: LedgerPosted | LedgerClosed | LedgerOwned) -> OldBalance:
        balance = balance or OldBalance(event.account)
        if isinstance(event, LedgerOwned):
            balance.owner = event.owner
            return balance
        if isinstance(event, LedgerPosted) and event.amount == refuses:
            raise ValueError(f"version 1 does not know what to do with {refuses}")
        balance.trace = traced(balance.trace, event)
        balance.total = balance.total + event.amount if isinstance(event, LedgerPosted) else 0
        return balance

    return view


def make_new(home: Path, url: str, *, seeded: bool = True, version: int = 2, name: str = "ledger") -> View:
    view = View(
        name, version=version, tables=NEW, repositories=[TableRepository(Balance, NEW_BALANCES)], database=url,
        broker=broker_url(home), partitions=PARTITIONS, engine=QUICK,
    )  # fmt: skip

    @view.on
    def follow(balance: Balance | None, event: LedgerPosted | LedgerClosed | LedgerOwned) -> Balance:
        return applied(balance, event)

    if seeded:

        @view.seed(from_version=1)
        async def carry_over(old: AsyncSession) -> AsyncIterator[Balance]:
            count = 0
            query = select(OLD_BALANCES).execution_options(yield_per=100)
            async for account, total, trace, owner in await old.stream(query):
                yield Balance(account, 100 * total, trace, f"owned by {owner}" if owner else "")
                count += 1
                if count == HELD_AT and (home / "hold").exists():
                    (home / "held").touch()
                    await asyncio.Event().wait()

    return view


def feed_new(home: str, url: str, version: int) -> None:
    async def run() -> None:
        async with make_new(Path(home), url, version=version).running() as runtime:
            await runtime.wait_failed()

    asyncio.run(run())
