"""The work that both sides of the pipeline benchmarks do: one account changed and one event published for each event.

Events are 300 bytes of JSON. There are 1,000 accounts; which one an event is for is drawn with a fixed seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Protocol

import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import Event

DATA_BYTES = 300
ACCOUNTS = 1000
#: The topics that the measured service reads and writes.
IN, OUT = "transfers", "accounts"


class TransferMade(Event, topic=IN, key="account_id"):
    """What comes in. note: fills the event up to 300 bytes, as addresses and texts do in real ones."""

    transfer_id: str
    account_id: str
    amount: int
    made_at: str
    note: str


class BalanceChanged(Event, topic=OUT, key="account_id"):
    """What goes out, of the same size."""

    transfer_id: str
    account_id: str
    balance: int
    made_at: str
    note: str


@dataclasses.dataclass(slots=True)
class Account:
    """The entity. amounts in pence."""

    id: str
    owner: str
    balance: int
    changes: int

    def add(self, amount: int) -> None:
        self.balance += amount
        self.changes += 1


#: The accounts' table, for whoever creates it by SQLAlchemy; ACCOUNTS_DDL is the very same.
metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("balance", Integer, nullable=False),
    Column("changes", Integer, nullable=False),
)
ACCOUNTS_DDL = (
    "CREATE TABLE accounts (id VARCHAR NOT NULL, owner VARCHAR NOT NULL, balance INTEGER NOT NULL, "
    "changes INTEGER NOT NULL, PRIMARY KEY (id))"
)
INSERT_ACCOUNT = "INSERT INTO accounts (id, owner, balance, changes) VALUES (?, ?, ?, ?)"


def account_rows() -> list[tuple[str, str, int, int]]:
    return [(f"account-{number:06d}", f"Owner of account {number}", 0, 0) for number in range(ACCOUNTS)]


def transfers(count: int, seed: int = 1) -> Iterator[TransferMade]:
    random = Random(seed)
    for number in range(count):
        draft = TransferMade(
            transfer_id=f"transfer-{number:012d}",
            account_id=f"account-{random.randrange(ACCOUNTS):06d}",
            amount=random.randrange(1, 100_000),
            made_at="2011-12-09T12:50:00Z",
            note="",
        )
        padding = DATA_BYTES - len(msgspec.json.encode(draft))
        yield msgspec.structs.replace(draft, note="n" * padding)


class AnAccount(Protocol):
    """The dataclass, or the mapped class of the ORM benchmarks."""

    id: str
    balance: int


def balance_changed(account: AnAccount, event: TransferMade) -> BalanceChanged:
    """The event that follows; both sides make it by this call."""
    return BalanceChanged(
        transfer_id=event.transfer_id,
        account_id=account.id,
        balance=account.balance,
        made_at=event.made_at,
        note=event.note,
    )


def amount_told(event: TransferMade) -> BalanceChanged:
    """What follows where nobody has loaded the account: its balance is not known, so the amount stands in its place."""
    return BalanceChanged(
        transfer_id=event.transfer_id,
        account_id=event.account_id,
        balance=event.amount,
        made_at=event.made_at,
        note=event.note,
    )
