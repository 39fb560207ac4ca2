"""Partitions that wait behind a record which the broker does not take, while the relay goes on with all others.

Nothing of a held partition is sent, so its order stays; nothing at or behind its first record counts as sent, so that a
relay that starts anew begins there. The key alone cannot be held: each record names the one before it in its partition,
so whatever is sent behind it would be a gap to every subscriber. Records are sent again from a held partition when the
broker takes the first one: after its limit was raised, or when it answers again. See docs/adr/0037.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from ensue.codec import decode_envelope
from ensue.engine.sending import Left, Where
from ensue.errors import BrokerUnavailable, RecordRefused
from ensue.message import HeldPartition, OutboxRecord
from ensue.texts import logger

log = logger("ensue.relay")

#: How often a refused record is tried, and logged; and one that nobody has answered for.
RETRY_S = 10.0
AGAIN_S = 1.0


class _Held(NamedTuple):
    first: int
    """Position of the first record that is not sent."""
    shown: HeldPartition
    refused: bool
    due: float
    """When it is tried again: monotonic seconds."""


class Held:
    """Held partitions, and why. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._held: dict[Where, _Held] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, where: Where) -> bool:
        return where in self._held

    @property
    def shown(self) -> list[HeldPartition]:
        return [each.shown for each in self._held.values()]

    def clear(self) -> None:
        self._held.clear()

    def hold(self, left: Left, now: float) -> None:
        """Hold the partition of a record that was not taken."""
        record, error = left
        where = record.topic, record.partition
        envelope = decode_envelope(record.envelope)
        refused = isinstance(error, RecordRefused)  # else its topic cannot be made, which is no fault of the record
        shown = HeldPartition(*where, record.position, envelope.type, envelope.id, str(error), refused)
        pause_s = RETRY_S if left.refused else AGAIN_S
        known = self._held.get(where)
        news = known is None or left.refused or known.first != record.position
        log.log(
            logging.ERROR if news else logging.DEBUG,
            "%s. Other partitions go on; tried again every %g s", shown, pause_s,
        )  # fmt: skip
        self._held[where] = _Held(record.position, shown, left.refused, now + pause_s)

    def hold_unknown(self, where: Where, position: int, error: BrokerUnavailable, now: float) -> None:
        """Hold a partition of which the broker does not tell what it holds. position: from which on it waits."""
        known = self._held.get(where)
        first = position if known is None else min(position, known.first)
        reason = f"nothing is sent there before it is known what it holds of this database's events: {error}"
        shown = HeldPartition(*where, first, "", "", reason)
        log.log(
            logging.ERROR if known is None else logging.DEBUG,
            "%s. Other partitions go on; asked again every %g s", shown, AGAIN_S,
        )  # fmt: skip
        self._held[where] = _Held(first, shown, False, now + AGAIN_S)

    def due(self, now: float) -> list[Where]:
        """Partitions to try now."""
        return [where for where, each in self._held.items() if each.due <= now]

    def answers(self, where: Where) -> bool:
        """Whether the broker answers for the partition, as far as known, if only by a refusal."""
        held = self._held.get(where)
        return held is None or held.refused

    def holds_refused(self, record: OutboxRecord) -> bool:
        """Whether it is the record that the broker has refused, as operators were told."""
        held = self._held.get((record.topic, record.partition))
        return held is not None and held.shown.refused and held.shown.position == record.position

    def advance(self, where: Where, position: int) -> None:
        """Everything of a held partition below `position` was sent: the broker has taken what it had refused."""
        held = self._held[where]
        shown = msgspec.structs.replace(held.shown, refused=False) if held.shown.refused else held.shown
        self._held[where] = held._replace(first=position, shown=shown)

    def release(self, where: Where) -> None:
        del self._held[where]
        log.info("%s/%d: the broker takes its records again", *where)

    def sent(self, where: Where, position: int) -> int:
        """Through which position a partition is sent, when the relay has read up to `position`."""
        held = self._held.get(where)
        return position if held is None else held.first - 1

    def through(self, position: int) -> int:
        """Through which position everything is sent, when the relay has read up to `position`."""
        return min((each.first - 1 for each in self._held.values()), default=position)
