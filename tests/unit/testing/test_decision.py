"""Given events, when something is decided, then events: of an aggregate alone."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.aggregate.accounts import (
    Account,
    AccountOpened,
    Deposited,
    PaymentAsked,
    WithdrawalRefused,
    Withdrawn,
    make_accounts,
    pay,
)

from ensue import Aggregate, Event, Step, UsageError, evolves
from ensue.testing import given

OPENED = AccountOpened(account_id="a", owner="Ada")
FIVE = Deposited(account_id="a", amount=5)


def test_a_decision_by_its_method() -> None:
    decided = given(Account, OPENED, FIVE).when(Account.pay, -3)
    decided.then(Withdrawn(account_id="a", amount=3))
    assert decided.state == Account("a", owner="Ada", balance=2)
    given(Account, OPENED).when(Account.pay, -3).then(WithdrawalRefused(account_id="a", amount=3, reason="0 left"))


def test_a_handler_with_its_event() -> None:
    asked = PaymentAsked(account_id="a", amount=7)
    given(Account, OPENED).when(pay, asked).then(Deposited(account_id="a", amount=7))
    opened = AccountOpened(account_id="a", owner="somebody")
    given(Account).when(pay, asked).then(opened, Deposited(account_id="a", amount=7))
    given(Account, OPENED).when(pay, PaymentAsked(account_id="a", amount=0)).raises(ValueError)


def test_what_is_not_as_expected_is_shown() -> None:
    decided = given(Account, OPENED).when(Account.pay, 1)
    with pytest.raises(AssertionError, match=r"expected \[\], found \[Deposited"):
        decided.then()
    with pytest.raises(AssertionError, match="expected ValueError, and it published"):
        decided.raises(ValueError)
    failed = given(Account, OPENED).when(pay, PaymentAsked(account_id="a", amount=0))
    with pytest.raises(AssertionError, match="it raised ValueError"):
        failed.then()


def test_one_that_has_no_events_is_named() -> None:
    given(Account("b")).when(Account.pay, 1).then(Deposited(account_id="b", amount=1))
    with pytest.raises(UsageError, match=r"write given\(Account\(account_id=\.\.\.\), \.\.\.\)"):
        given(Account).when(Account.pay, 1)
    with pytest.raises(UsageError, match="events of several"):
        given(Account, OPENED, Deposited(account_id="b", amount=1))
    with pytest.raises(UsageError, match="Account a is given, and it is decided of b"):
        given(Account, OPENED).when(pay, PaymentAsked(account_id="b", amount=1))


class Seen(Event, topic="eventsourced.seen", key="name"):
    name: str


class Sly(Aggregate, stream="sly"):
    name: str
    seen: list[str] = dataclasses.field(default_factory=list)

    def look(self) -> Seen:
        self.seen.append("by itself")
        return Seen(name=self.name)

    @evolves
    def _(self, event: Seen) -> None: ...


class Looked(Event, topic="eventsourced.looked", key="name"):
    name: str


def look(sly: Sly, event: Looked, step: Step) -> None:
    step.record(sly, Seen(name=sly.name))
    sly.seen.append("in the handler")


def test_a_change_that_no_event_says_is_found() -> None:
    with pytest.raises(AssertionError, match="look has changed seen"):
        given(Sly("x")).when(Sly.look)
    with pytest.raises(AssertionError, match="look has changed seen"):
        given(Sly, Seen(name="x")).when(look, Looked(name="x"))


async def test_a_service_is_given_the_events_of_its_aggregates() -> None:
    result = await given(make_accounts(), OPENED, FIVE).when(PaymentAsked(account_id="a", amount=-2))
    assert result.published == [Withdrawn(account_id="a", amount=2)]
    assert result.entity(Account, "a") == Account("a", owner="Ada", balance=3)
    assert result.entity(Account, "a").version == 3
