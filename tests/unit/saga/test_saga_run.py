"""A saga in a test of its own: forward, undone, late, parked."""

from __future__ import annotations

from datetime import timedelta

from tests.unit.saga.shop import (
    BookSlot,
    CreditReserved,
    CreditShort,
    FreeSlot,
    Paid,
    PlaceOrder,
    ReleaseCredit,
    ReserveCredit,
    create_order,
    open_order,
    place_order,
    reject_order,
)

from ensue.saga.failures import DeadlineExceeded, SagaCancelled, TimeLimitExceeded
from ensue.testing import SagaRun, saga

NEW = PlaceOrder("o-1", "ann", 30)


def begun() -> SagaRun:
    run = saga(place_order, NEW)
    run.expect_local(create_order, new=NEW)
    return run


def paid() -> SagaRun:
    run = begun()
    run.expect_call(ReserveCredit, total=30).replies(CreditReserved(customer="ann", left=70))
    run.expect_call(BookSlot, order="o-1").replies()
    run.tell(Paid(order="o-1", amount=30))
    return run


def test_a_saga_goes_forward_to_its_end() -> None:
    run = paid()
    run.advance(timedelta(days=1))
    run.expect_local(open_order, order_id="o-1").replies(7)
    run.expect_end("COMPLETED", 77)
    assert (run.timers, run.dropped) == ({}, 0)


def test_a_failure_undoes_what_was_done_in_reverse() -> None:
    run = begun()
    run.expect_call(ReserveCredit).fails(CreditShort(available=10))
    run.expect_call(BookSlot).replies()
    run.expect_undo(FreeSlot, order="o-1")
    run.expect_undo(reject_order, order_id="o-1")
    run.expect_end("UNDONE")
    assert isinstance(run.failure, CreditShort)
    assert run.timers == {}


def test_all_of_a_gather_are_awaited_before_a_failure_is_raised() -> None:
    run = begun()
    reserve = run.expect_call(ReserveCredit)
    run.expect_call(BookSlot).fails(CreditShort(available=0))
    assert run.status == "RUNNING"
    reserve.replies(CreditReserved(customer="ann", left=0))
    run.expect_undo(ReleaseCredit, total=30)
    run.expect_undo(reject_order)
    run.expect_end("UNDONE")


def test_after_its_time_limit_a_call_is_undone_and_its_late_answer_is_dropped() -> None:
    run = begun()
    run.expect_call(BookSlot).replies()
    late = run.expect_call(ReserveCredit)
    run.advance(timedelta(minutes=5))
    assert isinstance(run.failure, TimeLimitExceeded)
    run.expect_undo(ReleaseCredit)
    assert late.is_answered, "nobody waits for it"
    run.expect_undo(FreeSlot)
    run.expect_undo(reject_order)
    run.expect_end("UNDONE")


def test_told_before_it_is_received_an_event_is_kept() -> None:
    run = begun()
    run.tell(Paid(order="o-1", amount=30))
    run.expect_call(ReserveCredit).replies(CreditReserved(customer="ann", left=70))
    run.expect_call(BookSlot).replies()
    assert run.waits_for == "sleep"


def test_its_deadline_undoes_it_before_the_pivot_and_does_nothing_after_it() -> None:
    run = begun()
    run.expect_call(ReserveCredit).replies(CreditReserved(customer="ann", left=70))
    run.expect_call(BookSlot)
    run.advance(timedelta(hours=1))
    assert isinstance(run.failure, DeadlineExceeded)
    run = paid()
    run.advance(timedelta(hours=2))
    assert (run.status, run.dropped) == ("RUNNING", 0)


def test_cancelled_before_the_pivot_it_is_undone_and_after_it_goes_on() -> None:
    run = begun()
    run.expect_call(BookSlot)
    run.cancel()
    assert isinstance(run.failure, SagaCancelled)
    run.expect_undo(FreeSlot)
    run.expect_undo(ReleaseCredit)
    run.expect_undo(reject_order)
    run.expect_end("UNDONE")
    run = paid()
    run.cancel()
    assert (run.status, run.dropped) == ("RUNNING", 1)


def test_an_undo_that_fails_is_tried_again_later() -> None:
    run = begun()
    run.cancel()
    run.expect_undo(FreeSlot).fails(CreditShort(available=1))
    assert not run.asked
    run.advance(timedelta(seconds=1))
    run.expect_undo(FreeSlot).fails(CreditShort(available=1))
    run.advance(timedelta(seconds=1))
    assert not run.asked
    run.advance(timedelta(seconds=1))
    run.expect_undo(FreeSlot)
    run.expect_undo(ReleaseCredit)
    run.expect_undo(reject_order)
    run.expect_end("UNDONE")


def test_an_undo_that_fails_for_too_long_parks_the_saga_and_goes_on_by_retry() -> None:
    run = begun()
    run.cancel()
    for _ in range(10):
        run.expect_undo(FreeSlot).fails(CreditShort(available=1))
        run.advance(timedelta(minutes=10))
    run.expect_parked("undo kitchen.commands.FreeSlot.v1 failed at attempt 10")
    run.retry()
    run.expect_undo(FreeSlot)
    run.expect_undo(ReleaseCredit)


def test_a_local_step_that_breaks_parks_and_nothing_of_it_is_kept() -> None:
    run = saga(place_order, NEW)
    run.expect_local(create_order).breaks("no such table")
    run.expect_parked("no such table")
    run.tell(Paid(order="o-1", amount=30))
    run.retry()
    run.expect_local(create_order)
    run.expect_call(ReserveCredit)
