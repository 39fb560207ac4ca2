"""Which sagas that have begun would go on with other code, without doing anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.saga.shop import (
    BookSlot,
    CreditReserved,
    FreeSlot,
    Paid,
    PlaceOrder,
    ReleaseCredit,
    ReserveCredit,
    create_order,
    orders,
    place_order,
    reject_order,
)

from ensue.saga.check import MISSING, Check, Codes, Group, read_row, write_row
from ensue.saga.code import declared_code
from ensue.saga.instance import Instance, instance_of, row_of
from ensue.saga.saga import Saga
from ensue.testing import saga

CODE = declared_code(place_order)
NAMED = [each.name for each in orders.locals.values()]
CODES = {("place_order", 1): CODE}


def stages() -> list[Instance]:
    """One saga at each wait of its life, one that is being undone, and one that has ended."""
    run = saga(place_order, PlaceOrder("o-1", "ann", 30), id="o-1")
    found = [run._as_stored()]
    run.expect_local(create_order)
    run._settle()
    found.append(run._as_stored())
    undone = saga(place_order, PlaceOrder("o-1", "ann", 30), id="undone")
    undone.expect_local(create_order)
    undone.cancel()
    found.append(undone._as_stored())
    run.expect_call(ReserveCredit).replies(CreditReserved(customer="ann", left=1))
    run.expect_call(BookSlot).replies()
    found.append(run._as_stored())
    run.tell(Paid(order="o-1", amount=1))
    found.append(run._as_stored())
    for undo in (FreeSlot, ReleaseCredit, reject_order):
        undone.expect_undo(undo)
    undone.expect_end("UNDONE")
    found.append(undone._as_stored())
    for number, each in enumerate(found):
        each.key = f"place_order:{number}"
    return found


def check(codes: Codes, named: list[str], sagas: list[Instance]) -> list[Group]:
    found = Check(codes, named)
    for each in [*sagas, *sagas]:  # one that goes on meanwhile may come twice
        found.add(each)
    return found.groups


def other(function: Callable[[Saga, PlaceOrder], Awaitable[Any]]) -> list[Group]:
    return check({("place_order", 1): dataclasses.replace(CODE, function=function)}, NAMED, stages())


def test_the_code_that_they_have_begun_with_is_fine_and_nothing_of_them_changes() -> None:
    sagas = stages()
    before = [row_of(each, 1) for each in sagas]
    assert check(CODES, NAMED, sagas) == [Group("place_order", 1, "", "place_order:0", 5)]
    assert [row_of(each, 1) for each in sagas] == before


def test_they_come_back_from_a_line_of_a_file_as_they_were() -> None:
    for each in stages():
        assert row_of(instance_of(read_row(write_row(row_of(each, 3)))), 3) == row_of(each, 3)


def test_those_of_a_version_that_is_not_there_wait_unless_they_are_being_undone() -> None:
    found = check({}, NAMED, stages())
    assert [(each.reason, each.count) for each in found] == [("", 1), (MISSING, 4)]
    assert found[0].example == "place_order:2"


def test_what_is_to_be_undone_needs_its_steps() -> None:
    found = check(CODES, [each for each in NAMED if each != "reject_order"], stages())
    said = "it needs undo reject_order, and there is no function of that name"
    assert [(each.reason, each.count) for each in found] == [("", 1), (said, 4)]


async def asks_another(saga: Saga, new: PlaceOrder) -> None:
    await saga.local(create_order, new, undo=saga.local(reject_order, new.order))
    await saga.call(BookSlot(order=new.order), undo=FreeSlot(order=new.order))


async def asks_for_another_key(saga: Saga, new: PlaceOrder) -> None:
    await saga.local(create_order, new, undo=saga.local(reject_order, new.order))
    await saga.call(ReserveCredit(customer="bob", total=1), undo=ReleaseCredit(customer="bob", total=1))


async def ends(saga: Saga, new: PlaceOrder) -> int:
    await saga.local(create_order, new, undo=None)
    return 1


async def breaks(saga: Saga, new: PlaceOrder) -> None:
    await saga.local(create_order, new, undo=None)
    raise KeyError(new.customer)


async def waits(saga: Saga, new: PlaceOrder) -> None:
    await saga.sleep(timedelta(days=1))


RESERVE = "call sagacustomers.commands.ReserveCredit.v1"


@pytest.mark.parametrize(
    ("function", "reason", "count"),
    [
        (asks_another, f"entry 2: the journal has {RESERVE}, the code asks for call kitchen.commands.BookSlot.v1 (", 3),
        (
            asks_for_another_key,
            f"entry 2: the journal has {RESERVE}, the code asks for {RESERVE}, for another key (",
            3,
        ),
        (ends, f"entry 2: the journal has {RESERVE}, the code has ended before it", 3),
        (breaks, "KeyError (", 3),
        (waits, "entry 1: the journal has local create_order, the code asks for sleep (", 4),
    ],
)
def test_those_that_would_be_parked_are_told_by_reason(function: Any, reason: str, count: int) -> None:
    fine, parked = other(function)
    assert (fine.reason, fine.count) == ("", 5 - count)
    assert parked.reason.startswith(reason), parked
    assert parked.count == count
    assert "ann" not in parked.reason
