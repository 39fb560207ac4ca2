"""What an aggregate may be, and how events change it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from tests.unit.aggregate.accounts import Account, AccountOpened, Deposited, Withdrawn

from ensue import Aggregate, Event, Service, UsageError, evolves
from ensue.aggregate.aggregate import evolve
from ensue.aggregate.kind import kind_of


class Counted(Event, topic="eventsourced.counts", key="name"):
    name: str


def account(*events: Any) -> Account:
    found = Account("a")
    for event in events:
        evolve(found, event)
    return found


def test_events_change_it_and_count_its_version() -> None:
    found = account(AccountOpened(account_id="a", owner="Ada"), Deposited(account_id="a", amount=5))
    assert (found.owner, found.balance, found.version) == ("Ada", 5, 2)
    assert Account("a").version == 0


def test_state_is_changed_by_events_alone() -> None:
    found = account(Deposited(account_id="a", amount=5))
    with pytest.raises(UsageError, match="balance of Account is changed outside of @evolves"):
        found.balance = 3
    assert found.balance == 5


def test_an_evolver_that_raises_leaves_the_state_closed() -> None:
    class Strict(Aggregate, stream="strict"):
        name: str
        count: int = 0

        @evolves
        def _(self, event: Counted) -> None:
            raise ValueError("no")

    found = Strict("x")
    with pytest.raises(ValueError, match="no"):
        evolve(found, Counted(name="x"))
    assert found.version == 0
    with pytest.raises(UsageError, match="outside of @evolves"):
        found.count = 1


def test_one_evolver_may_take_several_events_and_a_base_may_bring_some() -> None:
    class Counts(Aggregate):
        name: str
        count: int = 0

        @evolves
        def _(self, event: Counted | Deposited) -> None:
            self.count += 1

    class Twice(Counts, stream="twice"):
        @evolves
        def twice(self, event: Counted) -> None:
            self.count += 2

    found = Twice("x")
    evolve(found, Counted(name="x"))
    evolve(found, Deposited(account_id="x", amount=1))
    assert found.count == 3


def test_a_snapshot_gives_the_same_back() -> None:
    found = account(AccountOpened(account_id="a", owner="Ada"), Deposited(account_id="a", amount=5))
    kind = kind_of(Account)
    again = kind.read_state(kind.write_state(found), found.version)
    assert (again, again.version) == (found, 2)
    evolve(again, Withdrawn(account_id="a", amount=2))
    assert (again.balance, found.balance) == (3, 5)


def test_a_state_that_would_be_read_as_another_is_no_snapshot() -> None:
    class Sloppy(Aggregate, stream="sloppy"):
        name: str
        rate: float | None = 0.0

        @evolves
        def _(self, event: Counted) -> None:
            self.rate = float("nan")  # JSON has none, and reads nothing

    found = Sloppy("x")
    evolve(found, Counted(name="x"))
    with pytest.raises(UsageError, match="kept as a snapshot, its field rate: it is"):
        kind_of(Sloppy).write_state(found)


def shape(number: int = 1, kind: type = int) -> str:
    """Of a class that is declared anew each time."""
    namespace = {"__annotations__": {"name": str, "count": kind}, "count": 0, "__module__": __name__}
    return kind_of(type("Shaped", (_Counts,), namespace, stream="shaped", shape=number)).shape


def test_the_shape_tells_fields_and_the_users_number_apart() -> None:
    assert shape() == shape()
    assert len({shape(), shape(number=2), shape(kind=float)}) == 3


class _Counts(Aggregate):
    @evolves
    def _(self, event: Counted) -> None: ...


BAD: dict[str, str] = {
    """
class Bad(Aggregate, stream="Bad Name"):
    name: str
    @evolves
    def _(self, event: Counted) -> None: ...
""": "stream='Bad Name'",
    """
class Bad(Aggregate, stream="bad"):
    name: str
""": "has no @evolves",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    other: int
    @evolves
    def _(self, event: Counted) -> None: ...
""": "2 fields without a default (name, other), expected one",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    version: int = 0
    @evolves
    def _(self, event: Counted) -> None: ...
""": "name the field otherwise",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    @evolves
    async def _(self, event: Counted) -> None: ...
""": "is an async def",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    @evolves
    def _(self, event: int) -> None: ...
""": "is no declared event",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    @evolves
    def _(self, event: Counted, step: int) -> None: ...
""": "one annotated event",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    @evolves
    def _(self, event: Counted) -> None: ...
    @evolves
    def _(self, event: Counted) -> None: ...
""": "two @evolves for Counted",
    """
class Bad(Aggregate, stream="bad", snapshot_every=-1):
    name: str
    @evolves
    def _(self, event: Counted) -> None: ...
""": "snapshot_every=-1",
    """
class Bad(Aggregate, stream="bad"):
    name: float
    @evolves
    def _(self, event: Counted) -> None: ...
Service("bad", aggregates=[Bad])
""": "expected UUID, str or int",
    """
class Bad(Aggregate, stream="bad"):
    name: str
    found: object = dataclasses.field(default_factory=re.compile("").search)
    pattern: re.Pattern[str] | None = None
    @evolves
    def _(self, event: Counted) -> None: ...
Service("bad", aggregates=[Bad])
""": "snapshot_every=0",
    """
@evolves
def _(self, event: Counted) -> None: ...
""": "in the body of an Aggregate",
    """
Service("bad", aggregates=[Account, Account])
""": "declared twice",
    """
class Bad(Aggregate, stream="account"):
    name: str
    @evolves
    def _(self, event: Counted) -> None: ...
Service("bad", aggregates=[Account, Bad])
""": "have one stream, 'account'",
    """
Service("bad", aggregates=[Account], prunes=["eventsourced.accounts"])
""": "never pruned",
    """
Service("bad", aggregates=[Counted])
""": "no event-sourced aggregate",
}


@pytest.mark.parametrize("code", BAD)
def test_what_cannot_work_is_refused_where_it_is_declared(code: str) -> None:
    names: dict[str, Any] = {
        "Account": Account, "Aggregate": Aggregate, "Counted": Counted, "Service": Service, "dataclasses": dataclasses,
        "evolves": evolves, "re": re, "__name__": __name__,
    }  # fmt: skip
    with pytest.raises(UsageError, match=re.escape(BAD[code])):
        exec(code, names)
