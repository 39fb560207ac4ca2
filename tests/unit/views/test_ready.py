"""When a version may take over, and what is said when it may not."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from ensue.message import Bounds, CatchUp, Checkpoint, DeadLetter, DeadLetterState, Gap, GapState, Partition
from ensue.views.progress import Progress, progress
from ensue.views.ready import Kind, Obstacle, Standing, obstacles, without
from ensue.views.states import Accepted

AT = ("orders", 0)


def checkpoint(
    watermarks: Mapping[str, int], *, offset: int = 10, gaps: Mapping[str, Gap] = {}, revision: int = 1
) -> Checkpoint:
    return Checkpoint(offset=offset, revision=revision, watermarks=dict(watermarks), gaps=dict(gaps))


def judged(active: Checkpoint | None, other: Checkpoint, accepted: tuple[Accepted, ...] = ()) -> list[Obstacle]:
    known = None if active is None else Standing({AT: active})
    return obstacles(known, Standing({AT: other}), [AT], {AT: 10}, accepted)


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
)
def test_it_is_ready_exactly_when_no_source_is_behind_or_unseen(active: dict[str, int], other: dict[str, int]) -> None:
    found = judged(checkpoint(active), checkpoint(other))
    wrong = {source for source, watermark in active.items() if other.get(source, 0) < watermark}
    assert {each.source for each in found} == wrong
    for each in found:
        assert each.kind is (Kind.BEHIND if each.source in other else Kind.INCOMPLETE)


def test_what_is_not_read_yet_is_behind_and_not_incomplete() -> None:
    [found] = judged(checkpoint({"a": 5}, offset=9), checkpoint({}, offset=4))
    assert (found.kind, found.after, found.through) == (Kind.BEHIND, 0, 5)
    [found] = judged(checkpoint({"a": 5}), checkpoint({}, revision=0, offset=0))
    assert found.kind is Kind.BEHIND
    assert "nothing of it is read" in found.text


def test_a_partition_that_the_active_one_does_not_read_is_read_to_the_end_of_the_log() -> None:
    [found] = judged(None, checkpoint({"a": 9}, offset=9))
    assert (found.kind, found.through) == (Kind.BEHIND, 10)
    assert judged(None, checkpoint({"a": 10})) == []


def test_a_gap_a_letter_and_what_is_read_again_are_in_the_way() -> None:
    lost = Gap("a", 0, 9, 1.0, GapState.LOST, 7, 3, 7)
    [found] = judged(checkpoint({"a": 9}), checkpoint({}, gaps={"a": lost}))
    assert (found.kind, found.after, found.through, found.final) == (Kind.INCOMPLETE, 0, 7, True)
    open_ = Gap("a", 2, 9, 1.0, GapState.OPEN, 0, 3, 5)
    [found] = judged(checkpoint({"a": 9}), checkpoint({"a": 2}, gaps={"a": open_}))
    assert (found.kind, found.after, found.through, found.final) == (Kind.INCOMPLETE, 2, 5, False)

    again = checkpoint({"a": 9})
    again.catching_up = CatchUp(("x",), 0, 9, {}, {}, {})
    [found] = judged(checkpoint({"a": 9}), again)
    assert found.kind is Kind.BEHIND

    letter = DeadLetter(Partition("h@2", *AT), 1, "a", 1, 0, "k", b"{}", b"", DeadLetterState.DEAD, number=4)
    [found] = obstacles(None, Standing({AT: checkpoint({})}, [letter]), [AT], {})
    assert (found.kind, found.final) == (Kind.LETTER, True)
    assert letter.id in found.text


def test_what_was_accepted_is_no_obstacle_any_more() -> None:
    active, other = checkpoint({"a": 9, "b": 3}), checkpoint({"a": 9})
    [found] = judged(active, other)
    accepted = Accepted(2, *AT, found.source, found.after, found.through, "me", 1.0)
    assert judged(active, other, (accepted,)) == []
    assert judged(active, without(other, "b", 3)) == []


def test_behind_a_hole_that_is_accepted_the_chain_goes_on_where_it_was_held() -> None:
    gap = Gap("a", 0, 9, 1.0, GapState.LOST, 7, 3, 7)
    found = without(checkpoint({"z": 1}, gaps={"a": gap}), "a", 7)
    assert found.watermarks == {"z": 1, "a": 7}
    assert found.gaps == {"a": Gap("a", 7, 9, 1.0, GapState.OPEN, 0, 3, 7)}
    assert without(checkpoint({}, gaps={"a": gap}), "a", 9).gaps == {}


def test_progress_counts_what_is_in_the_log() -> None:
    bounds = {AT: Bounds(5, 14), ("orders", 1): Bounds(1, 0)}
    at = {AT: checkpoint({}, offset=9)}
    assert progress(at, bounds, [AT, ("orders", 1), ("orders", 2)]) == Progress(5, 10)
    assert progress({}, bounds, [AT]).share == 0.0
    assert Progress(0, 0).share == 1.0
