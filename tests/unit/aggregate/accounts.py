"""An aggregate to try things on: an account whose balance never goes below zero."""

from __future__ import annotations

import dataclasses

from ensue import Aggregate, Event, Service, Step, evolves


class AccountOpened(Event, topic="eventsourced.accounts", key="account_id"):
    account_id: str
    owner: str


class Deposited(Event, topic="eventsourced.accounts", key="account_id"):
    account_id: str
    amount: int


class Withdrawn(Event, topic="eventsourced.accounts", key="account_id"):
    account_id: str
    amount: int


class WithdrawalRefused(Event, topic="eventsourced.accounts", key="account_id"):
    account_id: str
    amount: int
    reason: str


class PaymentAsked(Event, topic="eventsourced.payments", key="account_id"):
    """amount: below zero: a withdrawal. 0: a bug of who asks."""

    account_id: str
    amount: int


class Account(Aggregate, stream="account"):
    account_id: str
    owner: str = ""
    balance: int = 0
    refusals: list[str] = dataclasses.field(default_factory=list)

    def pay(self, amount: int) -> Deposited | Withdrawn | WithdrawalRefused:
        if amount > 0:
            return Deposited(account_id=self.account_id, amount=amount)
        if -amount > self.balance:
            return WithdrawalRefused(account_id=self.account_id, amount=-amount, reason=f"{self.balance} left")
        return Withdrawn(account_id=self.account_id, amount=-amount)

    @evolves
    def _(self, event: AccountOpened) -> None:
        self.owner = event.owner

    @evolves
    def _(self, event: Deposited) -> None:
        self.balance += event.amount

    @evolves
    def _(self, event: Withdrawn) -> None:
        self.balance -= event.amount

    @evolves
    def _(self, event: WithdrawalRefused) -> None:
        self.refusals.append(event.reason)


def pay(account: Account | None, event: PaymentAsked, step: Step) -> None:
    """The handler: an account is opened by its first payment."""
    if not event.amount:
        raise ValueError("nothing is asked")
    if account is None:
        account = Account(event.account_id)
        step.record(account, AccountOpened(account_id=event.account_id, owner="somebody"))
    step.record(account, account.pay(event.amount))


def make_accounts(name: str = "accounts") -> Service:
    accounts = Service(name, aggregates=[Account])
    accounts.on(pay)
    return accounts
