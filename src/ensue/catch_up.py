"""Handlers that come later: what a subscription has passed over of a type is read again. Pure rules over values.

A checkpoint says which event types are handled. Whoever takes a partition over and handles one more reads the log again
from where that type was not handled any more (from its beginning, if it never was), applies what it finds of it, and
only then goes on: so a key's events stay in order, and none is lost, whichever version of a service held the partition
meanwhile. Whoever handles one type less notes from where on it passes it over.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from ensue.chain import Verdict, judge
from ensue.errors import UsageError
from ensue.message import LOST, TICK, CatchUp, Checkpoint, Garbage, Message, Missed
from ensue.plan import Plan, Queue, queue_of

Since = Literal["beginning", "now"] | datetime.datetime
"""What a new handler wants: all that the log still has, what is to come, or what was published from then on."""


def earliness(since: Since) -> float:
    """By it the earliest of several is found."""
    if isinstance(since, datetime.datetime):
        return since.timestamp()
    return float("-inf") if since == "beginning" else float("inf")


def checked_since(since: Any, where: str) -> Since:
    """Raises UsageError for what is none."""
    if since in ("beginning", "now"):
        return since  # type: ignore[no-any-return]  # one of the two
    if isinstance(since, datetime.datetime) and since.tzinfo is not None:
        return since
    raise UsageError(f'{where}: since={since!r}, expected "beginning", "now" or a datetime with a time zone')


def adopted(checkpoint: Checkpoint, wanted: Mapping[str, Since], log_end: int) -> Checkpoint | None:
    """Return the checkpoint of a process that handles the types `wanted`; None: it is the one it was.

    log_end: the last offset of the log; what comes behind it is "now".

    >>> before = Checkpoint(offset=9, types=("a",), watermarks={"s": 4})
    >>> after = adopted(before, {"a": "beginning", "b": "beginning"}, 9)
    >>> after.types, after.catching_up.types, after.catching_up.through
    (('a', 'b'), ('b',), 9)
    >>> adopted(after, {"a": "beginning"}, 9).missed
    {'b': Missed(offset=0, watermarks={}, done={})}
    """
    known = () if checkpoint.types is None else checkpoint.types
    if checkpoint.types is not None and set(known) == wanted.keys():
        return None
    began = {kind: offset for kind, offset in checkpoint.began.items() if kind in wanted}
    if checkpoint.types is None:  # nothing is read yet
        began |= {kind: log_end for kind, since in wanted.items() if since == "now"}
        return msgspec.structs.replace(checkpoint, types=tuple(sorted(wanted)), began=began)
    missed = dict(checkpoint.missed)
    running = checkpoint.catching_up
    places: dict[str, Missed] = {}
    if running is not None:
        # From the beginning, since its watermarks may have been put behind holes: they are right for its types alone.
        done = {kind: _furthest(running.watermarks, running.done.get(kind, {})) for kind in running.types}
        places = {kind: Missed(done=done[kind]) for kind in running.types}
    for kind in known:
        if kind in wanted:
            continue
        if kind in places:
            missed[kind] = places[kind]
        else:
            missed[kind] = Missed(checkpoint.offset, checkpoint.watermarks)
    begin = {kind: place for kind, place in places.items() if kind in wanted}
    for kind in wanted.keys() - set(known):
        if kind in missed:
            begin[kind] = missed.pop(kind)
        elif wanted[kind] != "now":
            begin[kind] = Missed()
        else:
            began[kind] = max(checkpoint.offset, log_end)
    return msgspec.structs.replace(
        checkpoint,
        types=tuple(sorted(wanted)),
        missed=missed,
        began=began,
        catching_up=_begun(begin, checkpoint.offset),
    )


def _begun(places: Mapping[str, Missed], through: int) -> CatchUp | None:
    """One reading for all types: from where the first of them was missed; each is applied from its own place on."""
    if not places or not through:
        return None
    offset = min(place.offset for place in places.values())
    chains = [place.watermarks for place in places.values() if place.offset == offset]
    watermarks = {source: min(each.get(source, 0) for each in chains) for source in chains[0]}
    done = {kind: _furthest(place.watermarks, place.done) for kind, place in places.items()}
    return CatchUp(tuple(sorted(places)), offset, through, watermarks, done, {})


def _furthest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {source: max(one.get(source, 0), other.get(source, 0)) for source in {**one, **other}}


def passed_over(message: Message, wanted: Mapping[str, Since], began: Mapping[str, int]) -> bool:
    """Whether a handled type's message is from before its handler's `since`."""
    since = wanted.get(message.envelope.type, "beginning")
    if isinstance(since, datetime.datetime):
        try:
            return datetime.datetime.fromisoformat(message.envelope.time) < since
        except (ValueError, TypeError):
            return False  # a stranger's, without a time or without a zone: rather once too often
    return message.offset <= began.get(message.envelope.type, 0)


def plan_catch_up(
    batch: Sequence[Message | Garbage],
    checkpoint: Checkpoint,
    wanted: Mapping[str, Since],
    blocked: Collection[Queue],
) -> Plan:
    """Plan a batch that is read again. `ends` is set where it is over: the rest of the batch is not part of it.

    A record counts if the chain leads to it, as at first; one that was held back then comes again later in the log.
    What the checkpoint's watermark has not reached is none of it: it is held in a gap, or comes in its turn.
    """
    running = checkpoint.catching_up
    assert running is not None
    plan = Plan(catches_up=True)
    watermarks, holes, offset, done = dict(running.watermarks), dict(running.holes), running.offset, running.done
    for record in batch:
        if record.offset > running.through:
            break
        offset = record.offset
        if isinstance(record, Garbage) or record.envelope.type in (TICK, LOST):
            continue
        source, position, kind = record.source, record.position, record.envelope.type
        if position:
            if position > checkpoint.watermarks.get(source, 0):
                continue  # nor may one that is no part of it, a stranger's perhaps, move on what is
            verdict = judge(watermarks.get(source, 0), record.previous, position)
            if verdict is Verdict.GAP:
                holes[source] = min(holes.get(source, record.previous), record.previous)
            if verdict is not Verdict.APPLY:
                continue
            watermarks[source] = position
            if source in holes and holes[source] <= position:
                del holes[source]  # the chain has come to what was held back, which comes again
            if position <= done.get(kind, {}).get(source, 0):
                continue
        if kind not in running.types or passed_over(record, wanted, {}):
            continue
        plan.foreign += not position
        (plan.waiting if queue_of(record) in blocked else plan.apply).append(record)
    following = msgspec.structs.replace(running, offset=offset, watermarks=watermarks, holes=holes)
    over = offset >= running.through or (bool(batch) and batch[-1].offset > running.through)
    plan.catching_up = ended(following) if over else following
    plan.ends = over
    return plan


def ended(running: CatchUp) -> CatchUp | None:
    """What follows a reading that has come to its end: None, or, where records were held back by holes that did not
    close (their loss was accepted, or retention took them), another one that begins behind the holes."""
    if not running.holes:
        return None
    done = {kind: _furthest(running.watermarks, running.done.get(kind, {})) for kind in running.types}
    return CatchUp(running.types, 0, running.through, {**running.watermarks, **running.holes}, done, {})
