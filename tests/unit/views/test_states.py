"""A view's row against a model that is too simple to be wrong: three names for numbers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.errors import UsageError
from ensue.views import states
from ensue.views.states import NEXT, Action, State, ViewRow

VERSIONS = st.integers(1, 4)
STEPS = st.one_of(
    *(st.tuples(st.just(each), VERSIONS) for each in ("begin", "swap", "drop")),
    *(st.tuples(st.just(each), st.just(0)) for each in ("pause", "resume", "rollback")),
)


def rule(name: str, version: int) -> states.Rule:
    return {
        "begin": states.begin(version, "me"),
        "swap": states.swap(version, "me"),
        "drop": states.drop(version, "me"),
        "pause": states.pause("me"),
        "resume": states.resume("me"),
        "rollback": states.rollback("me"),
    }[name]


class Model:
    """Which version has which part; None: it is refused."""

    def __init__(self) -> None:
        self.active = self.previous = self.building = 0
        self.paused = False

    def take(self, name: str, version: int) -> bool:
        fed = {self.active, self.previous, self.building} - {0}
        if name == "begin" and version not in fed and not self.active:
            self.active = version
        elif name == "begin" and version not in fed and not self.building:
            self.building = version
        elif name == "swap" and self.building == version and not self.paused and not self.previous:
            self.active, self.previous, self.building = version, self.active, 0
        elif name == "rollback" and self.previous:
            self.active, self.previous = self.previous, self.active
        elif name == "pause" and self.building and not self.paused:
            self.paused = True
        elif name == "resume" and self.building:
            self.paused = False
        elif name == "drop" and version not in fed:
            pass
        elif name == "drop" and version == self.building:
            self.building, self.paused = 0, False
        elif name == "drop" and version == self.previous:
            self.previous = 0
        else:
            return False
        return True


@given(st.lists(STEPS, max_size=40))
def test_a_row_is_as_the_model_whatever_is_asked(steps: list[tuple[str, int]]) -> None:
    row, model = ViewRow("history"), Model()
    for name, version in steps:
        try:
            row, done = rule(name, version)(row, 1.0), True
        except UsageError:
            done = False
        assert done == model.take(name, version), (name, version, row)
        assert (row.active, row.previous, row.building) == (model.active, model.previous, model.building)
        assert len(set(row.fed)) == len(row.fed)  # no version has two parts
        assert (row.state is State.NEW) == (not row.active)
        assert (row.state is State.PAUSED) == model.paused
        assert (row.state in (State.BUILDING, State.PAUSED)) == bool(row.building)


@given(st.lists(STEPS, max_size=20), STEPS)
def test_what_is_active_changes_by_begin_swap_and_rollback_alone(
    steps: list[tuple[str, int]], last: tuple[str, int]
) -> None:
    row = ViewRow("history")
    for each in (*steps, last):
        before = row
        try:
            row = rule(*each)(row, 1.0)
        except UsageError:
            continue
        if row.active != before.active:
            assert each[0] in ("swap", "rollback") or before.state is State.NEW
            assert before.active in (*row.fed, 0)  # whoever was asked is still fed


def test_every_line_of_the_table_is_reached_and_each_refusal_says_how_it_stands() -> None:
    live = states.begin(1, "me")(ViewRow("history"), 1.0)
    building = states.begin(2, "me", 5.0)(live, 2.0)
    swapped = states.swap(2, "you")(building, 3.0)
    assert (swapped.swapped_at, swapped.by, swapped.rate) == (3.0, "you", 0.0)
    assert {state for state, _ in NEXT} == set(State)
    assert {action for _, action in NEXT} == set(Action)
    with pytest.raises(UsageError, match=r"view history is live \(active 2, previous 1\): swap: version 3 is not"):
        states.swap(3, "me")(swapped, 4.0)
    with pytest.raises(UsageError, match="version 2 is active: swap to another one"):
        states.drop(2, "me")(swapped, 4.0)
    with pytest.raises(UsageError, match="drop it first"):
        states.swap(3, "me")(states.begin(3, "me")(swapped, 4.0), 5.0)
    with pytest.raises(UsageError, match="possible when it is building"):
        states.pause("me")(swapped, 4.0)
    with pytest.raises(UsageError, match="events per second"):
        states.begin(3, "me", -1.0)(swapped, 4.0)


def test_what_was_accepted_is_kept_through_all_that_follows() -> None:
    missing = states.Accepted(2, "orders", 0, "orders/a", 0, 7, "me", 1.0)
    row = states.begin(2, "me")(states.begin(1, "me")(ViewRow("history"), 1.0), 1.0)
    row = states.accept((missing,))(row, 1.0)
    for each in (states.swap(2, "me"), states.drop(1, "me"), states.begin(3, "me"), states.swap(3, "me")):
        row = each(row, 2.0)
        assert row.accepted_of(2) == (missing,)
    assert msgspec.json.decode(msgspec.json.encode(row), type=ViewRow) == row


def test_a_swap_that_is_refused_says_what_to_do_instead() -> None:
    row = ViewRow("accounts", active=2, previous=1, state=State.LIVE)
    for version, said in ((2, "is active already"), (1, "`ensue views rollback`"), (3, "`ensue views rebuild`")):
        with pytest.raises(UsageError, match=f"version {version} .*{said}"):
            states.swap(version, "me")(row, 0.0)
