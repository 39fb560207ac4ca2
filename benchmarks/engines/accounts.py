"""The accounts' table for servers, whose text keys have a length, and the mapped class on it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, MetaData, String, Table, bindparam, update
from sqlalchemy.orm import DeclarativeBase, Mapped

from benchmarks.engines.wire import Incoming

metadata = MetaData()
accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("changes", BigInteger, nullable=False),
)
#: The very same, for who creates it by hand.
ACCOUNTS_DDL = (
    "CREATE TABLE accounts (id VARCHAR(32) NOT NULL, owner VARCHAR(64) NOT NULL, balance BIGINT NOT NULL, "
    "changes BIGINT NOT NULL, PRIMARY KEY (id))"
)
#: The plain handler's own statement, on both sides.
ADD = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"))
    .values(balance=accounts.c.balance + bindparam("amount"), changes=accounts.c.changes + 1)
)


class Base(DeclarativeBase):
    metadata = metadata


class MappedAccount(Base):
    """The account as an ORM entity; both sides use this class."""

    __table__ = accounts
    id: Mapped[str]
    owner: Mapped[str]
    balance: Mapped[int]
    changes: Mapped[int]

    def add(self, amount: int) -> None:
        self.balance += amount
        self.changes += 1


def ids_of(events: list[Incoming]) -> list[str]:
    """Each account once, in the order in which locks are taken."""
    return sorted({event.data.account_id for event in events})
