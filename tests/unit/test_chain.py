"""The rules of order against a model: whatever the log does, each record is applied once and in order."""

from __future__ import annotations

import zlib

import hypothesis.strategies as st
from hypothesis import given, settings

from ensue.chain import Verdict, judge, partition_of
from ensue.message import LOST, TICK, Envelope, Gap, GapState, Garbage, Message
from ensue.plan import STRANGERS_MAX, Plan, Queue, plan

SOURCES = ("orders/1", "customers/1")


def record(source: str, position: int, previous: int, offset: int, kind: str = "t", key: str = "k") -> Message:
    return Message("topic", 0, offset, key, source, position, previous, Envelope(f"{source}-{position}", kind), b"{}")


class Sender:
    """The model of a source: the positions it gave to this partition (others went elsewhere, so there are holes)."""

    def __init__(self, name: str, positions: list[int]) -> None:
        self.name = name
        self.chain = list(zip(positions, [0, *positions], strict=False))

    def after(self, watermark: int) -> list[tuple[int, int]]:
        return [(position, previous) for position, previous in self.chain if position > watermark]


class Subscriber:
    """The model of a consumer: it asks `plan` and stores what it says."""

    def __init__(self) -> None:
        self.watermarks: dict[str, int] = {}
        self.gaps: dict[str, Gap] = {}
        self.ids: dict[str, str] = {}
        self.applied: dict[str, list[int]] = {name: [] for name in SOURCES}
        self.began_at = 200.0

    def take(self, batch: list[Message | Garbage], blocked: tuple[Queue, ...] = ()) -> Plan:
        todo = plan(batch, self.watermarks, self.gaps, {"t"}, blocked, 1.0, self.began_at, ids=self.ids)
        self.watermarks.update(todo.watermarks)
        self.ids.update(todo.ids)
        for source, gap in todo.gaps.items():
            if gap is None:
                self.gaps.pop(source, None)
            else:
                self.gaps[source] = gap
        for message in todo.apply:
            self.applied.setdefault(message.source, []).append(message.position)
        return todo


positions = st.lists(st.integers(1, 60), max_size=12, unique=True).map(sorted)


@st.composite
def disturbed_logs(draw: st.DrawFn) -> tuple[dict[str, Sender], list[Message | Garbage]]:
    """Two senders' records in one partition: interleaved, some lost, some repeated, some swapped, garbage between."""
    senders = {name: Sender(name, draw(positions)) for name in SOURCES}
    log: list[tuple[str, int, int]] = []
    for sender in senders.values():
        for position, previous in sender.chain:
            log += [(sender.name, position, previous)] * draw(st.sampled_from([0, 1, 1, 1, 2]))
    if draw(st.booleans()):
        log = draw(st.permutations(log))
    else:  # order within each source kept, sources interleaved
        log = sorted(log, key=lambda each: (each[1], each[0]))
    records: list[Message | Garbage] = [record(*each, offset) for offset, each in enumerate(log, 1)]
    for place in draw(st.lists(st.integers(0, len(records)), max_size=2)):
        records.insert(place, Garbage("topic", 0, 0, "", "not an envelope", b"\xff"))
    return senders, records


@settings(max_examples=400, deadline=None)
@given(disturbed_logs(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_any_loss_repetition_and_order_ends_with_each_record_applied_once_in_order(
    case: tuple[dict[str, Sender], list[Message | Garbage]], batch_size: int, random: object
) -> None:
    senders, log = case
    subscriber = Subscriber()
    for start in range(0, len(log), batch_size):
        subscriber.take(log[start : start + batch_size])
    # Ticks of the quiet sources, then what the relay sends again for each gap, until none is open.
    for _ in range(60):
        ticks: list[Message | Garbage] = [
            record(name, sender.chain[-1][0], sender.chain[-1][0], 1, kind=TICK)
            for name, sender in senders.items()
            if sender.chain
        ]
        subscriber.take(ticks)
        if not subscriber.gaps:
            break
        for name, gap in list(subscriber.gaps.items()):
            again = senders[name].after(gap.watermark)
            lost_once = again[random.randrange(len(again) + 1) :] if random.random() < 0.3 else again  # type: ignore[attr-defined]
            subscriber.take([record(name, *each, offset=1) for each in lost_once])
    assert not subscriber.gaps
    for name, sender in senders.items():
        assert subscriber.applied[name] == [position for position, _ in sender.chain]


@given(disturbed_logs(), st.integers(1, 7))
def test_at_no_moment_is_a_record_applied_twice_or_before_its_predecessor(
    case: tuple[dict[str, Sender], list[Message | Garbage]], batch_size: int
) -> None:
    senders, log = case
    subscriber = Subscriber()
    for start in range(0, len(log), batch_size):
        subscriber.take(log[start : start + batch_size])
        for name, sender in senders.items():
            chain = [position for position, _ in sender.chain]
            assert subscriber.applied[name] == chain[: len(subscriber.applied[name])]


@given(disturbed_logs())
def test_the_plan_does_not_depend_on_how_the_log_is_cut_into_batches(
    case: tuple[dict[str, Sender], list[Message | Garbage]],
) -> None:
    _, log = case
    one, many = Subscriber(), Subscriber()
    one.take(log)
    for each in log:
        many.take([each])
    assert (one.watermarks, one.applied) == (many.watermarks, many.applied)
    assert {name: gap.needed for name, gap in one.gaps.items()} == {name: gap.needed for name, gap in many.gaps.items()}


def test_the_bare_watermark_would_lose_a_record_and_the_chain_does_not() -> None:
    """Decision 2: 7, 8, 9 are in flight, 7 fails, 8 and 9 land, the relay sends 7, 8, 9 again."""
    subscriber = Subscriber()
    subscriber.watermarks["orders/1"] = 6
    subscriber.take([record("orders/1", 8, 7, 1), record("orders/1", 9, 8, 2)])
    assert subscriber.applied["orders/1"] == []
    assert subscriber.gaps["orders/1"].watermark == 6
    todo = subscriber.take([record("orders/1", 7, 6, 3), record("orders/1", 8, 7, 4), record("orders/1", 9, 8, 5)])
    assert subscriber.applied["orders/1"] == [7, 8, 9]
    assert todo.gaps_healed == 1
    assert not subscriber.gaps


def test_a_gap_of_one_source_does_not_hold_the_other() -> None:
    subscriber = Subscriber()
    todo = subscriber.take([record("orders/1", 5, 4, 1), record("customers/1", 1, 0, 2)])
    assert subscriber.applied == {"orders/1": [], "customers/1": [1]}
    assert todo.held == 1


def test_a_lost_last_record_shows_at_the_next_tick() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 1, 0, 1)])
    assert not subscriber.take([record("orders/1", 1, 1, 2, kind=TICK)]).gaps
    todo = subscriber.take([record("orders/1", 2, 2, 3, kind=TICK)])
    assert todo.gaps["orders/1"] == Gap("orders/1", 1, 2, 1.0, held_offset=3, held_previous=2)


#: What is lost was written before this time; a subscription that began later is not owed it.
PRUNED_BEFORE = 100.0


def lost(after: int, through: int) -> Message:
    data = b'{"after":%d,"through":%d,"before":%f}' % (after, through, PRUNED_BEFORE)
    return Message("topic", 0, 9, "", "orders/1", through, through, Envelope("x", LOST), data)


def test_what_the_outbox_no_longer_has_is_an_alarm_and_nothing_after_it_is_applied() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 1, 0, 1), record("orders/1", 4, 3, 2)])
    subscriber.take([lost(1, 3), record("orders/1", 4, 3, 4)])
    gap = subscriber.gaps["orders/1"]
    assert (gap.state, gap.lost_through, gap.watermark) == (GapState.LOST, 3, 1)
    assert subscriber.applied["orders/1"] == [1]


def test_a_loss_before_the_subscription_existed_is_accepted_and_said() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 4, 3, 1)])
    todo = subscriber.take([lost(0, 3), record("orders/1", 4, 3, 3)])
    assert todo.lost == {"orders/1": 3}
    assert subscriber.applied["orders/1"] == [4]
    assert not subscriber.gaps


def test_a_loss_that_an_old_subscription_meets_at_first_contact_is_an_alarm() -> None:
    """It was subscribed when those records were written, and was down for longer than they were kept."""
    subscriber = Subscriber()
    subscriber.began_at = PRUNED_BEFORE - 1
    subscriber.take([record("orders/1", 4, 3, 1)])
    todo = subscriber.take([lost(0, 3), record("orders/1", 4, 3, 3)])
    assert (todo.lost, subscriber.applied["orders/1"]) == ({}, [])
    assert subscriber.gaps["orders/1"].state is GapState.LOST


def test_what_the_log_still_has_is_not_lost_with_the_outbox() -> None:
    """The outbox was pruned further than the log: only what lies before the first record held back is given up."""
    subscriber = Subscriber()
    log: list[Message | Garbage] = [record("orders/1", position, position - 1, position) for position in range(3, 11)]
    subscriber.take(log)
    todo = subscriber.take([lost(0, 7)])
    assert todo.lost == {"orders/1": 2}
    assert todo.rewind == 2  # the record held back first is at offset 3
    subscriber.take(log)
    assert subscriber.applied["orders/1"] == list(range(3, 11))
    assert not subscriber.gaps


def test_an_old_subscription_gives_up_no_more_than_the_log_has_lost_too() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 1, 0, 1), record("orders/1", 4, 3, 2), record("orders/1", 5, 4, 3)])
    subscriber.take([lost(1, 4)])
    gap = subscriber.gaps["orders/1"]
    assert (gap.state, gap.lost_through, gap.held_offset) == (GapState.LOST, 3, 2)


def test_records_held_back_out_of_order_are_all_still_there() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 9, 8, 10), record("orders/1", 5, 4, 11)])
    gap = subscriber.gaps["orders/1"]
    assert (gap.held_offset, gap.held_previous) == (10, 4)


def test_a_notice_of_somebody_elses_loss_changes_nothing() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 1, 0, 1)])
    assert not subscriber.take([lost(0, 3)]).has_effect


def test_a_message_of_a_blocked_key_waits_and_the_watermark_goes_on() -> None:
    subscriber = Subscriber()
    batch: list[Message | Garbage] = [record("orders/1", 1, 0, 1, key="a"), record("orders/1", 2, 1, 2, key="b")]
    todo = subscriber.take(batch, blocked=(("orders/1", "a", True, False),))
    assert [each.key for each in todo.waiting] == ["a"]
    assert [each.key for each in todo.apply] == ["b"]
    assert subscriber.watermarks == {"orders/1": 2}


def test_a_message_without_a_chain_holds_back_none_with_one_and_the_reverse() -> None:
    subscriber = Subscriber()
    batch: list[Message | Garbage] = [record("orders/1", 0, 0, 1, key="a"), record("orders/1", 1, 0, 2, key="a")]
    todo = subscriber.take(batch, blocked=(("orders/1", "a", False, False),))
    assert ([each.position for each in todo.waiting], [each.position for each in todo.apply]) == ([0], [1])
    todo = Subscriber().take(batch, blocked=(("orders/1", "a", True, False),))
    assert ([each.position for each in todo.waiting], [each.position for each in todo.apply]) == ([1], [0])


def test_what_passes_over_an_applied_record_is_no_record_of_the_chain() -> None:
    subscriber = Subscriber()
    subscriber.take([record("orders/1", 1, 0, 1), record("orders/1", 5, 1, 2)])
    [forged] = subscriber.take([record("orders/1", 10**15, 0, 3), record("orders/1", 6, 5, 4)]).garbage
    assert isinstance(forged, Garbage)
    assert "follows on 0, but 5 (message orders/1-5) was applied" in forged.reason
    assert subscriber.watermarks == {"orders/1": 6}
    del subscriber.ids["orders/1"]  # as after an accepted loss
    assert not subscriber.take([record("orders/1", 7, 5, 5)]).garbage


def test_sources_that_somebody_invents_take_no_more_room_than_there_is_and_lock_nobody_out() -> None:
    subscriber = Subscriber()
    subscriber.take([record("known/1", 1, 0, 1), record("known/1", 3, 2, 2)])
    for batch in range(20):
        todo = subscriber.take([record(f"ghost-{batch}-{each}/1", 10, 9, 3) for each in range(37)])
        assert len(subscriber.gaps) <= STRANGERS_MAX + 1
    assert len(todo.dropped) == 37
    assert "known/1" in subscriber.gaps, "it has a chain here"
    subscriber.take([record("orders/1", 5, 4, 50)])
    assert "orders/1" in subscriber.gaps, "and so has one that is new"
    subscriber.take([record(f"ghost-{each}/2", 10, 9, 51) for each in range(200)])
    assert "orders/1" not in subscriber.gaps
    subscriber.take([record("orders/1", 4, 0, 52), record("orders/1", 5, 4, 53)])
    assert subscriber.applied["orders/1"] == [4, 5], "the answer comes all the same"
    assert subscriber.watermarks["orders/1"] == 5


def test_a_tick_whose_two_numbers_differ_is_none() -> None:
    subscriber = Subscriber()
    assert len(subscriber.take([record("orders/1", 10**15, 0, 1, kind=TICK)]).garbage) == 1
    assert subscriber.watermarks == {}
    assert subscriber.take([record("orders/1", 7, 7, 2, kind=TICK)]).gaps_seen == 1


def test_an_unknown_type_is_counted_and_passed_over() -> None:
    todo = Subscriber().take([record("orders/1", 1, 0, 1, kind="t.v2")])
    assert (todo.unknown, todo.apply, todo.watermarks) == (1, [], {"orders/1": 1})


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_verdicts_are_exclusive_and_a_tick_is_never_applied(watermark: int, previous: int, position: int) -> None:
    verdict = judge(watermark, min(previous, position), position)
    assert (verdict is Verdict.SKIP) == (position <= watermark)
    assert judge(watermark, position, position) is not Verdict.APPLY


@given(st.text(), st.integers(1, 4096))
def test_a_key_stays_in_its_partition(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == zlib.crc32(key.encode("utf-8")) % partitions
