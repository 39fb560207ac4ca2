"""What is found of one flow, and what it says of each subscriber: applied, set aside, still to come. Pure rules."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ensue.catch_up import Since, passed_over
from ensue.codec import POSITION_MAX
from ensue.message import Checkpoint, DeadLetter, Gap, Message


class Place(enum.StrEnum):
    """Where an event is. It goes on in this order, so of several places the last one counts."""

    TIMER = "timer"  # it is published later
    UNSENT = "unsent"  # in the outbox
    HELD = "held"  # in the outbox, and the broker does not take it, or one before it
    SENT = "sent"  # it was in the log, of which that part is gone or was not looked at
    LOG = "log"
    WITHDRAWN = "withdrawn"  # an empty record goes out instead, so nobody gets it


_PLACES = list(Place)


def furthest(places: Iterable[Place]) -> Place:
    return max(places, key=_PLACES.index)


class Sighting(msgspec.Struct, frozen=True):
    """An event, found somewhere. sender: the service, or the source of another application. message: without its data;
    offset and position are 0 where they are not known. due_at: of a timer, seconds since the epoch. reason: why it is
    held."""

    sender: str
    message: Message
    place: Place
    due_at: float = 0.0
    reason: str = ""


class SetAside(msgspec.Struct, frozen=True):
    """A dead letter, and the message that it is; without its data."""

    message: Message
    letter: DeadLetter


class Handled(msgspec.Struct, frozen=True):
    """An event type that a service handles: in which topic, from when on, by which handlers."""

    topic: str
    since: Since
    handlers: tuple[str, ...]


class Subscriber(msgspec.Struct, frozen=True):
    """A service that was named. handled: by event type. checkpoints: by topic and partition; None: its database did not
    answer. letters: those of the flow. letters_known: whether all were looked at, so that there are no others."""

    name: str
    handled: Mapping[str, Handled]
    checkpoints: Mapping[tuple[str, int], Checkpoint] | None
    letters: Sequence[SetAside] = ()
    letters_known: bool = True


class State(enum.StrEnum):
    """What a subscriber has done with an event."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    DONE = "done"
    PASSED_OVER = "passed over"
    SET_ASIDE = "set aside"


class Standing(msgspec.Struct, frozen=True, order=True):
    """rank: of several sightings of one event the highest counts. reason: of what is not done."""

    rank: int
    state: State
    reason: str = ""


def _standing(state: State, reason: str = "") -> Standing:
    return Standing(list(State).index(state), state, reason)


def sender_of(message: Message) -> str:
    """The service whose outbox it comes from; of another application's message, its source."""
    return (message.source.rpartition("/")[0] if message.position else "") or message.source


def standing(sighting: Sighting, subscriber: Subscriber) -> Standing:
    """What a subscriber that handles the event has done with it, as far as this sighting and its checkpoint say.

    Letters are not looked at: a message that is set aside counts as done.
    """
    message, handled = sighting.message, subscriber.handled[sighting.message.type]
    name, place = subscriber.name, f"{message.topic}/{message.partition}"
    if sighting.place not in (Place.SENT, Place.LOG):
        return _standing(State.PENDING, "it is not in the log yet")
    if subscriber.checkpoints is None:
        return _standing(State.UNKNOWN, f"the database of {name} did not tell")
    checkpoint = subscriber.checkpoints.get((message.topic, message.partition))
    if checkpoint is None:
        return _standing(State.PENDING, f"{name} has read nothing of {place} yet")
    if not message.offset:  # not found in the log: what began at an offset cannot be told from what came later
        message = msgspec.structs.replace(message, offset=POSITION_MAX)
    if _is_new(message.type, handled.since, checkpoint) or passed_over(
        message, {message.type: handled.since}, checkpoint.began
    ):
        return _standing(State.PASSED_OVER, "it was published before its handler began")
    if not _within(message, checkpoint.offset, checkpoint.watermarks):
        return _standing(State.PENDING, _why_waiting(message, name, place, checkpoint))
    if checkpoint.types is not None and message.type not in checkpoint.types:
        missed = checkpoint.missed.get(message.type)
        if missed is None or not _within(message, missed.offset, missed.watermarks, missed.done):
            return _standing(State.PENDING, f"no worker of {name} has read {place} for its handler yet")
    running = checkpoint.catching_up
    if running is not None and message.type in running.types:
        done = running.done.get(message.type, {})
        if not _within(message, running.offset, running.watermarks, done):
            return _standing(State.PENDING, f"{name} reads {place} again for its handler, and has not come to it")
    if not subscriber.letters_known:
        return _standing(State.UNKNOWN, f"not all dead letters of {name} were looked at: it is done, or set aside")
    return _standing(State.DONE)


def _is_new(kind: str, since: Since, checkpoint: Checkpoint) -> bool:
    """Whether its handler wants what is to come, and nobody has read the log with it yet."""
    return since == "now" and checkpoint.types is not None and kind not in {*checkpoint.types, *checkpoint.missed}


def _within(message: Message, offset: int, *positions: Mapping[str, int]) -> bool:
    """Whether a reader has come past it: by the positions of its source, or, where it has none, by the offset."""
    if not message.position:
        return message.offset <= offset
    return message.position <= max(each.get(message.source, 0) for each in positions)


def _why_waiting(message: Message, name: str, place: str, checkpoint: Checkpoint) -> str:
    gap: Gap | None = checkpoint.gaps.get(message.source)
    if gap is not None:
        return (
            f"held back by a gap ({gap.state}): {name} has applied position {gap.watermark} of {gap.source} in {place} "
            f"and needs those up to {gap.needed}, this one is {message.position}"
        )
    at = "" if message.offset == POSITION_MAX else f", and this is {message.offset}"
    return f"{name} has read {place} to offset {checkpoint.offset}{at}"
