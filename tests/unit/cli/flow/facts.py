"""Facts of flows, in a line each."""

from __future__ import annotations

from typing import Any

from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Envelope, Message, Partition
from ensue.operations.flow.facts import Handled, Place, SetAside, Sighting, Subscriber, sender_of

BEGIN = "2026-11-27T09:00:00.000000Z"


def at(seconds: float) -> str:
    return f"2026-11-27T09:00:{seconds:09.6f}Z"


def message(
    id: str,
    *,
    cause: str = "",
    source: str = "orders/e1",
    kind: str = "orders.Placed.v1",
    key: str = "ann",
    time: str = BEGIN,
    offset: int = 1,
    position: int = 1,
    previous: int = 0,
) -> Message:
    """One in partition 0 of the topic that its type begins with."""
    envelope = Envelope(id, kind, time, "flow", cause)
    return Message(kind.split(".")[0], 0, offset, key, source, position, previous, envelope, b"")


def seen(id: str, place: Place = Place.LOG, *, due_at: float = 0.0, reason: str = "", **more: Any) -> Sighting:
    found = message(id, **more)
    return Sighting(sender_of(found), found, place, due_at, reason)


def subscriber(
    name: str, *kinds: str, checkpoint: Checkpoint | None = None, letters: tuple[SetAside, ...] = ()
) -> Subscriber:
    """One with a handler `on_<class>` for each type, and a checkpoint of partition 0 of each topic; None: it has read
    all."""
    handled = {kind: Handled(kind.split(".")[0], "beginning", (f"on_{kind.split('.')[1].lower()}",)) for kind in kinds}
    read = {f"{each}/e1": 1_000 for each in ("orders", "customers", "billing")}
    places = {(each.topic, 0): checkpoint or Checkpoint(1_000, 1, read) for each in handled.values()}
    return Subscriber(name, handled, places, letters)


def set_aside(
    found: Message, state: DeadLetterState = DeadLetterState.DEAD, name: str = "customers", **more: Any
) -> SetAside:
    values: dict[str, Any] = {"attempts": 5, "error_type": "KeyError", "error": "handler on_placed: 'ann'\n  File"}
    letter = DeadLetter(
        Partition(name, found.topic, found.partition), found.offset, found.source, found.position, found.previous,
        found.key, b"", b"", state, **{**values, "number": 1, **more},
    )  # fmt: skip
    return SetAside(found, letter)
