"""The rule by which a source believes a subscriber, against a model: never a false alarm, and none left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

import hypothesis.strategies as st
from hypothesis import given, settings

from ensue.codec import encode_envelope
from ensue.engine.ask import ResendRequest
from ensue.engine.witness import disproved
from ensue.message import TICK, WHO, Envelope, Gap, Garbage, Message, OutboxRecord
from ensue.plan import Plan, plan

SOURCE = "orders/1"


@dataclasses.dataclass
class History:
    """What a store has written: for each position from 1 the partition and the message's id. pruned: through which
    position its records are gone."""

    written: list[tuple[int, str]]
    pruned: int = 0

    def chain(self, partition: int) -> list[tuple[int, int, str]]:
        """position, previous and id of a partition's records"""
        found: list[tuple[int, int, str]] = []
        for position, (number, name) in enumerate(self.written, 1):
            if number == partition:
                found.append((position, found[-1][0] if found else 0, name))
        return found

    def says(self, seen: ResendRequest) -> str:
        """As `examine` asks a store."""
        own = None
        if self.pruned < seen.after <= len(self.written):
            number, name = self.written[seen.after - 1]
            own = OutboxRecord("t", number, "", encode_envelope(Envelope(name, "e")), b"", seen.after)
        chain = self.chain(seen.partition)
        return disproved(seen, own, chain[-1][0] if chain else 0)


class Subscriber:
    """Of partition 0. It stores what `plan` says, and may go back to any checkpoint that it had."""

    def __init__(self) -> None:
        self.watermark, self.id = 0, ""
        self.applied: list[str] = []
        self.others: set[str] = set()
        self.checkpoints = [(0, "")]

    def take(self, batch: Sequence[Message | Garbage]) -> Plan:
        gaps: dict[str, Gap] = {}
        todo = plan(batch, {SOURCE: self.watermark}, gaps, {"e"}, (), 1.0, ids={SOURCE: self.id}, others=self.others)
        self.watermark = todo.watermarks.get(SOURCE, self.watermark)
        self.id = todo.ids.get(SOURCE, self.id)
        self.others |= todo.others.keys()
        self.applied += [each.id for each in todo.apply]
        self.checkpoints.append((self.watermark, self.id))
        return todo

    def said(self, *, known: bool) -> ResendRequest:
        return ResendRequest(SOURCE, "t", 0, self.watermark, self.watermark, "s", self.id if known else "")


def record(position: int, previous: int, name: str, kind: str = "e") -> Message:
    return Message("t", 0, 1, "k", SOURCE, position, previous, Envelope(name, kind), b"{}")


def log_of(history: History, chance: Random) -> list[Message | Garbage]:
    """Records and ticks of partition 0, some lost, repeated, late; and the source asks now and then."""
    log: list[Message | Garbage] = []
    for position, previous, name in history.chain(0):
        log += [record(position, previous, name)] * chance.choice([0, 1, 1, 1, 2])
        log += [record(position, position, "tick", TICK)] * chance.choice([0, 1])
        log += [record(0, 0, "who", WHO)] * chance.choice([0, 0, 1])
    for _ in range(chance.randrange(4)):  # what was in the log, or in hand, comes again much later
        if log:
            log.insert(chance.randrange(len(log) + 1), chance.choice(log))
    start = chance.randrange(len(log) + 1)  # and the log is read again from somewhere
    return log + log[start:]


partitions = st.lists(st.integers(0, 1), min_size=1, max_size=25)


def history_of(numbers: Sequence[int], life: str) -> History:
    return History([(number, f"{life}-{position}") for position, number in enumerate(numbers, 1)])


@settings(max_examples=400, deadline=None)
@given(partitions, st.integers(0, 2**32))
def test_a_store_that_never_went_back_is_never_disproved(numbers: list[int], seed: int) -> None:
    """Whatever came late, twice, out of order or again, however often the subscriber itself began anew, went back, or
    had forgotten the message; and whenever the source hears it."""
    chance = Random(seed)
    history = history_of(numbers, "a")
    subscriber, said = Subscriber(), []
    log = log_of(history, chance)
    while log:
        size = chance.randrange(1, 6)
        todo = subscriber.take(log[:size])
        assert not todo.others
        said.append(subscriber.said(known=chance.random() < 0.8))
        log = log[size:]
        if chance.random() < 0.1:  # put back from a copy of its own
            subscriber.watermark, subscriber.id = chance.choice(subscriber.checkpoints)
    chance.shuffle(said)
    later = History([*history.written, (0, "a-later")], pruned=chance.randrange(len(numbers) + 1))
    for each in said:
        if each.after:
            assert later.says(each) == ""


@settings(max_examples=400, deadline=None)
@given(partitions, st.data(), st.integers(0, 2**32))
def test_a_store_that_went_back_behind_what_was_applied_is_disproved(
    numbers: list[int], data: st.DataObject, seed: int
) -> None:
    chance = Random(seed)
    old = history_of(numbers, "old")
    kept = data.draw(st.integers(0, len(numbers)))
    anew = data.draw(st.lists(st.integers(0, 1), max_size=25))
    new = History([*old.written[:kept], *((number, f"new-{at}") for at, number in enumerate(anew, kept + 1))])
    new.pruned = data.draw(st.integers(0, kept))
    subscriber = Subscriber()
    for position, previous, name in old.chain(0):
        subscriber.take([record(position, previous, name)])
        if position <= kept:
            assert new.says(subscriber.said(known=True)) == ""
        else:
            assert new.says(subscriber.said(known=True)) != ""
    # By its position alone, as long as the store has written less.
    head = new.chain(0)[-1][0] if new.chain(0) else 0
    if subscriber.watermark > max(head, kept, len(new.written)):
        assert new.says(subscriber.said(known=False)) != ""
    # In the log, the new life's record at the watermark is enough for the subscriber to apply nothing more of it.
    before = list(subscriber.applied)
    chain = new.chain(0)
    if subscriber.watermark > kept and any(position == subscriber.watermark for position, _, _ in chain):
        log: list[Message | Garbage] = [record(*each) for each in chain]
        while log:
            size = chance.randrange(1, 6)
            subscriber.take(log[:size])
            log = log[size:]
        assert subscriber.applied == before
        assert subscriber.others == {SOURCE}


def test_ticks_that_lie_below_the_watermark_are_a_doubt_until_one_does_not() -> None:
    subscriber = Subscriber()
    subscriber.take([record(1, 0, "a"), record(2, 1, "b")])
    assert subscriber.take([record(2, 2, "tick", TICK), record(1, 1, "tick", TICK)]).doubts == {SOURCE: 1}
    assert subscriber.take([record(1, 1, "tick", TICK), record(2, 2, "tick", TICK)]).doubts == {SOURCE: None}


def test_a_question_is_no_message_and_no_duplicate() -> None:
    todo = Subscriber().take([record(0, 0, "who", WHO)])
    assert (todo.asked, todo.apply, todo.foreign, todo.unknown) == ({SOURCE}, [], 0, 0)
