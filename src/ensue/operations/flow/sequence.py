"""The flow as a sequence of events, each with its cause and what came of it in each service. A pure rule over facts.

Facts may come in any order and more than once, and causes may be missing or go in a circle: what is returned is the
same for the same facts, and has each event once, behind its cause.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Container, Mapping, Sequence

import msgspec

from ensue.engine.clock import seconds_of
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.flow.facts import (
    Place,
    SetAside,
    Sighting,
    Standing,
    State,
    Subscriber,
    furthest,
    sender_of,
    standing,
)
from ensue.operations.letters import short_reason

_NEVER = float("inf")
#: What can be shown as a time in UTC, seconds since the epoch: a stranger's zone may lead out of the calendar.
_SHOWN = range(-62_135_596_800, 253_402_300_800)


class Cause(enum.StrEnum):
    """What an event followed from."""

    OUTSIDE = "outside"  # a step that no message began: a request, a script
    EVENT = "event"
    SAGA = "saga"  # a local step of one, which has no event of its own
    MISSING = "missing"  # an event that was not found
    CIRCLE = "circle"  # it would follow from what follows from it: somebody has made that up


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. attempts: tries that have failed. error: its short text. Times in seconds since the epoch; due_at:
    of the next try, 0: there is none by time."""

    id: str
    state: str
    attempts: int
    error: str
    set_aside_at: float
    due_at: float


class Reaction(msgspec.Struct, frozen=True):
    """What one service has done with an event. handlers: run in one step; empty: it was not named, or handles the type
    no more. published: numbers of the events that followed."""

    service: str
    handlers: tuple[str, ...]
    state: State
    reason: str
    letter: Letter | None
    published: tuple[int, ...]


class Published(msgspec.Struct, frozen=True):
    """One event of the flow. number: from 1. time: as it says itself; at: the same in seconds since the epoch, after_s:
    since the first event's; None: it says none. offset, source, position: 0 and empty where they are not known.
    because_of: number of the event that it followed from. due_at: of a timer. reason: why it is held; of one that is
    `sent`, why it may be in the log all the same; empty: it was not found there."""

    number: int
    sender: str
    type: str
    topic: str
    partition: int
    key: str
    id: str
    time: str
    at: float | None
    after_s: float | None
    cause: Cause
    causation_id: str
    because_of: int | None
    place: Place
    offset: int
    source: str
    position: int
    due_at: float
    reason: str
    reactions: tuple[Reaction, ...]


class _Identity(msgspec.Struct, frozen=True, order=True):
    """What makes two sightings one event; in the order of time, as far as that is known. Somebody else's message with
    the same id is another event, and the last to be taken for a cause."""

    foreign: bool
    at: float
    sender: str
    id: str
    type: str
    topic: str
    partition: int
    key: str
    time: str
    causation_id: str


_Sightings = Mapping[_Identity, Sequence[Sighting]]


def sequence_of(
    sightings: Sequence[Sighting],
    subscribers: Sequence[Subscriber],
    sagas: Container[str] = (),
    cut: Container[tuple[str, int]] = (),
) -> list[Published]:
    """Return the events of one flow, of which these are all facts. sagas: keys of those that took part. cut: topics and
    partitions of which not all was looked at."""
    found: dict[_Identity, list[Sighting]] = {}
    for sighting in [*sightings, *_of_letters(subscribers)]:
        found.setdefault(_identity(sighting), []).append(sighting)
    order, causes = _ordered(found)
    numbers = {each: number for number, each in enumerate(order, 1)}
    children: dict[_Identity, list[_Identity]] = {}
    for each in order:
        if (cause := causes.get(each)) is not None:
            children.setdefault(cause, []).append(each)
    letters = _letters(subscribers)
    begun = next((each.at for each in order if each.at != _NEVER), None)
    ids = {each.id for each in order}
    events = []
    for each in order:
        reactions = _reactions(each, found[each], subscribers, letters, children.get(each, []), numbers)
        cause = causes.get(each)
        kind = Cause.EVENT if cause is not None else _without_cause(each, ids, sagas)
        because_of = None if cause is None else numbers[cause]
        event = _published(each, found[each], numbers[each], kind, because_of, begun, reactions)
        if event.place is Place.SENT and (each.topic, each.partition) in cut:
            reason = f"not all of {each.topic}/{each.partition} was looked at"
            event = msgspec.structs.replace(event, reason=reason)
        events.append(event)
    return events


def _of_letters(subscribers: Sequence[Subscriber]) -> list[Sighting]:
    """A dead letter is the whole message, which the log may not have any more."""
    return [_seen_by(each) for subscriber in subscribers for each in subscriber.letters]


def _seen_by(aside: SetAside) -> Sighting:
    return Sighting(sender_of(aside.message), aside.message, Place.SENT)


def _identity(sighting: Sighting) -> _Identity:
    message, envelope = sighting.message, sighting.message.envelope
    foreign = not message.position and sighting.place in (Place.SENT, Place.LOG)
    return _Identity(
        foreign, _seconds(envelope.time), sighting.sender, envelope.id, envelope.type, message.topic,
        message.partition, message.key, envelope.time, envelope.causation_id,
    )  # fmt: skip


def _seconds(time: str) -> float:
    found = seconds_of(time, _NEVER)
    return found if _SHOWN.start <= found < _SHOWN.stop else _NEVER


def _ordered(found: _Sightings) -> tuple[list[_Identity], dict[_Identity, _Identity]]:
    """The events, each behind its cause and else by time; and the cause of each that has one among them."""
    by_id: dict[str, list[_Identity]] = {}
    for each in sorted(found):
        by_id.setdefault(each.id, []).append(each)
    causes = {each: by_id[each.causation_id][0] for each in found if each.causation_id in by_id}
    _cut_circles(causes)
    following: dict[_Identity, list[_Identity]] = {}
    for each, cause in causes.items():
        following.setdefault(cause, []).append(each)
    # What one step has published bears one time: its outbox has the order.
    places = {each: (each.at, each.sender, max(at.message.position for at in found[each]), each) for each in found}
    ready = [place for each, place in places.items() if each not in causes]
    heapq.heapify(ready)
    order = []
    while ready:
        *_, each = heapq.heappop(ready)
        order.append(each)
        for child in following.get(each, ()):
            heapq.heappush(ready, places[child])
    return order, causes


def _cut_circles(causes: dict[_Identity, _Identity]) -> None:
    """Take out the cause of the first event of each circle."""
    sound: set[_Identity] = set()
    for start in sorted(causes):
        way: dict[_Identity, None] = {}
        each: _Identity | None = start
        while each is not None and each not in sound and each not in way:
            way[each] = None
            each = causes.get(each)
        if each is not None and each in way:
            steps = list(way)
            del causes[min(steps[steps.index(each) :])]
        sound.update(way)


def _letters(subscribers: Sequence[Subscriber]) -> dict[tuple[str, _Identity], DeadLetter]:
    """Of each service and event the last letter: one that was discarded may have been followed by another."""
    found: dict[tuple[str, _Identity], DeadLetter] = {}
    for subscriber in subscribers:
        for each in sorted(subscriber.letters, key=_when_set_aside):
            found[subscriber.name, _identity(_seen_by(each))] = each.letter
    return found


def _when_set_aside(aside: SetAside) -> tuple[float, str, int]:
    letter = aside.letter
    return letter.parked_at, letter.partition.place, letter.number


def _reactions(
    event: _Identity,
    sightings: Sequence[Sighting],
    subscribers: Sequence[Subscriber],
    letters: Mapping[tuple[str, _Identity], DeadLetter],
    children: Sequence[_Identity],
    numbers: Mapping[_Identity, int],
) -> tuple[Reaction, ...]:
    if furthest(each.place for each in sightings) is Place.WITHDRAWN:
        return ()
    published: dict[str, list[int]] = {}
    for child in children:
        published.setdefault(child.sender, []).append(numbers[child])
    named = {each.name: each for each in subscribers}
    reactions = []
    for name in sorted({*named, *published}):
        subscriber, letter = named.get(name), letters.get((name, event))
        handled = None if subscriber is None else subscriber.handled.get(event.type)
        if handled is not None and handled.topic != event.topic:
            handled = None
        if letter is None and handled is None and name not in published:
            continue
        found = Standing(0, State.DONE)
        if letter is not None:
            found = Standing(0, State.SET_ASIDE)
        elif handled is not None and subscriber is not None and name not in published:  # else what it published shows
            found = max(standing(each, subscriber) for each in _furthest(sightings))
        handlers = () if handled is None else handled.handlers
        followed = tuple(published.get(name, ()))
        reactions.append(Reaction(name, handlers, found.state, found.reason, _shown(letter), followed))
    return tuple(reactions)


def _furthest(sightings: Sequence[Sighting]) -> list[Sighting]:
    """Those in the place that counts; several, where it was sent again."""
    place = furthest(each.place for each in sightings)
    return [each for each in sightings if each.place is place]


def _shown(letter: DeadLetter | None) -> Letter | None:
    if letter is None:
        return None
    due_at = letter.due_at if letter.state is DeadLetterState.RETRYING else 0.0
    return Letter(
        letter.id,
        letter.state.value,
        letter.attempts,
        short_reason(letter.error_type, letter.error),
        letter.parked_at,
        due_at,
    )


def _without_cause(event: _Identity, ids: Container[str], sagas: Container[str]) -> Cause:
    if not event.causation_id:
        return Cause.OUTSIDE
    if event.causation_id.rpartition("#")[0] in sagas:
        return Cause.SAGA
    return Cause.CIRCLE if event.causation_id in ids else Cause.MISSING


def _published(
    event: _Identity,
    sightings: Sequence[Sighting],
    number: int,
    cause: Cause,
    because_of: int | None,
    begun: float | None,
    reactions: tuple[Reaction, ...],
) -> Published:
    found = _furthest(sightings)
    first = min(found, key=lambda each: (each.message.offset, each.message.source, each.message.position))
    at = None if event.at == _NEVER else event.at
    return Published(
        number=number,
        sender=event.sender,
        type=event.type,
        topic=event.topic,
        partition=event.partition,
        key=event.key,
        id=event.id,
        time=event.time,
        at=at,
        after_s=None if at is None or begun is None else round(at - begun, 6),
        cause=cause,
        causation_id=event.causation_id,
        because_of=because_of,
        place=first.place,
        offset=first.message.offset,
        source=first.message.source,
        position=first.message.position,
        due_at=max(each.due_at for each in found),
        reason=max(each.reason for each in found),
        reactions=reactions,
    )
