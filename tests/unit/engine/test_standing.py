"""What a checkpoint and its letters mean to who waits for a position: the rule alone, against a simple model."""

from hypothesis import given
from hypothesis import strategies as st

from ensue.engine.standing import Kind, Standing, obstacles_of
from ensue.message import CatchUp, Checkpoint, DeadLetter, DeadLetterState, Gap, Partition

HERE = Partition("views", "letters", 0)
SOURCE = "senders/1"
states = st.sampled_from(DeadLetterState)


def letter(number: int, position: int, state: DeadLetterState, source: str = SOURCE) -> DeadLetter:
    return DeadLetter(HERE, number, source, position, 0, "key", b"{}", b"", state, number=number)


@given(
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(0, 9), states, st.sampled_from([SOURCE, "strangers/1"])), max_size=5),
    st.integers(1, 9),
)
def test_a_position_is_reached_when_the_watermark_is_there_and_no_letter_is_in_the_way(
    watermark: int, set_aside: list[tuple[int, DeadLetterState, str]], position: int
) -> None:
    letters = [letter(number, *each) for number, each in enumerate(set_aside, 1)]
    standing = Standing.of(Checkpoint(watermarks={SOURCE: watermark}), obstacles_of(letters))
    kind, cause = standing.verdict(SOURCE, position)
    mine = [each for each in letters if each.source == SOURCE and 0 < each.position <= position]
    dead = {each.id for each in mine if each.state is DeadLetterState.DEAD}
    open_ = {each.id for each in mine if each.state not in (DeadLetterState.DISCARDED, DeadLetterState.REFUSED)}
    if dead:
        assert kind is Kind.HELD_BACK
        assert cause in dead
    elif watermark < position:
        assert kind is Kind.BEHIND
    elif open_:
        assert kind is Kind.SET_ASIDE
        assert cause in open_
    else:
        assert kind is Kind.REACHED


def test_a_source_that_was_never_seen_is_a_wait_and_not_a_pass() -> None:
    assert Standing.of(Checkpoint(), {}).verdict(SOURCE, 1).kind is Kind.BEHIND
    other = Standing.of(Checkpoint(watermarks={"senders/2": 100}), {})
    assert other.verdict(SOURCE, 1).kind is Kind.BEHIND  # perhaps it begins only


def test_an_epoch_that_has_ended_below_the_position_is_no_wait() -> None:
    after = Checkpoint(watermarks={"senders/1": 40, "senders/2": 41})
    assert Standing.of(after, {}).verdict("senders/1", 45) == (Kind.ENDED, "senders/2")
    assert Standing.of(after, {}).verdict("senders/1", 40).kind is Kind.REACHED
    assert Standing.of(after, {}).verdict("senders/2", 45).kind is Kind.BEHIND
    # Another service, of whatever epoch, says nothing.
    assert Standing.of(Checkpoint(watermarks={"senders/1": 40, "others/2": 41}), {}).verdict("senders/1", 45).kind is (
        Kind.BEHIND
    )


def test_what_an_ended_epoch_sends_again_is_waited_for() -> None:
    gap = Gap("senders/1", 40, 45, 0.0)
    after = Checkpoint(watermarks={"senders/1": 40, "senders/2": 46}, gaps={"senders/1": gap})
    assert Standing.of(after, {}).verdict("senders/1", 45).kind is Kind.BEHIND


def test_an_epoch_that_was_met_late_does_not_end_its_successor() -> None:
    """What the log had of it was lost, and came again after the next epoch's first."""
    late = Checkpoint(watermarks={"senders/2": 46, "senders/1": 45})
    assert Standing.of(late, {}).verdict("senders/2", 50).kind is Kind.BEHIND


def test_what_is_read_again_for_a_new_handler_is_not_seen_before_that() -> None:
    again = CatchUp(("letters.Written.v1",), 3, 9, {SOURCE: 4}, {}, {})
    standing = Standing.of(Checkpoint(watermarks={SOURCE: 9}, catching_up=again), {})
    assert standing.verdict(SOURCE, 4).kind is Kind.REACHED
    assert standing.verdict(SOURCE, 5).kind is Kind.BEHIND
