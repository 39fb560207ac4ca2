"""A person settles what a parked saga is at: what counts for it, what is refused, and what is kept of who decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from tests.unit.saga.shop import BookSlot, CreditShort, FreeSlot

from ensue import EffectKey, Saga, Service, UsageError
from ensue.saga.code import declared_code
from ensue.saga.incoming import Cancel, Retry
from ensue.saga.instance import DECISIONS_MAX
from ensue.saga.journal import Refusal
from ensue.saga.parking import park
from ensue.saga.skipping import Settled, skip_of
from ensue.saga.undo import delay_s
from ensue.testing import SagaRun, saga


@dataclass(frozen=True)
class Pay:
    how: str = ""


shop = Service("skipshop", calls=[BookSlot, FreeSlot])


@shop.outside
async def charge(card: str, key: EffectKey) -> str:
    return card


@shop.outside
async def refund(card: str) -> None: ...


@shop.local
def note(card: str) -> int:
    return 1


@shop.local
def forget(card: str) -> None: ...


@shop.saga
async def pay(saga: Saga, new: Pay) -> str:
    await saga.local(note, "c", undo=forget)
    if new.how == "both":
        await saga.gather(saga.outside(charge, "c", attempts=1, undo=refund), saga.call(BookSlot(order="o"), undo=None))
    paid: str = await saga.outside(charge, "c", attempts=1, undo=refund, limit=timedelta(seconds=10))
    if new.how == "fails":
        raise CreditShort(available=1)
    noted = await saga.local(note, "d", undo=forget)
    saga.pivot()
    return f"{paid} {noted}"


CODE = declared_code(pay)


def charged(how: str = "") -> SagaRun:
    """It is parked, since its charge failed at its last attempt."""
    run = saga(pay, Pay(how))
    run.expect_local(note).replies(1)
    run.expect_outside(charge).breaks("no answer")
    run.expect_parked("no answer")
    return run


def skip(run: SagaRun, settled: Settled, number: int | None = None, why: str = "by hand") -> None:
    found = skip_of(CODE, run._saga, number, settled)
    run._take(type(found)(found.number, found.skip, "ann", why))


def failure() -> Settled:
    return Settled(failure=Refusal.of(CreditShort(available=3)))


def test_an_outside_effect_came_to_what_a_person_says() -> None:
    run = charged()
    skip(run, Settled(b'"by phone"'))
    run.expect_local(note, card="d").replies(2)
    run.expect_end("COMPLETED", "by phone 2")
    [decision] = run._saga.decisions
    assert (decision.what, decision.who, decision.why) == ("skip outside charge", "ann", "by hand")


def test_an_outside_effect_that_a_person_says_was_not_done_is_undone_by_nobody() -> None:
    run = charged()
    skip(run, failure())
    run.expect_undo(forget)
    run.expect_end("UNDONE")
    assert run.failure is not None
    assert str(run.failure) == "CreditShort(available=3)"


@pytest.mark.parametrize("done", [True, False])
def test_a_local_step_that_fails_for_good_is_not_run_any_more(done: bool) -> None:
    run = charged()
    skip(run, Settled(b'"paid"'))
    run.expect_local(note, card="d").breaks("a bug")
    run.expect_parked("a bug")
    skip(run, Settled(b"5") if done else failure())
    if done:
        run.expect_end("COMPLETED", "paid 5")
    else:
        run.expect_undo(refund)
        run.expect_undo(forget, card="c")
        run.expect_end("UNDONE")
    assert [each.what for each in run._saga.decisions] == ["skip outside charge", "skip local note"]


def test_what_was_settled_stays_so_when_what_follows_fails_too() -> None:
    run = charged("both")
    skip(run, Settled(b'"paid"'), 2)
    run.expect_call(BookSlot).replies()
    run.expect_outside(charge).breaks("again")
    found = skip_of(CODE, run._saga, None, Settled(b'"second"'))
    run._take(type(found)(found.number, found.skip))
    run.expect_local(note, card="d").breaks("a bug")  # rolls all back that followed from the decision
    run.expect_parked("a bug")
    run.retry()
    run.expect_local(note, card="d").replies(9)
    run.expect_end("COMPLETED", "second 9")


def test_an_undo_that_fails_counts_as_done() -> None:
    run = saga(pay, Pay("fails"))
    run.expect_local(note).replies(1)
    run.expect_outside(charge).gives("paid")
    for attempt in range(1, 11):
        run.expect_undo(refund).fails(CreditShort(available=1))
        run.advance(timedelta(seconds=delay_s(attempt)))
    run.expect_parked("undo refund failed at attempt 10")
    with pytest.raises(UsageError, match="undo refund of saga pay:test has no result"):
        skip(run, Settled(b"1"))
    skip(run, Settled())
    run.expect_undo(forget)
    run.expect_end("UNDONE")
    assert [each.what for each in run._saga.decisions] == ["skip undo refund"]


def test_of_several_operations_it_is_said_which_one() -> None:
    run = charged("both")
    with pytest.raises(UsageError, match=r"at several operations.*\(2: outside charge, 3: call .*BookSlot"):
        skip(run, Settled())
    with pytest.raises(UsageError, match="is not at an operation 7, only at 2: outside charge"):
        skip(run, Settled(), 7)
    skip(run, Settled(b"null"), 3)
    assert run.waits_for == "outside charge"


@pytest.mark.parametrize(
    ("settled", "said"), [(Settled(b"7"), "is no str"), (Settled(), "outside charge does not come to null")]
)
def test_a_result_that_is_none_of_it_is_refused(settled: Settled, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        skip(charged(), settled)


def test_what_is_at_nothing_that_can_be_settled_is_refused() -> None:
    run = saga(pay, Pay())
    with pytest.raises(UsageError, match="is RUNNING: only what a parked one is at"):
        skip(run, Settled())
    parked = charged()
    with pytest.raises(UsageError, match="of version 1, whose code is not here"):
        skip_of(None, parked._saga, None, Settled())
    parked._saga.version = 1
    parked._saga.journal = []
    parked._saga.request = b"[]"
    with pytest.raises(UsageError, match="parked for its code, and not for an operation"):
        skip(parked, Settled())


def test_a_decision_that_came_too_late_is_of_no_use() -> None:
    run = charged()
    found = skip_of(CODE, run._saga, None, Settled(b'"paid"'))
    run.retry()
    run._take(found)
    assert (run.dropped, [each.what for each in run._saga.decisions]) == (1, ["retry"])


def test_each_decision_is_kept_with_who_and_why_up_to_a_hundred() -> None:
    run = charged()
    for number in range(DECISIONS_MAX + 5):
        run._take(Retry("ann", str(number)))
        park(run._saga, "again")
    run._take(Cancel("bob", "enough"))
    found = run._saga.decisions
    assert (len(found), found[0].why) == (DECISIONS_MAX, "6")
    assert (found[-1].what, found[-1].who, found[-1].why) == ("cancel", "bob", "enough")


def test_words_are_bounded() -> None:
    for words in ({"who": "x" * 1001}, {"why": "x" * 1001}, {"why": 7}):
        with pytest.raises(UsageError, match="expected a text of at most 1000 characters"):
            CODE.ordered("retry", 1, **words)
