"""A saga's function in one transaction: it is replayed once, goes on as its local steps come back, and is closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from tests.unit.saga.shop import BookSlot
from tests.unit.saga.test_replay import Go, declared, note

from ensue.saga.code import declared_code
from ensue.saga.effects import Effect, RunLocal, Send
from ensue.saga.incoming import Answered
from ensue.saga.instance import Instance, Status, row_of
from ensue.saga.machine import begun, go_on
from ensue.saga.replay import Live
from ensue.saga.replaying import Replaying
from ensue.saga.saga import Saga
from ensue.saga.taking import take

Function = Callable[[Saga, Go], Awaitable[Any]]


def transaction(function: Function, saga: Instance, live: Live | None) -> list[Effect]:
    """Go on until nothing of it comes back at once; return all that it asked for."""
    code, asked = declared_code(declared(function)), list[Effect]()
    while effects := go_on(code, saga, 2.0, live=live):
        asked += effects
        steps = [each for each in effects if isinstance(each, RunLocal)]
        for each in steps:
            take(saga, Answered(each.number, b"1"), 3.0)
        if not steps:
            break
    return asked


def new() -> Instance:
    return begun("go:x", 1, b'{"order":"o-1"}', "correlation", 1.0, 0.0)[0]


def test_local_steps_in_a_row_are_one_replay_and_the_row_is_the_same() -> None:
    begins: list[int] = []

    async def counts(saga: Saga, go: Go) -> None:
        begins.append(1)
        for number in range(20):
            await saga.local(note, go.order, number, undo=None)
        await saga.gather(saga.local(note, go.order, undo=None), saga.call(BookSlot(order=go.order), undo=None))
        await saga.local(note, go.order, undo=None)

    rows = []
    for live in (Live(), None):
        begins.clear()
        saga = new()
        asked = transaction(counts, saga, live)
        assert [type(each) for each in asked] == [RunLocal] * 21 + [Send]
        assert len(begins) == (1 if live is not None else 22)
        rows.append(row_of(saga, 1))
        if live is not None:
            assert live.close() == "", "it was closed where it waits for another service"
            assert isinstance(asked[-1], Send)
            take(saga, Answered(asked[-1].number), 4.0)
            transaction(counts, saga, live)
            assert len(begins) == 2, "the next transaction has its own"
            assert saga.status is Status.COMPLETED
    assert rows[0] == rows[1]


def test_nothing_of_a_replay_is_left_for_the_garbage_collector() -> None:
    async def waits(saga: Saga, go: Go) -> None:
        await saga.local(note, go.order, undo=saga.local(note, "o-2"))
        await saga.call(BookSlot(order=go.order), undo=None)
        await saga.local(note, go.order, undo=None)

    def left() -> int:
        return sum(type(each) is Replaying for each in gc.get_objects())

    saga = new()
    gc.collect()
    gc.disable()
    try:
        before = left()
        [*_, sent] = transaction(waits, saga, Live())
        assert left() == before, "it waits for another service"
        assert isinstance(sent, Send)
        take(saga, Answered(sent.number), 4.0)
        transaction(waits, saga, Live())
        assert saga.status is Status.COMPLETED
        assert left() == before, "it has ended"
    finally:
        gc.enable()


def test_what_comes_out_otherwise_in_the_next_transaction_is_noticed() -> None:
    turns = [False, True]

    async def wavers(saga: Saga, go: Go) -> None:
        otherwise = turns.pop(0)
        await saga.local(note, go.order, undo=None)
        if otherwise:
            await saga.local(note, "another", undo=None)
        await saga.call(BookSlot(order=go.order), undo=None)

    saga = new()
    [*_, sent] = transaction(wavers, saga, Live())
    assert isinstance(sent, Send)
    take(saga, Answered(sent.number), 4.0)
    transaction(wavers, saga, Live())
    assert saga.status is Status.PARKED
    assert "the journal has call" in saga.reason


def test_one_at_a_local_step_when_its_transaction_fails_is_closed_and_asks_for_nothing() -> None:
    left: list[str] = []

    async def tidy(saga: Saga, go: Go) -> None:
        try:
            await saga.local(note, go.order, undo=None)
        finally:
            left.append("finally")
            await saga.local(note, "never", undo=None)

    live = Live()
    [step] = go_on(declared_code(declared(tidy)), new(), 2.0, live=live)
    assert isinstance(step, RunLocal)
    assert left == []
    assert live.close() == ""
    assert left == ["finally"]
    assert live.close() == "", "once is enough"


def test_what_goes_wrong_in_a_finally_parks_at_the_next_wait_for_others() -> None:
    async def slow(saga: Saga, go: Go) -> None:
        try:
            await saga.local(note, go.order, undo=None)
            await saga.call(BookSlot(order=go.order), undo=None)
        finally:
            await asyncio.sleep(1)

    saga = new()
    transaction(slow, saga, Live())
    assert saga.status is Status.PARKED
    assert "while it was closed at its wait" in saga.reason


def test_an_operation_that_was_awaited_is_no_undo_of_another() -> None:
    async def reuses(saga: Saga, go: Go) -> None:
        first = saga.local(note, go.order, undo=None)
        await first
        await saga.local(note, go.order, undo=first)

    saga = new()
    transaction(reuses, saga, None)
    assert saga.status is Status.PARKED
    assert "no local step" in saga.reason
