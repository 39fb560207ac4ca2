"""However what comes for a saga is split into batches, and however many of them are rolled back and done anew, it asks
for the same in the same order, and its row comes out the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.saga.shop import BookSlot, CreditShort, FreeSlot, Paid

from ensue import Failure, Saga, Service
from ensue.event import event_type
from ensue.saga.code import declared_code
from ensue.saga.effects import Effect, RunLocal, RunOutside, Send, SetTimer
from ensue.saga.incoming import Answered, Broke, Cancel, Elapsed, Retry, Told
from ensue.saga.instance import ENDED, Instance, instance_of, row_of
from ensue.saga.journal import Issued, Refusal
from ensue.saga.machine import begun, go_on
from ensue.saga.taking import take


@dataclass(frozen=True)
class Way:
    """What it does, in order."""

    steps: tuple[str, ...]


service = Service("orders", calls=[BookSlot, FreeSlot])
LIMIT: Final = timedelta(minutes=1)


@service.local
def mark(name: str) -> None: ...


@service.local
def unmark(name: str) -> None: ...


@service.outside
async def act(name: str) -> None: ...


@service.outside
async def take_back(name: str) -> None: ...


@service.saga(deadline=timedelta(hours=1))
async def winding(saga: Saga, way: Way) -> str:
    def call(name: str, limit: timedelta | None = LIMIT) -> Any:
        return saga.call(BookSlot(order=name), undo=FreeSlot(order=name), limit=limit)

    for number, step in enumerate(way.steps):
        name = f"{number}-{saga.uuid()}-{saga.random().random()}"
        if step == "local":
            await saga.local(mark, name, undo=unmark)
        elif step == "call":
            await call(name)
        elif step == "several":
            await saga.gather(call(f"{name}a", None), saga.local(mark, name, undo=unmark), call(f"{name}b"))
        elif step == "outside":
            await saga.outside(act, name, undo=take_back, attempts=3)
        elif step == "sleep":
            await saga.sleep(LIMIT)
        elif step == "receive":
            await saga.receive(Paid, limit=LIMIT)
        elif step == "caught":
            try:
                await call(name)
            except Failure as failure:
                await saga.local(mark, f"{name} {failure}", undo=None)
        elif step == "pivot":
            saga.pivot()
    return way.steps[-1]


STEPS: Final = ("local", "call", "several", "outside", "sleep", "receive", "caught", "pivot")
#: What comes for it, of which somebody else decides when. An effect's number belongs to most of it.
Coming = tuple[str, int, int]


class Life:
    """One saga with what it has issued. `now` is that of the transaction, as in the engine."""

    def __init__(self, way: Way) -> None:
        self.code = declared_code(winding)
        self.issued: list[Effect] = []
        self.saga, effects = begun("winding:x", 1, self.code.request.write(way), "x", 0.0, 3600.0)
        self.carry_out(effects)
        self.go_on(0.0)

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for each in effects:
            self.issued.append(each)
            if isinstance(each, SetTimer):
                self.saga.timers[each.number] = f"{len(self.issued)}"
            elif isinstance(each, Send):
                self.saga.sent[f"{each.number}"] = each.number

    def go_on(self, now: float) -> None:
        while True:
            effects = go_on(self.code, self.saga, now)
            self.carry_out(effects)
            steps = [each for each in effects if isinstance(each, RunLocal)]
            if not steps:
                return
            for each in steps:
                self.carry_out(take(self.saga, Answered(each.number), now)[1])

    def comes(self, coming: Coming, now: float) -> None:
        incoming = self.incoming(*coming)
        useful, effects = take(self.saga, incoming, now) if incoming is not None else (False, [])
        self.carry_out(effects)
        if useful:
            self.go_on(now)

    def incoming(self, kind: str, number: int, more: int) -> Any:
        if kind in ("answered", "refused"):
            of = self.saga.sent.pop(f"{number}", None)
            refusal = Refusal.of(CreditShort(available=1)) if kind == "refused" else None
            return None if of is None else Answered(of, failure=refusal)
        if kind == "due":
            return Elapsed(number) if self.saga.timers.get(number) == f"{more}" else None
        if kind in ("came", "failed"):
            refusal = Refusal.of(CreditShort(available=1)) if kind == "failed" else None
            return Answered(number, failure=refusal, attempt=more if refusal else 0)
        paid = Paid(order="o-1", amount=1)
        told = Told(event_type(Paid).type, event_type(Paid).write(paid))
        return {"broke": Broke(number, more, "no answer"), "told": told, "cancel": Cancel(), "retry": Retry()}[kind]

    def may_follow(self, since: int) -> list[Coming]:
        """What may come because of what was issued from there on."""
        found: list[Coming] = []
        for at, each in enumerate(self.issued[since:], since + 1):
            match each:
                case Send(number):
                    found += [("answered", number, 0), ("refused", number, 0)]
                case SetTimer(number):
                    found.append(("due", number, at))
                case RunOutside(number, attempt):
                    found += [(kind, number, attempt) for kind in ("came", "failed", "broke")]
        return found

    def stored(self) -> Instance:
        return instance_of(row_of(self.saga, 1))

    @property
    def outcome(self) -> Any:
        """All but times."""
        saga = self.saga
        journal = [
            each if isinstance(each, Issued) else (each.number, each.data, each.failure) for each in saga.journal
        ]
        return (
            saga.status, saga.waits_for, saga.reason, saga.undos, saga.mailbox, saga.outside, saga.timers, saga.sent,
            journal, [each if not isinstance(each, SetTimer) else each.number for each in self.issued],
        )  # fmt: skip


def lived(way: Way, choices: Sequence[int]) -> tuple[Life, list[tuple[Coming, int]]]:
    """One after the other, read from its row each time. Of what came: with how many before it its cause had come."""
    life, came = Life(way), list[tuple[Coming, int]]()
    open_: list[tuple[Coming, int]] = [((kind, 0, 0), 0) for kind in ("told", "told", "cancel", "retry", "retry")]
    open_ += [(each, 0) for each in life.may_follow(0)]
    for choice in choices:
        if life.saga.status in ENDED or not open_:
            break
        coming, cause = open_.pop(choice % len(open_))
        came.append((coming, cause))
        known = len(life.issued)
        life.saga = life.stored()
        life.comes(coming, float(len(came)))
        open_ += [(each, len(came)) for each in life.may_follow(known)]
    return life, came


@settings(max_examples=150, deadline=None)
@given(
    st.builds(Way, st.lists(st.sampled_from(STEPS), min_size=1, max_size=6).map(tuple)),
    st.lists(st.integers(0, 40), max_size=40),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=20),
)
def test_any_split_into_batches_and_any_crash_gives_the_same(
    way: Way, choices: list[int], batches: list[tuple[int, int]]
) -> None:
    """batches: of how many records one is, and after how many of them it is rolled back first; 0: not."""
    expected, came = lived(way, choices)
    life, done, turn = Life(way), 0, 0
    while done < len(came):
        size, crash = batches[turn % len(batches)]
        turn += 1
        # Nothing comes before what it follows from is committed.
        batch = [each for each, cause in came[done : done + size] if cause <= done]
        batch = batch[: next((at for at, (_, cause) in enumerate(came[done : done + size]) if cause > done), size)]
        before, issued, now = row_of(life.saga, 1), list(life.issued), float(1000 + turn)
        for each in batch[:crash]:
            life.comes(each, now + 0.5)
        life.saga, life.issued = (
            instance_of(before),
            issued,
        )  # the transaction is rolled back, and all of it is done anew
        for each in batch:
            life.comes(each, now)
        life.saga = life.stored()
        done += len(batch)
    assert life.outcome == expected.outcome
