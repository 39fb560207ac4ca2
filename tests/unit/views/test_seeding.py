"""When a version's rows are enough for another one to begin with."""

from __future__ import annotations

import pytest

from ensue.errors import UsageError
from ensue.message import CatchUp, Checkpoint
from ensue.views.seeding import check_from, check_seedable
from ensue.views.states import Accepted, State, ViewRow, carry

READ = {
    ("t", 0): Checkpoint(revision=1, offset=9, types=("t.A.v1", "t.B.v1"), watermarks={"s/1": 4}),
    ("t", 1): Checkpoint(revision=1),  # nothing is read yet
    ("other", 0): Checkpoint(revision=1, types=("other.C.v1",)),
}


@pytest.mark.parametrize(
    "wanted", [{"t": ["t.A.v1", "t.B.v1"], "other": ["other.C.v1"]}, {"t": ["t.A.v1"]}, {"other": ["other.C.v1"]}]
)
def test_who_reads_no_more_than_the_other_one_did_can_begin_with_its_rows(wanted: dict[str, list[str]]) -> None:
    check_seedable("history@2", 1, READ, wanted, 2)


def test_who_reads_more_cannot() -> None:
    for wanted, partitions, said in (
        ({"new": ["new.D.v1"]}, 2, "has read nothing of topic new"),
        ({"t": ["t.A.v1", "t.A.v2"]}, 2, r"which does not handle t\.A\.v2: its rows have nothing of that"),
        ({"t": ["t.A.v1"]}, 1, "that has read t/1, and topics have 1 partitions here"),
    ):
        with pytest.raises(UsageError, match=said):
            check_seedable("history@2", 1, READ, wanted, partitions)


def test_rows_that_are_of_no_one_position_are_waited_for() -> None:
    again = Checkpoint(revision=1, types=("t.A.v1",), catching_up=CatchUp(("t.A.v1",), 0, 9, {}, {}, {}))
    with pytest.raises(UsageError, match=r"is being read again there .* try again then"):
        check_seedable("history@2", 1, {("t", 0): again}, {"t": ["t.A.v1"]}, 1)


def test_the_other_one_is_asked_or_was_before() -> None:
    row = ViewRow("history", active=3, previous=2, building=4, state=State.BUILDING)
    for number in (2, 3):
        check_from(row, 4, number)
    for number in (1, 4):
        with pytest.raises(UsageError, match="which is not fed; there is 3, 2"):
            check_from(row, 4, number)


def test_what_was_accepted_is_carried_over_once_and_never_lost() -> None:
    first = Accepted(1, "t", 0, "s/1", after=0, through=4, by="the boss", at=1.0)
    other = Accepted(3, "t", 0, "s/1", after=0, through=2, by="me", at=2.0)
    row = ViewRow("history", active=1, building=2, state=State.BUILDING, accepted=(first, other))
    once = carry(1, 2)(row, 9.0)
    assert once.accepted == (first, other, Accepted(2, "t", 0, "s/1", after=0, through=4, by="the boss", at=1.0))
    assert carry(1, 2)(once, 10.0) == once
