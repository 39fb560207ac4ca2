"""A saga against a model: in whichever order things are answered, and however often its row is read anew, it asks for
the same, and what it has undone is what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.saga.shop import BookSlot, CreditShort, FreeSlot

from ensue import Command, Service
from ensue.event import declared_as
from ensue.saga.code import declared_code
from ensue.saga.effects import CancelTimer, Effect, RunLocal, Send, SetTimer
from ensue.saga.incoming import Answered, Cancel, Elapsed
from ensue.saga.instance import ENDED, Instance, Status, instance_of, row_of
from ensue.saga.journal import Refusal
from ensue.saga.machine import begun, go_on
from ensue.saga.saga import Saga
from ensue.saga.taking import take


class Ask(Command[None], service="kitchen", key="name"):
    name: str


class Unask(Command[None], service="kitchen", key="name"):
    name: str


@dataclass(frozen=True)
class Plan:
    """rounds: of each, how many calls are awaited together. pivot: before this round."""

    rounds: tuple[int, ...]
    pivot: int


service = Service("orders", calls=[Ask, Unask, BookSlot, FreeSlot])


@service.local
def mark(name: str) -> None: ...


@service.local
def unmark(name: str) -> None: ...


@service.saga
async def planned(saga: Saga, plan: Plan) -> None:
    for number, width in enumerate(plan.rounds):
        if number == plan.pivot:
            saga.pivot()
        await saga.local(mark, f"{number}", undo=saga.local(unmark, f"{number}"))
        await saga.gather(
            *(
                saga.call(Ask(name=f"{number}.{each}"), undo=Unask(name=f"{number}.{each}"), limit=timedelta(minutes=1))
                for each in range(width)
            )
        )


class Engine:
    """Does at once what has to be done at once, and lets the test choose the order of everything else.

    happened: what the participants have done, in order. wire: what is on its way: commands, their answers, timers.
    """

    def __init__(self, plan: Plan, refused: frozenset[str]) -> None:
        self.code = declared_code(planned)
        self.refused = refused
        self.happened: list[str] = []
        self.issued: list[str] = []
        self.wire: list[tuple[str, Any]] = []
        self.timers: set[int] = set()
        self.now = 0.0
        self.saga, effects = begun("planned:x", 1, self.code.request.write(plan), "x", 0.0, 0.0)
        self.carry_out(effects)
        self.go_on()

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for each in effects:
            match each:
                case RunLocal(number, name, data):
                    text = f"{name} {self.text(data)}"
                    self.happened.append(text)
                    self.issued.append(text)
                    self.take(Answered(number))
                case Send(number, kind, _, _, data):
                    text = f"{declared_as(kind).name} {declared_as(kind).read(data).name}"
                    self.issued.append(text)
                    self.saga.sent[str(number)] = number
                    self.wire.append((text, number))
                case SetTimer(number):
                    self.timers.add(number)
                    self.saga.timers[number] = str(number)
                case CancelTimer(name):
                    self.timers.discard(int(name))

    @staticmethod
    def text(data: bytes) -> str:
        return data.decode().split('"')[3]

    def take(self, incoming: Any) -> None:
        self.now += 1
        _, effects = take(self.saga, incoming, self.now)
        self.carry_out(effects)

    def go_on(self) -> None:
        while True:
            self.saga = self.stored()
            effects = go_on(self.code, self.saga, self.now)
            self.carry_out(effects)
            if not any(isinstance(each, RunLocal) for each in effects):
                return

    def stored(self) -> Instance:
        return instance_of(row_of(self.saga, 1))

    def step(self, choice: int) -> bool:
        """One thing happens. Undo commands of one key lie behind their commands, as in a partition."""
        ready: list[tuple[str, Any]] = [
            ("wire", each)
            for at, each in enumerate(self.wire)
            if not any(other[0].split()[1] == each[0].split()[1] for other in self.wire[:at])
        ] + [("timer", each) for each in sorted(self.timers)]
        if not ready:
            return False
        kind, found = ready[choice % len(ready)]
        if kind == "timer":
            self.timers.discard(found)
            self.take(Elapsed(found))
        else:
            self.wire.remove(found)
            text, number = found
            verb, name = text.split()
            fails = verb == "Ask" and name in self.refused
            if not fails:
                self.happened.append(text)
            if self.saga.sent.pop(str(number), None) is not None:
                self.take(Answered(number, failure=Refusal.of(CreditShort(available=0)) if fails else None))
        self.go_on()
        return True


plans = st.builds(Plan, st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), st.integers(0, 4))
names = st.builds("{}.{}".format, st.integers(0, 2), st.integers(0, 2))


def forward(plan: Plan) -> list[str]:
    found = []
    for number, width in enumerate(plan.rounds):
        found += [f"mark {number}", *(f"Ask {number}.{each}" for each in range(width))]
    return found


@settings(max_examples=100, deadline=None)
@given(plans, st.frozensets(names, max_size=2), st.lists(st.integers(0, 9), max_size=60), st.booleans())
def test_in_any_order_it_asks_for_the_same_and_undoes_what_was_done(
    plan: Plan, refused: frozenset[str], choices: list[int], late: bool
) -> None:
    engine = Engine(plan, refused)
    for choice in [*choices, *[0] * 200]:
        if not engine.step(choice if late else 0):  # 0: answers come before time limits are reached
            break
    asked = [each for each in engine.issued if each.split()[0] in ("mark", "Ask")]
    assert asked == forward(plan)[: len(asked)], "in the order of the code, whatever the order of the answers"
    done = [each for each in engine.happened if each.split()[0] in ("mark", "Ask")]
    undone = [each for each in engine.happened if each.split()[0] in ("unmark", "Unask")]
    if engine.saga.status is Status.UNDONE:
        assert {each.split()[1] for each in done} <= {each.split()[1] for each in undone}
        assert len(undone) == len(set(undone)), "nothing is undone twice"
        for each in undone:  # undo never comes before do
            verb = {"unmark": "mark", "Unask": "Ask"}[each.split()[0]]
            if (do := f"{verb} {each.split()[1]}") in engine.happened:
                assert engine.happened.index(do) < engine.happened.index(each)
    elif engine.saga.status is Status.COMPLETED:
        assert asked == forward(plan)
        assert undone == []
    else:
        assert engine.saga.status is Status.PARKED
        assert engine.saga.pivoted, "nothing else parks this one"
    if engine.saga.status in ENDED:
        assert engine.timers == set()


@settings(max_examples=100, deadline=None)
@given(plans, st.integers(0, 20), st.lists(st.integers(0, 9), max_size=60))
def test_cancelled_anywhere_it_is_undone_or_completes(plan: Plan, at: int, choices: list[int]) -> None:
    engine = Engine(plan, frozenset())
    for number, choice in enumerate([*choices, *[0] * 200]):
        if number == at:
            engine.take(Cancel())
            engine.go_on()
        if not engine.wire or not engine.step(choice % len(engine.wire)):
            break
    assert engine.saga.status in (*ENDED, Status.RUNNING)
    if engine.saga.status is Status.UNDONE:
        marks = {each.split()[1] for each in engine.happened if each.startswith(("mark", "Ask"))}
        undone = [each.split()[1] for each in engine.happened if each.startswith(("unmark", "Unask"))]
        assert marks <= set(undone)
        assert len(undone) == len(set(undone))
