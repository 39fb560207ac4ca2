"""Accounts as documents, between a ledger and an observer: for test_mongodb_kills.py, and its process to kill.

`python -m tests.faults.documents MONGODB BROKER POINT:N` runs the accounts and dies when the store passes POINT for the
N-th time. With FAIL=1 in the environment, deposits of 13 fail.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable

from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import EngineConfig, Event, Retry, Service, Step, TableRepository
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.runtime import Runtime
from ensue.ports import Store
from ensue.stores.mongodb import MongoDbStore

QUICK = EngineConfig(
    poll_interval_s=0.05, tick_first_s=0.1, resend_interval_s=0.1, lease_ttl_s=1.0, relay_save_interval_s=0.05,
    retry=Retry(attempts_max=100, first_delay_s=0.05, delay_max_s=0.1),
)  # fmt: skip


class Deposited(Event, topic="deposits", key="account"):
    account: str
    amount: int


class Transferred(Event, topic="deposits", key="source"):
    source: str
    target: str
    amount: int


class BalanceChanged(Event, topic="balances", key="account"):
    """number: of this account's changes, from 1."""

    account: str
    number: int
    balance: int


@dataclasses.dataclass
class Account:
    account: str
    balance: int = 0
    changes: int = 0

    def change(self, amount: int, step: Step) -> None:
        self.balance += amount
        self.changes += 1
        step.publish(BalanceChanged(account=self.account, number=self.changes, balance=self.balance))


@dataclasses.dataclass
class Seen:
    """wrong: changes that came twice, or not after the one before."""

    account: str
    number: int = 0
    balance: int = 0
    wrong: int = 0


def _table(name: str, *numbers: str) -> Table:
    return Table(name, MetaData(), Column("account", String, primary_key=True), *(Column(n, Integer) for n in numbers))


ACCOUNTS = _table("accounts", "balance", "changes")
SEEN = _table("seen", "number", "balance", "wrong")


def make_ledger() -> Service:
    return Service("ledger", publishes=[Deposited, Transferred])


def make_accounts() -> Service:
    accounts = Service(
        "accounts",
        publishes=[BalanceChanged],
        repositories=[TableRepository(Account, ACCOUNTS)],
    )

    @accounts.on
    def deposit(account: Account | None, event: Deposited, step: Step) -> Account:
        account = account or Account(event.account)
        if event.amount == 13 and os.environ.get("FAIL"):
            raise ValueError("13")
        account.change(event.amount, step)
        return account

    @accounts.on(id="source")
    def take(account: Account | None, event: Transferred, step: Step) -> Account:
        account = account or Account(event.source)
        account.change(-event.amount, step)
        return account

    @accounts.on(id="target")
    def give(account: Account | None, event: Transferred, step: Step) -> Account:
        account = account or Account(event.target)
        account.change(event.amount, step)
        return account

    return accounts


def make_observer() -> Service:
    observer = Service("observer", publishes=[], repositories=[TableRepository(Seen, SEEN)])

    @observer.on
    def look(seen: Seen | None, event: BalanceChanged) -> Seen:
        seen = seen or Seen(event.account)
        seen.wrong += event.number != seen.number + 1
        seen.number, seen.balance = event.number, event.balance
        return seen

    return observer


def runtime(definition: Service, store: Store, broker: str) -> Runtime:
    settings = Settings(database="", broker=broker, partitions=2, engine=QUICK)
    return Runtime(definition, store, EmbeddedBroker(broker), settings)


def dies_at(fault: str) -> Callable[[str], None]:
    name, _, count = fault.partition(":")
    left = int(count)

    def reached(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return reached


async def main(url: str, broker: str, fault: str) -> None:
    store = MongoDbStore(url, "accounts", reached=dies_at(fault), documents_at_once=1)
    await runtime(make_accounts(), store, broker).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
