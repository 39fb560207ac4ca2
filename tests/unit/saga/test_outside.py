"""Outside effects by the pure rules: attempts, limits, failures, undoing, parking."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.saga.shop import CreditShort, FreeSlot

from ensue import EffectKey, Saga, SagaCancelled, Service, Step, UsageError
from ensue.saga.effects import RunOutside, SetTimer
from ensue.saga.incoming import Answered, AtWork, Broke, Elapsed
from ensue.saga.journal import Refusal
from ensue.saga.machine import begun, go_on
from ensue.saga.taking import take
from ensue.saga.wake import read_wake
from ensue.testing import SagaRun, saga


@dataclass(frozen=True)
class Pay:
    how: str


shop = Service("shop", calls=[FreeSlot])
RECEIPTS = 3


@shop.outside
async def charge(card: str, amount: int, key: EffectKey) -> str:
    return f"{card} {amount} {key}"


@shop.outside
async def refund(card: str) -> str:
    return card


@shop.outside
async def send_receipt(email: str, *, lines: int = 1) -> None: ...


@shop.local
def forget(card: str, amount: int) -> int:
    return amount


@shop.saga
async def pay(saga: Saga, new: Pay) -> str:
    how = new.how
    card = "c-1"
    undo: Any = {
        "function": saga.outside(refund, card) if how == "function" else None,
        "command": FreeSlot(order=card),
        "local": forget,
    }.get(how)
    paid: str = await saga.outside(charge, card, 30, undo=undo, attempts=3, limit=timedelta(seconds=10))
    if how != "short":
        await saga.sleep(timedelta(hours=1))
    saga.pivot()
    await saga.outside(send_receipt, "a@example.com", lines=RECEIPTS)
    return paid


def paying(how: str = "short") -> SagaRun:
    return saga(pay, Pay(how))


def test_its_result_is_what_the_function_returns() -> None:
    run = paying()
    assert run.waits_for == "outside charge"
    run.expect_outside(charge, card="c-1", amount=30).gives("paid")
    run.expect_outside(send_receipt, email="a@example.com", lines=RECEIPTS).gives(None)
    run.expect_end("COMPLETED", "paid")
    assert run.timers == {}


def test_what_fails_is_tried_again_ever_later_and_then_goes_on() -> None:
    run = paying()
    for pause in (1, 2):
        run.expect_outside(charge).breaks("no answer")
        assert (run.asked, run.status) == ([], "RUNNING")
        assert f"outside charge failed at attempt {pause}: no answer" in run.reason
        run.advance(timedelta(seconds=pause - 0.5))
        assert run.asked == []
        run.advance(timedelta(seconds=0.5))
    run.expect_outside(charge).gives("paid")
    assert run.reason == ""
    run.expect_outside(send_receipt).gives()
    run.expect_end("COMPLETED", "paid")


def test_past_its_attempts_it_is_parked_and_a_retry_begins_anew() -> None:
    run = paying()
    for pause in (1, 2, 4):
        run.expect_outside(charge).breaks("no answer")
        run.advance(timedelta(seconds=pause))
    run.expect_parked("outside charge failed at attempt 3: no answer")
    run.advance(timedelta(hours=1))
    assert run.asked == []
    run.retry()
    run.expect_outside(charge).breaks("still none")
    assert run.status == "RUNNING", "it has three attempts again"
    run.advance(timedelta(seconds=8))
    run.expect_outside(charge).gives("paid")
    assert run.status == "RUNNING"


def test_what_nobody_hears_of_is_begun_again_after_limit_and_pause() -> None:
    run = paying()
    [first] = run.asked
    run.advance(timedelta(seconds=10.9))
    assert run.asked == [first]
    run.advance(timedelta(seconds=0.1))
    [second] = run.asked
    assert second == RunOutside(1, 2)
    assert "nothing was heard of it within its limit of 10 s" in run.reason
    run.advance(timedelta(minutes=1))
    run.expect_parked("nothing was heard of it")


def test_a_failure_says_that_nothing_was_done_and_is_raised() -> None:
    run = paying("function")
    run.expect_outside(charge).fails(CreditShort(available=1))
    run.expect_end("UNDONE")
    assert isinstance(run.failure, CreditShort)


@pytest.mark.parametrize(("how", "undo"), [("function", refund), ("local", forget), ("command", FreeSlot)])
def test_it_is_undone_by_a_function_a_step_or_a_command(how: str, undo: Any) -> None:
    run = paying(how)
    run.expect_outside(charge).gives("paid")
    run.cancel()
    run.expect_undo(undo)
    run.expect_end("UNDONE")
    assert (run.timers, run.asked) == ({}, [])


def test_an_outside_undo_that_fails_is_tried_again_under_one_key() -> None:
    run = paying("function")
    run.expect_outside(charge).gives("paid")
    run.cancel()
    keys = {each.key for each in run._saga.outside.values()}
    run.expect_undo(refund).breaks("no answer")
    assert "undo refund failed at attempt 1: no answer" in run.reason
    run.advance(timedelta(seconds=1))
    keys |= {each.key for each in run._saga.outside.values()}
    assert keys == {"pay:test:1:undo"}
    run.expect_undo(refund).fails(CreditShort(available=1))
    run.advance(timedelta(seconds=2))
    run.advance(timedelta(seconds=40))  # its process has died
    run.expect_undo(refund)
    run.expect_end("UNDONE")


@pytest.mark.parametrize("came", ["gives", "breaks", "late"])
def test_an_undo_waits_for_the_attempt_at_hand(came: str) -> None:
    run = paying("function")
    charging = run.expect_outside(charge)
    run.cancel()
    assert run.waits_for == "outside charge, to undo it"
    assert len(run.asked) == 1, "the undo must not overtake it"
    if came == "gives":
        charging.gives("paid")
    elif came == "breaks":
        charging.breaks("no answer")  # it may be done all the same
    else:
        run.advance(timedelta(seconds=11))
    run.expect_undo(refund, card="c-1")
    run.expect_end("UNDONE")
    assert isinstance(run.failure, SagaCancelled)


def test_what_was_refused_while_the_saga_is_undone_needs_no_undo() -> None:
    run = paying("function")
    charging = run.expect_outside(charge)
    run.cancel()
    charging.fails(CreditShort(available=1))
    run.expect_end("UNDONE")


def test_cancelled_between_two_attempts_it_is_undone_at_once() -> None:
    run = paying("function")
    run.expect_outside(charge).breaks("no answer")
    run.cancel()
    run.expect_undo(refund)
    run.expect_end("UNDONE")


def test_a_late_attempt_counts_for_nothing_and_a_late_result_for_what_it_is() -> None:
    code: Any = pay.__ensue_saga__  # type: ignore[attr-defined]
    key, data = code.starts(Pay("short"), 1)
    found, _ = begun(key, 1, bytes(read_wake(data).data), "c", 1.0, 0.0)
    go_on(code, found, 1.0)
    assert take(found, AtWork(1), 2.0) == (True, [SetTimer(1, 12.0)])
    assert found.outside[1].attempt == 1
    assert take(found, Elapsed(1), 12.0) == (True, [SetTimer(1, 12.0)]), "its result may be on its way"
    assert go_on(code, found, 12.0) == []
    take(found, Elapsed(1), 12.0)
    assert go_on(code, found, 12.0) == [SetTimer(1, 24.0), RunOutside(1, 2)]
    assert take(found, Broke(1, 1, "late"), 13.0) == (False, [])
    assert found.outside[1].state == "begun"


def test_declarations_that_cannot_work_are_refused() -> None:
    service = Service("x")

    def plain(a: str) -> None: ...
    async def steps(step: Step) -> None: ...
    async def twice(one: EffectKey, two: EffectKey) -> None: ...
    async def takes(undo: str) -> None: ...
    async def places(a: str, /) -> None: ...

    for function, said in (
        (plain, "is a plain def, which would hold up"),
        (steps, "is annotated Step, which belongs to a transaction"),
        (twice, "'one' and 'two' are both given the key"),
        (takes, "saga.outside itself takes undo="),
        (places, "can be given by place only"),
    ):
        with pytest.raises(UsageError, match=said):
            service.outside(function)
    service.outside(name="one")(charge)
    with pytest.raises(UsageError, match=r"is declared already, as outside function x\.one"):
        service.local(charge)
    with pytest.raises(UsageError, match="two local steps or outside functions named 'one'"):
        service.local(name="one")(plain)
    with pytest.raises(UsageError, match="outside_max=0, expected 1 to 10,000"):
        Service("x", outside_max=0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"limit": None}, "outside charge with limit=None"),
        ({"undo": ...}, "has no undo="),
        ({"function": forget}, "forget is no outside function of service shop"),
        ({"card": 7}, r"outside function shop.charge takes \(card, amount\)"),
    ],
)
def test_what_cannot_be_asked_for_parks(how: dict[str, Any], said: str) -> None:
    service = Service("shop")
    service.outside(charge)
    service.local(forget)

    @service.saga
    async def asks(saga: Saga, new: Pay) -> None:
        given = {"undo": None, **how}
        await saga.outside(given.pop("function", charge), "c-1", 30, **given)

    run = saga(asks, Pay("x"))
    run.expect_parked()
    assert re.search(said, run.reason)


def test_refused_at_a_later_attempt_it_is_undone_since_an_earlier_one_may_have_done_it() -> None:
    run = paying("function")
    run.expect_outside(charge).breaks("no answer")
    run.advance(timedelta(seconds=1))
    run.expect_outside(charge).fails(CreditShort(available=1))
    run.expect_undo(refund, card="c-1")
    run.expect_end("UNDONE")
    assert isinstance(run.failure, CreditShort)


def test_refused_at_a_later_attempt_while_the_saga_is_undone_it_is_undone() -> None:
    run = paying("function")
    run.expect_outside(charge).breaks("no answer")
    run.advance(timedelta(seconds=1))
    charging = run.expect_outside(charge)
    run.cancel()
    charging.fails(CreditShort(available=1))
    run.expect_undo(refund)
    run.expect_end("UNDONE")


def test_a_late_refusal_says_nothing_of_the_attempt_at_hand() -> None:
    code: Any = pay.__ensue_saga__  # type: ignore[attr-defined]
    key, data = code.starts(Pay("short"), 1)
    found, _ = begun(key, 1, bytes(read_wake(data).data), "c", 1.0, 0.0)
    go_on(code, found, 1.0)
    take(found, Broke(1, 1, "too slow"), 12.0)
    go_on(code, found, 12.0)
    take(found, Elapsed(1), 13.0)
    assert RunOutside(1, 2) in go_on(code, found, 13.0)
    refusal = Refusal.of(CreditShort(available=1))
    assert take(found, Answered(1, failure=refusal, attempt=1), 14.0) == (False, [])
    assert found.outside[1].state == "begun"
    assert take(found, Answered(1, failure=refusal, attempt=2), 15.0)[0]
