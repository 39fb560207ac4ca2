"""Which records of a batch are applied, skipped, held back or set aside. A pure rule over values.

The consumer reads a batch, asks `plan`, and stores what it says; so every ordering, duplicate and loss can be tried
here without a database. See `chain.judge` for the rule of one record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import msgspec

from ensue.chain import Verdict, judge
from ensue.codec import POSITION_MAX, decode_envelope, garbage
from ensue.errors import BadMessage
from ensue.message import LOST, TICK, TOLD, WHO, CatchUp, DeadLetter, Flaw, Gap, GapState, Garbage, Message

#: Of a subscription that knows no messages by name.
NO_IDS: Mapping[str, str] = MappingProxyType({})

#: So many gaps of sources of which nothing was applied yet are kept at once in a partition. A further one takes the
#: place of the oldest: that source is still applied when its records come, and its next one shows the gap again.
STRANGERS_MAX = 100

Position = Annotated[int, msgspec.Meta(ge=0, le=POSITION_MAX)]


class LostNotice(msgspec.Struct, frozen=True):
    """Data of a LOST record: the source's outbox no longer has the positions (after, through] of this partition.

    before: all of them were written before this time, seconds since the epoch.
    """

    after: Position
    through: Position
    before: float


@dataclasses.dataclass(slots=True)
class Plan:
    """What to do with one batch, in log order.

    apply: to hand to handlers. waiting: of keys that a dead letter holds back. garbage: not messages at all.
    refused: what its source did not sign. damaged: how many were not whole, which come again.
    foreign: those of `apply` and `waiting` without a chain, to be claimed in the inbox by (source, id).
    watermarks: per source, only where it moves. gaps: per source, the state after this batch where it changed
    (None: healed, or dropped). dropped: those of `gaps` that made room, see `STRANGERS_MAX`. ids: per source whose
    watermark moves, the id of the message there; empty: not known. asked: sources
    that want to know how much of them was applied. doubts: per source, the position of its last tick when that lies
    below the watermark: its database went back, or the tick is an old one; None: it does not. behind: per source, the
    position of its last record, where that lies below the watermark: a duplicate, or the watermark is wrong. others:
    sources that have another message at the watermark's position than was applied, which is another life's: source ->
    its id; nothing more of them is applied. lost: first contacts whose history is gone, accepted by rule: source ->
    position.
    rewind: read on after this offset instead of `offset`: records held back are still in the log (-1: no).
    catches_up: the log is read again for types that were passed over, see `catch_up.py`; catching_up: how far that is
    then (None: it is over); ends: the rest of the batch is not part of it.
    """

    apply: list[Message] = dataclasses.field(default_factory=list)
    waiting: list[Message] = dataclasses.field(default_factory=list)
    garbage: list[Garbage] = dataclasses.field(default_factory=list)
    refused: list[Garbage] = dataclasses.field(default_factory=list)
    foreign: int = 0
    watermarks: dict[str, int] = dataclasses.field(default_factory=dict)
    gaps: dict[str, Gap | None] = dataclasses.field(default_factory=dict)
    ids: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: set[str] = dataclasses.field(default_factory=set)
    dropped: set[str] = dataclasses.field(default_factory=set)
    doubts: dict[str, int | None] = dataclasses.field(default_factory=dict)
    behind: dict[str, int] = dataclasses.field(default_factory=dict)
    others: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: dict[str, int] = dataclasses.field(default_factory=dict)
    offset: int = 0
    rewind: int = -1
    duplicates: int = 0
    unknown: int = 0
    held: int = 0
    damaged: int = 0
    gaps_seen: int = 0
    gaps_healed: int = 0
    catches_up: bool = False
    catching_up: CatchUp | None = None
    ends: bool = False

    @property
    def has_effect(self) -> bool:
        """Whether anything must be stored now; otherwise the offset alone moved, which may be stored later."""
        return bool(
            self.apply or self.waiting or self.garbage or self.refused or self.watermarks or self.gaps or self.ends
        )


#: What waits for what: of a source, those of one key; those with a chain apart from those without, which anybody can
#: write in the name of a source whose chain is whole; and what a saga is told apart from all else that comes for it: it
#: may be told too early, or of too much, and neither holds back its start, its timers, answers and orders.
Queue = tuple[str, str, bool, bool]


def queue_of(message: Message | DeadLetter) -> Queue:
    """The queue in which a message waits, or is set aside."""
    kind = message.envelope.type if isinstance(message, Message) else _type_of(message)
    return message.source, message.key, message.position > 0, kind == TOLD


def _type_of(letter: DeadLetter) -> str:
    """The type of what was set aside, if that is one which `queue_of` asks for; else it may be empty."""
    try:
        return decode_envelope(letter.envelope).type if _TOLD in letter.envelope else ""
    except BadMessage:
        return ""  # nobody can read it, so it was no message of ours


_TOLD = TOLD.encode()
_read_lost = msgspec.json.Decoder(LostNotice).decode


def plan(
    batch: Sequence[Message | Garbage],
    watermarks: Mapping[str, int],
    gaps: Mapping[str, Gap],
    known_types: Container[str],
    blocked: Collection[Queue],
    now: float,
    began_at: float = 0.0,
    passed_over: Callable[[Message], bool] | None = None,
    ids: Mapping[str, str] = NO_IDS,
    others: Container[str] = (),
) -> Plan:
    """Plan a batch of one partition.

    watermarks, gaps, ids: of the checkpoint, by source. blocked: what a dead letter holds back.
    now: stamped on new gaps. began_at: when the subscription began. Both in seconds since the epoch.
    passed_over: whether a message of a known type is from before its handler wants any; None: each wants all.
    others: sources that are known already to be of another life, see `Plan.others`.
    """
    result = Plan()
    apply = result.apply
    moved, strangers, last_ids = result.watermarks, result.others, result.ids
    for record in batch:
        if isinstance(record, Garbage):
            _pass_over(result, record)
            continue
        message: Message = record
        source, position = message.source, message.position
        kind = message.envelope.type
        if kind == LOST:
            _note_loss(result, message, watermarks, gaps, began_at)
            continue
        if position:
            if source in others or source in strangers:
                result.held += 1
                continue
            watermark = moved.get(source)
            if watermark is None:
                watermark = watermarks.get(source, 0)
            # The usual case is told from the others first: the one that follows on what was applied last.
            if not message.previous == watermark < position or kind == TICK:
                if wrong := _forged(result, message, watermark, ids):
                    result.garbage.append(_garbage_of(message, wrong))
                    continue
                verdict = judge(watermark, message.previous, position)
                if verdict is not Verdict.APPLY:
                    if verdict is Verdict.GAP:
                        _note_gap(result, message, watermark, gaps, now)
                        continue
                    result.duplicates += kind != TICK
                    if kind == TICK:
                        result.doubts[source] = position if position < watermark else None
                    elif position == watermark:
                        _compare(result, message, ids)
                        result.doubts[source] = None
                    else:
                        result.behind[source] = position
                    continue
            moved[source] = position
            last_ids[source] = message.envelope.id
        elif kind == WHO:
            result.asked.add(source)
            continue
        if kind not in known_types or (passed_over is not None and passed_over(message)):
            result.unknown += 1
            continue
        if not position:
            result.foreign += 1
        if blocked and queue_of(message) in blocked:
            result.waiting.append(message)
        else:
            apply.append(message)
    if batch:
        result.offset = batch[-1].offset
    _close_gaps(result, gaps)
    return result


def _pass_over(result: Plan, record: Garbage) -> None:
    """What is no message. Nothing that a damaged one says of itself counts: the next of its source shows that one is
    missing."""
    if record.flaw is Flaw.DAMAGED:
        result.damaged += 1
    else:
        (result.refused if record.flaw is Flaw.REFUSED else result.garbage).append(record)


def _forged(result: Plan, message: Message, watermark: int, ids: Mapping[str, str]) -> str:
    """Why a record cannot be of the chain that it claims to be of, whatever was lost, repeated or late; empty: it can.

    In a chain each record follows on the one before it. One that would be applied, and follows on an earlier one than
    the last that was applied, passes over that: one of the two is not the source's.
    """
    if message.envelope.type == TICK:
        follows = message.previous == message.position
        return "" if follows else f"a tick of position {message.position} after {message.previous}, expected the same"
    if not message.previous < watermark < message.position:
        return ""
    known = result.ids.get(message.source, ids.get(message.source, ""))
    if not known:
        return ""  # the loss of what was there was accepted: the next one may follow on anything before that
    return (
        f"position {message.position} of {message.source} says that it follows on {message.previous}, but {watermark} "
        f"(message {known}) was applied, which lies between: one of them was not written by {message.source}"
    )


def _garbage_of(message: Message, why: str) -> Garbage:
    return garbage(message.topic, message.partition, message.offset, message.key, why, message.data)


def _compare(result: Plan, message: Message, ids: Mapping[str, str]) -> None:
    """A record at the watermark: within an epoch a position has one message."""
    known = result.ids.get(message.source, ids.get(message.source, ""))
    if known and known != message.envelope.id:
        result.others[message.source] = message.envelope.id


def _note_gap(result: Plan, message: Message, watermark: int, gaps: Mapping[str, Gap], now: float) -> None:
    source = message.source
    result.held += message.envelope.type != TICK
    known = result.gaps[source] if source in result.gaps else gaps.get(source)
    if known is None:
        result.gaps_seen += 1
        if not watermark:
            _make_room(result, gaps)
        held = (message.offset, message.previous)
        result.gaps[source] = Gap(source, watermark, message.position, now, GapState.OPEN, 0, *held)
    elif (
        known.watermark != watermark
        or known.needed < message.position
        or not _still_held(known, watermark)
        or message.previous < known.held_previous
    ):
        # Records held back now must come again, so the gap reaches to the last of them.
        needed = max(known.needed, message.position)
        held = _still_held(known, watermark) or (message.offset, message.previous)
        held = (min(held[0], message.offset), min(held[1], message.previous))
        result.gaps[source] = Gap(source, watermark, needed, known.since, known.state, known.lost_through, *held)


def _make_room(result: Plan, gaps: Mapping[str, Gap]) -> None:
    if len(gaps) + len(result.gaps) < STRANGERS_MAX:
        return  # the usual case
    there = {source: gap for source, gap in {**gaps, **result.gaps}.items() if gap is not None and not gap.watermark}
    if len(there) >= STRANGERS_MAX:
        oldest = min(there, key=lambda source: (there[source].state is GapState.LOST, there[source].since))
        result.gaps[oldest] = None
        result.dropped.add(oldest)


def _still_held(gap: Gap, watermark: int) -> tuple[int, int] | tuple[()]:
    """The first record held back, unless the watermark has come to it: it was applied, or has left the log."""
    return (gap.held_offset, gap.held_previous) if gap.held_offset and gap.held_previous > watermark else ()


def _note_loss(
    result: Plan, message: Message, watermarks: Mapping[str, int], gaps: Mapping[str, Gap], began_at: float
) -> None:
    try:
        notice = _read_lost(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        result.garbage.append(_garbage_of(message, f"LOST notice: {error}"))
        return
    source = message.source
    gap = result.gaps[source] if source in result.gaps else gaps.get(source)
    if gap is None or result.rewind >= 0:
        return  # somebody else's gap; or it is read again, after what the log still holds before it
    watermark = result.watermarks.get(source, watermarks.get(source, 0))
    # What the outbox no longer has, the log may: only what lies before the first record held back is really lost.
    still_held = _still_held(gap, watermark)
    through = min(notice.through, still_held[1]) if still_held else notice.through
    if not notice.after <= watermark < through:
        return
    if source not in watermarks and source not in result.watermarks and began_at >= notice.before:
        # First contact: what retention removed before this subscription existed was never owed to it.
        result.watermarks[source] = result.lost[source] = through
        result.ids[source] = ""
        if gap.held_offset:
            result.rewind = gap.held_offset - 1 if result.rewind < 0 else min(result.rewind, gap.held_offset - 1)
    elif gap.state is not GapState.LOST or gap.lost_through != through:
        held = (gap.held_offset, gap.held_previous)
        result.gaps[source] = Gap(source, watermark, gap.needed, gap.since, GapState.LOST, through, *held)


def _close_gaps(result: Plan, gaps: Mapping[str, Gap]) -> None:
    for source, watermark in result.watermarks.items():
        gap = result.gaps[source] if source in result.gaps else gaps.get(source)
        if gap is not None and watermark >= gap.needed:
            result.gaps_healed += 1
            if source in gaps:
                result.gaps[source] = None
            else:
                result.gaps.pop(source, None)
        elif gap is not None and watermark > gap.watermark:
            still_lost = gap.state is GapState.LOST and watermark < gap.lost_through
            state, through = (GapState.LOST, gap.lost_through) if still_lost else (GapState.OPEN, 0)
            held = _still_held(gap, watermark)
            result.gaps[source] = Gap(source, watermark, gap.needed, gap.since, state, through, *held)
