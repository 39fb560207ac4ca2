"""What a replay takes for the same, and what it finds fault with: each is named with the place and what to write."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import Raw
from tests.unit.saga.shop import BookSlot, CreditShort, FreeSlot, Paid, ReserveCredit, Unlisted

from ensue import Command, Event, Service, UsageError
from ensue.event import event_type
from ensue.saga.instance import Mail
from ensue.saga.journal import Issued, Resolved
from ensue.saga.machine import begun
from ensue.saga.outside import Outside
from ensue.saga.room import bytes_of, nearly_full, parts_of_row
from ensue.saga.saga import Saga
from ensue.saga.undo import Undo
from ensue.testing import SagaRun, saga

HERE = Path(__file__).name


@dataclass(frozen=True)
class Go:
    order: str = "o-1"


@dataclass
class Log:
    entries: list[Any] = field(default_factory=list)


service = Service("orders", calls=[BookSlot, FreeSlot, ReserveCredit])


@service.local
def note(order: str, times: int = 1) -> int:
    return times


@service.local
def forget(order: str, times: int = 1) -> None: ...


def declared(function: Callable[[Saga, Go], Awaitable[Any]], name: str = "") -> Any:
    other = Service("orders", calls=[BookSlot, Clear, FreeSlot, ReserveCredit])
    for each in service.locals:
        other.local(each)
    return other.saga(name=name or "go")(function)


def parked(function: Callable[[Saga, Go], Awaitable[Any]], *reasons: str) -> None:
    run = saga(declared(function), Go())
    while run.asked:
        effect = run.asked[0]
        if hasattr(effect, "topic"):
            run.expect_call(BookSlot).replies()
        else:
            run.expect_local(note).replies(1)
    assert run.status == "PARKED", run
    for each in reasons:
        assert each in run.reason


# ------------------------------------------------------------------------------------------------- what is noticed


async def test_what_asyncio_would_do_parks_with_the_place_and_what_to_write() -> None:
    """temporal sdk-python#429."""

    async def sleeps(saga: Saga, go: Go) -> None:
        await asyncio.sleep(1)

    async def yields(saga: Saga, go: Go) -> None:
        await asyncio.sleep(0)

    async def waits(saga: Saga, go: Go) -> None:
        await asyncio.wait([asyncio.get_running_loop().create_future()])

    future = asyncio.get_running_loop().create_future()

    async def awaits(saga: Saga, go: Go) -> None:
        await future

    parked(sleeps, "no running event loop", HERE, "saga.sleep")
    parked(yields, "it awaited None", HERE, "saga.sleep")
    parked(waits, "no running event loop", HERE)
    parked(awaits, "it awaited <Future pending", HERE)
    assert asyncio.get_running_loop() is not None, "and the loop is there again"


def test_what_it_catches_parks_all_the_same() -> None:
    async def catches(saga: Saga, go: Go) -> None:
        try:
            await saga.local(note, go.order)  # no undo
        except BaseException:
            return

    parked(catches, "local note has no undo=", HERE)


def test_an_operation_that_is_not_awaited_parks() -> None:
    async def forgets(saga: Saga, go: Go) -> None:
        saga.local(note, go.order, undo=None)  # type: ignore[unused-coroutine, unused-ignore]

    parked(forgets, "without awaiting local note", "write `await`")


def test_what_is_awaited_twice_parks() -> None:
    async def twice(saga: Saga, go: Go) -> None:
        operation = saga.local(note, go.order, undo=None)
        await operation
        await operation

    parked(twice, "awaited twice", HERE)


def test_an_undeclared_command_and_step_and_a_wrong_undo_park() -> None:
    async def unlisted(saga: Saga, go: Go) -> None:
        await saga.call(globals()["Unlisted"](order=go.order), undo=None)

    async def plain(saga: Saga, go: Go) -> None:
        await saga.local(parked, undo=None)

    async def elsewhere(saga: Saga, go: Go) -> None:
        await saga.call(BookSlot(order=go.order), undo=FreeSlot(order="another"))

    parked(unlisted, "calls=[Unlisted]", HERE)
    parked(plain, "is no local step of service orders", HERE)
    parked(elsewhere, "might overtake it", HERE)


def test_a_bug_parks_with_its_place_and_undoes_nothing() -> None:
    """AxonFramework PR 5022: there a failing handler is swallowed."""

    async def bug(saga: Saga, go: Go) -> None:
        await saga.local(note, go.order, undo=saga.local(forget, go.order))
        raise KeyError("x")

    parked(bug, "KeyError: 'x'", HERE)


def test_a_failure_after_the_pivot_parks() -> None:
    async def late(saga: Saga, go: Go) -> None:
        saga.pivot()
        raise CreditShort(available=1)

    parked(late, "failed after its pivot", "available=1")


def test_a_failure_after_the_pivot_goes_on_once_the_code_catches_it() -> None:
    catches = [False]

    async def late(saga: Saga, go: Go) -> str:
        saga.pivot()
        try:
            await saga.call(BookSlot(order=go.order))
        except CreditShort:
            if not catches[0]:
                raise
            await saga.local(note, go.order)
        return "by another way"

    run = saga(declared(late), Go())
    run.expect_call(BookSlot).fails(CreditShort(available=1))
    run.expect_parked("failed after its pivot")
    run.retry()
    run.expect_parked("failed after its pivot")
    catches[0] = True
    run.retry()
    run.expect_local(note).replies(1)
    run.expect_end("COMPLETED", "by another way")


def test_an_id_that_is_another_one_at_each_replay_is_noticed() -> None:
    async def by_chance(saga: Saga, go: Go) -> None:
        order = str(uuid4())
        await saga.call(BookSlot(order=order), undo=None)

    parked(by_chance, "entry 1: the journal has call kitchen.commands.BookSlot.v1", "the code asks for", HERE)


def test_a_branch_by_the_clock_is_noticed() -> None:
    turns: list[int] = []

    async def by_time(saga: Saga, go: Go) -> None:
        turns.append(1)
        if len(turns) == 1:
            await saga.call(BookSlot(order=go.order), undo=None)
        await saga.local(note, go.order, undo=None)

    async def fewer(saga: Saga, go: Go) -> None:
        turns.append(1)
        if len(turns) == 1:
            await saga.call(BookSlot(order=go.order), undo=None)

    parked(by_time, "the code asks for local note")
    turns.clear()
    parked(fewer, "the code has ended before it")


def test_a_mismatch_is_not_retried_for_ever_and_goes_on_when_the_code_is_put_right() -> None:
    """restate#4944."""
    wrong = [True]

    async def go_on(saga: Saga, go: Go) -> None:
        await saga.call(BookSlot(order=go.order), undo=None)
        if wrong[0]:
            raise RuntimeError("not yet")

    run = saga(declared(go_on), Go())
    run.expect_call(BookSlot).replies()
    run.expect_parked("not yet")
    run.retry()
    run.expect_parked("not yet")
    wrong[0] = False
    run.retry()
    run.expect_end("COMPLETED")


def test_a_restart_without_a_wait_parks() -> None:
    async def again(saga: Saga, go: Go) -> None:
        saga.restart(go)

    parked(again, "for ever")


# ---------------------------------------------------------------------------------------------- what is the same


def test_finally_runs_at_each_wait_and_issues_nothing_until_it_is_reached() -> None:
    """temporal sdk-python#494, #325."""

    async def tidy(saga: Saga, go: Go) -> None:
        try:
            await saga.call(BookSlot(order=go.order), undo=None)
        finally:
            await saga.local(note, go.order, undo=None)

    run = saga(declared(tidy), Go())
    assert [type(each).__name__ for each in run.asked] == ["Send"]
    run.expect_call(BookSlot).replies()
    run.expect_local(note).replies(1)
    run.expect_end("COMPLETED")


def test_what_goes_wrong_in_a_finally_at_a_wait_is_said() -> None:
    async def slow(saga: Saga, go: Go) -> None:
        try:
            await saga.call(BookSlot(order=go.order), undo=None)
        finally:
            await asyncio.sleep(1)

    parked(slow, "while it was closed at its wait", HERE)


def test_time_ids_and_chance_are_the_same_at_each_replay() -> None:
    log: list[tuple[datetime.datetime, UUID, UUID, float]] = []

    async def tells(saga: Saga, go: Go) -> None:
        log.append((saga.now(), saga.uuid(), saga.uuid(), saga.random().random()))
        await saga.sleep(timedelta(days=1))
        log.append((saga.now(), saga.uuid(), saga.uuid(), saga.random().random()))
        await saga.sleep(timedelta(days=1))

    run = saga(declared(tells), Go())
    run.advance(timedelta(days=3))
    run.expect_end("COMPLETED")
    first, second = log[0], log[2]
    assert log == [first, first, second, first, second]
    assert second[0] - first[0] == timedelta(days=1)
    assert len({*first[1:], *second[1:]}) == 6


def test_a_failure_that_is_caught_is_made_of_its_fields() -> None:
    """restate sdk-typescript#656: there the text of an error differs at a replay."""
    seen: list[Any] = []

    async def catches(saga: Saga, go: Go) -> int:
        try:
            await saga.call(BookSlot(order=go.order), undo=FreeSlot(order=go.order))
        except CreditShort as failure:
            seen.append(str(failure))
            return failure.available
        return 0

    run = saga(declared(catches), Go())
    run.expect_call(BookSlot).fails(CreditShort(available=4))
    run.expect_end("COMPLETED", 4)
    assert seen == [str(CreditShort(available=4))]


def test_a_caught_time_limit_sends_its_undo_at_once_and_the_saga_ends_after_it() -> None:
    async def goes_on(saga: Saga, go: Go) -> None:
        from ensue.saga.failures import TimeLimitExceeded

        try:
            await saga.call(BookSlot(order=go.order), undo=FreeSlot(order=go.order), limit=timedelta(seconds=1))
        except TimeLimitExceeded:
            await saga.local(note, go.order, undo=None)

    run = saga(declared(goes_on), Go())
    run.expect_call(BookSlot)
    run.advance(timedelta(seconds=1))
    undo = run.expect_undo(FreeSlot)
    run._last = None
    run.expect_local(note).replies(1)
    assert run.status == "RUNNING", "something of it is open"
    undo.replies()
    run.expect_end("COMPLETED")


def test_restart_begins_a_new_journal_and_keeps_what_is_to_be_undone_and_what_was_told() -> None:
    async def rounds(saga: Saga, go: Go) -> str:
        if go.order == "o-1":
            await saga.local(note, go.order, undo=saga.local(forget, go.order))
            saga.restart(Go("o-2"))
        told = await saga.receive(Paid)
        if told.amount == 0:
            raise CreditShort(available=0)
        return go.order

    run = saga(declared(rounds), Go())
    run.asked, waits = [], run.asked
    run.tell(Big(order="x", text="kept"))
    run.asked = waits
    run.expect_local(note).replies(1)
    assert [type(each).__name__ for each in run._saga.journal] == ["Issued"]
    assert len(run._saga.mailbox) == 1
    run.tell(Paid(order="x", amount=0))
    run.expect_undo(forget, order="o-1")
    run.expect_end("UNDONE")


def test_a_journal_that_is_too_long_parks_and_names_restart() -> None:
    async def loops(saga: Saga, go: Go) -> None:
        while True:
            await saga.receive(Big)

    run = saga(declared(loops), Go())
    for _ in range(3):
        run.tell(Big(order="o-1", text="x" * 400_000))
    run.expect_parked("its row has 1200")
    run.expect_parked("saga.restart(request)")


def test_code_that_restarts_frees_a_saga_whose_journal_is_too_long() -> None:
    enough: list[bool] = []

    async def loops(saga: Saga, go: Go) -> None:
        for _ in range(3):
            await saga.receive(Big)
        if enough:
            saga.restart(go)
        await saga.receive(Paid)

    run = saga(declared(loops), Go())
    for _ in range(3):
        run.tell(Big(order="o-1", text="x" * 400_000))
    run.expect_parked()
    run.retry()
    run.expect_parked("1200")
    enough.append(True)
    run.retry()
    assert (run.status, run.waits_for) == ("RUNNING", f"receive {event_type(Big).type}")


def test_what_is_told_has_room_by_its_bytes_too() -> None:
    async def never(saga: Saga, go: Go) -> None:
        await saga.receive(Paid)

    run = saga(declared(never), Go())
    run.tell(Big(order="o-1", text="x" * 600_000))
    with pytest.raises(UsageError, match=r"has 1 events that it has not received, in a row of 600\d{3} bytes"):
        run.tell(Big(order="o-1", text="x" * 600_000))
    assert nearly_full(run._saga).startswith("its row has 600")
    run.tell(Paid(order="o-1", amount=1))
    run.expect_end("COMPLETED")


def test_what_a_row_holds_is_added_up_as_its_journal_grows_or_begins_anew() -> None:
    row, _ = begun("go:1", 1, b"{}", "c-1", 0.0, 0.0)

    def counts_all() -> bool:
        return bytes_of(row) == sum(parts_of_row(row).values())

    assert counts_all()
    for number in range(1, 4):
        row.journal = [*row.journal, Issued(number, "receive", "x" * number)]
        assert counts_all()
        row.journal = [*row.journal, Resolved(number, 0.0, Raw(b"1" * 100 * number), "f", {"a": Raw(b"2")})]
        assert counts_all()
    row.mailbox = [Mail("m", Raw(b"12"))]
    row.undos = [Undo(1, "local", "u", Raw(b"123"))]
    row.outside = {1: Outside("o", Raw(b"1234"), "k", 1.0, 1, 1)}
    assert counts_all()
    for length in (6, 7, 2):  # another one, whose end is longer or shorter than what was counted
        row.journal = [Issued(number, "pivot") for number in range(length)]
        assert counts_all()


def test_an_undo_stack_that_is_too_large_parks_and_is_freed_by_a_cancel() -> None:
    async def does(saga: Saga, go: Go) -> None:
        for _ in range(3):
            await saga.local(note, "o-1", undo=saga.local(forget, "x" * 400_000))
        await saga.receive(Paid)

    run = saga(declared(does), Go())
    for _ in range(3):
        run.expect_local(note).replies(1)
    run.expect_parked("undo stack")
    run.cancel()
    for _ in range(3):
        run.expect_undo(forget)
    run.expect_end("UNDONE")


class Clear(Command[None], service="kitchen", key="order"):
    order: str
    why: str


@pytest.mark.parametrize(
    ("order", "size", "flaw"),
    [
        ("o-1", 890_000, ""),
        ("o-1", 899_000, "so that it could never be sent"),
        ("o" * 1_025, 1, "its key is 1025 bytes"),
        ("o\0", 1, "its key is a NUL character"),
    ],
)
def test_an_undo_that_no_record_carries_is_refused_before_anything_is_done(order: str, size: int, flaw: str) -> None:
    async def does(saga: Saga, go: Go) -> None:
        await saga.local(note, "o-1", undo=Clear(order=order, why="x" * size))

    run = saga(declared(does), Go())
    if flaw:
        run.expect_parked(flaw)
        assert f"{HERE}:" in run.reason
        assert run.asked == []
    else:
        run.expect_local(note).replies(1)
        run.expect_end("COMPLETED")


class Big(Event, topic="sagas.big", key="order"):
    order: str
    text: str


# ----------------------------------------------------------------------------------------------------- declarations


def test_declarations_that_cannot_work_are_refused() -> None:
    orders = Service("orders", calls=[BookSlot])

    with pytest.raises(UsageError, match="is a plain def"):

        @orders.saga()
        def plain(saga: Saga, go: Go) -> None: ...

    with pytest.raises(UsageError, match=r"calls=\[Unlisted\]"):

        @orders.saga()
        async def calls(saga: Saga, go: Go) -> None:
            await saga.call(Unlisted(order=go.order), undo=None)

    with pytest.raises(UsageError, match="expected the saga and its request"):

        @orders.saga()
        async def alone(saga: Saga) -> None: ...

    @orders.saga()
    async def once(saga: Saga, go: Go) -> None: ...

    orders.saga(version=2, name="once")(declared_again)
    with pytest.raises(UsageError, match="two sagas 'once' of version 2"):
        orders.saga(version=2, name="once")(declared_again)
    with pytest.raises(UsageError, match="cannot keep its arguments"):

        @orders.local
        def odd(thing: time.struct_time | Callable[[], None]) -> None: ...

    with pytest.raises(UsageError, match="is no saga"):
        saga(plain_function, Go())


async def declared_again(saga: Saga, go: Go) -> None: ...


def plain_function() -> None: ...


def test_a_request_and_an_id_that_cannot_be_are_refused() -> None:
    function = declared(declared_again)
    with pytest.raises(UsageError, match="started with a str, expected a Go"):
        saga(function, "x")
    for wrong in (None, "", "x" * 121, "é", "a\nb"):
        with pytest.raises(UsageError, match="1 to 120 printable ASCII"):
            saga(function, Go(), id=wrong)


def test_a_run_says_what_is_expected_and_what_is_there() -> None:
    async def one(saga: Saga, go: Go) -> None:
        await saga.local(note, go.order, times=2, undo=None)

    run: SagaRun = saga(declared(one), Go())
    with pytest.raises(AssertionError, match=r"it asks for local note\(\{'order': 'o-1', 'times': 2\}\)"):
        run.expect_call(BookSlot)
    with pytest.raises(AssertionError, match="expected local note with times=3, found 2"):
        run.expect_local(note, times=3)


def test_a_reason_that_no_database_could_keep_is_kept_readable() -> None:
    async def odd(saga: Saga, go: Go) -> None:
        raise ValueError("a\0b\ud800" + "x" * 10_000)

    run = saga(declared(odd), Go())
    assert r"a\x00b\ud800xxx" in run.reason
    assert len(run.reason) < 5_000


def test_a_saga_that_restarts_for_ever_in_one_transaction_parks() -> None:
    async def again(saga: Saga, go: Go) -> None:
        await saga.local(note, go.order, undo=None)
        saga.restart(go)

    parked(again, "restarted 100 times in a row", "saga.sleep")


def test_restarts_with_waits_between_them_go_on() -> None:
    async def again(saga: Saga, go: Go) -> None:
        await saga.local(note, go.order, undo=None)
        await saga.sleep(timedelta(seconds=1))
        saga.restart(go)

    run = saga(declared(again), Go())
    for _ in range(150):
        run.expect_local(note).replies(1)
        run.advance(timedelta(seconds=1))
    assert run.status == "RUNNING"
