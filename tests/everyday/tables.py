"""Entity steps on plain tables, as people write them every day for stores with and without SQL.

Each handler has rows of its own, named after it. Events have the account as their key, so that those of one account
come in order; the rows named `all` are changed from every partition, by every process.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Column, DateTime, Double, Integer, LargeBinary, MetaData, Numeric, String, Table, Uuid
from sqlalchemy import Enum as EnumType

from ensue import Event, Lookup, Rows, Service, TableRepository

ACCOUNTS = ("a", "b", "c")
BEGAN = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
_NAMES = UUID("7b0a1a5e-55a9-4f0e-9d55-b3d1f5a0f2c1")


class State(StrEnum):
    LOW = "LOW"
    HIGH = "HIGH"


@dataclasses.dataclass
class Count:
    name: str
    n: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class Account:
    """One field of each kind."""

    account_id: UUID
    total: Decimal = Decimal("0.00")
    paid_last: datetime | None = None
    state: State = State.LOW
    large: bool = False
    mean: float | None = None
    signature: bytes = b""
    payments: str = ""


@dataclasses.dataclass(frozen=True)
class Largest:
    """It cannot be changed, so each handler returns another one."""

    name: str
    amount: int
    payment_id: str


@dataclasses.dataclass
class Payment:
    payment_id: str
    account: str
    amount: int


metadata = MetaData()
counts = Table("plain_counts", metadata, Column("name", String(60), primary_key=True), Column("n", Integer))
accounts = Table(
    "plain_accounts",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("total", Numeric(12, 2)),
    Column("paid_last", DateTime(timezone=True), nullable=True),
    Column("state", EnumType(State, native_enum=False)),
    Column("large", Integer),
    Column("mean", Double, nullable=True),
    Column("signature", LargeBinary(100)),
    Column("payments", String(4000)),
)
largest = Table(
    "plain_largest",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("amount", Integer),
    Column("payment_id", String(60)),
)
payments = Table(
    "plain_payments",
    metadata,
    Column("payment_id", String(60), primary_key=True),
    Column("account", String(60)),
    Column("amount", Integer),
)


class Paid(Event, topic="plain-paid", key="account"):
    """The last ones are ids of rows."""

    payment_id: str
    account: str
    amount: int
    paid_at: datetime
    account_id: UUID
    change: str
    waits: str
    upsert: str
    shared: str = "all"


def paid(number: int, account: str, amount: int) -> Paid:
    return Paid(
        payment_id=f"p{number}",
        account=account,
        amount=amount,
        paid_at=BEGAN + timedelta(minutes=number),
        account_id=uuid5(_NAMES, account),
        change=f"change:{account}",
        waits=f"waits:{account}",
        upsert=f"upsert:{account}",
    )


def service(**options: Any) -> Service:
    plain = Service(
        "plain",
        tables=metadata,
        publishes=[],
        repositories=[
            TableRepository(Count, counts),
            TableRepository(Account, accounts),
            TableRepository(Largest, largest),
            TableRepository(Payment, payments, lookups=[Lookup(("account",), ("amount", "payment_id"))]),
        ],
        **options,
    )

    @plain.on(id="change")
    def create(count: Count | None, event: Paid) -> Count | None:
        return None if count else Count(event.change)

    @plain.on(id="change")
    def change(count: Count, event: Paid) -> None:
        count.n += event.amount

    @plain.on(id="upsert")
    def upsert(count: Count | None, event: Paid) -> Count:
        count = count or Count(event.upsert)
        count.n += event.amount
        return count

    @plain.on(id="waits")
    async def change_and_wait(count: Count | None, event: Paid) -> Count:
        count = count or Count(event.waits)
        before = count.n
        await asyncio.sleep(0)
        count.n = before + event.amount
        return count

    @plain.on(id="shared")
    def change_from_everywhere(count: Count | None, event: Paid) -> Count:
        count = count or Count(event.shared)
        count.n += event.amount
        return count

    @plain.on
    def one_field_of_each_kind(account: Account | None, event: Paid) -> Account:
        account = account or Account(account_id=event.account_id)
        account.total += Decimal(event.amount) / 100
        account.paid_last = event.paid_at
        account.large = event.amount > 50
        account.state = State.HIGH if account.large else State.LOW
        account.payments += f"{event.payment_id} "
        account.mean = float(account.total) / account.payments.count(" ")
        account.signature = bytes([0, event.amount, 255])
        return account

    @plain.on(id="account")
    def replace(found: Largest | None, event: Paid) -> Largest | None:
        if found is None or event.amount > found.amount:
            return Largest(event.account, event.amount, event.payment_id)
        return None

    @plain.on
    def insert(payment: Payment | None, event: Paid) -> Payment:
        return payment or Payment(event.payment_id, event.account, event.amount)

    return plain


def expected(events: Sequence[Paid]) -> dict[str, Any]:
    """By handler and account, as `found` tells it."""
    right: dict[str, Any] = {"all": sum(each.amount for each in events)}
    for name in ACCOUNTS:
        mine = [each for each in events if each.account == name]
        total = sum(each.amount for each in mine)
        right |= {f"change:{name}": total, f"upsert:{name}": total, f"waits:{name}": total}
        money = Decimal(total) / 100
        right[f"account:{name}"] = Account(
            account_id=mine[0].account_id,
            total=money,
            paid_last=mine[-1].paid_at,
            state=State.HIGH if mine[-1].amount > 50 else State.LOW,
            large=mine[-1].amount > 50,
            mean=float(money) / len(mine),
            signature=bytes([0, mine[-1].amount, 255]),
            payments="".join(f"{each.payment_id} " for each in mine),
        )
        best = max(mine, key=lambda each: each.amount)
        right[f"largest:{name}"] = Largest(name, best.amount, best.payment_id)
        right[f"payments:{name}"] = sorted((each.amount, each.payment_id) for each in mine)
    return right


async def found(rows: Rows, names: Iterable[str] = ACCOUNTS) -> dict[str, Any]:
    told: dict[str, Any] = {}
    ids = [f"{each}:{name}" for name in names for each in ("change", "upsert", "waits")]
    told |= {name: each.n for name, each in (await rows.get_many(Count, ["all", *ids])).items()}
    for name in names:
        told[f"account:{name}"] = await rows.get(Account, uuid5(_NAMES, name))
        told[f"largest:{name}"] = await rows.get(Largest, name)
        listed = await rows.find(Payment, by={"account": name}, limit=1000)
        told[f"payments:{name}"] = [(each.amount, each.payment_id) for each in listed]
    return told
