"""Partitions that wait behind a record which the broker refuses, while the relay goes on with all others.

Nothing of a held partition is sent, so its order stays; nothing at or behind its first record counts as sent, so that a
relay that starts anew begins there. Records are sent again from a held partition when the broker takes the one refused:
after its limit was raised.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.codec import decode_envelope
from ensue.errors import RecordRefused
from ensue.message import OutboxRecord
from ensue.texts import logger

log = logger("ensue.relay")

#: How often a refused record is tried, and logged.
RETRY_S = 10.0

Where = tuple[str, int]


class Held:
    """Held partitions: the position of the first record that is not sent, and why. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._held: dict[Where, tuple[int, str]] = {}
        self._due = float("inf")

    def __contains__(self, where: Where) -> bool:
        return where in self._held

    @property
    def reasons(self) -> list[str]:
        """One line for each held partition: which record, its id, position and size, and what to do."""
        return [reason for _, reason in self._held.values()]

    def clear(self) -> None:
        self._held.clear()

    def hold(self, refused: RecordRefused, records: Sequence[OutboxRecord], now: float) -> OutboxRecord:
        """Hold the partition of the refused record and return that record. Raises `refused` when `records` lack it."""
        record = next((each for each in records if each.position == refused.position), None)
        if record is None:
            raise refused
        envelope = decode_envelope(record.envelope)
        reason = (
            f"{record.topic}/{record.partition} is held at position {record.position}, {envelope.type} with id "
            f"{envelope.id}: {refused}"
        )
        log.error("%s. Other partitions go on; tried again every %g s", reason, RETRY_S)
        self._held[record.topic, record.partition] = record.position, reason
        self._due = now + RETRY_S
        return record

    def due(self, now: float) -> list[Where]:
        """Partitions to try now; each is asked for once in RETRY_S."""
        if not self._held or now < self._due:
            return []
        self._due = now + RETRY_S
        return list(self._held)

    def advance(self, where: Where, position: int) -> None:
        """Everything of a held partition below `position` was sent."""
        self._held[where] = position, self._held[where][1]

    def release(self, where: Where) -> None:
        del self._held[where]
        log.info("%s/%d: the broker takes its records again", *where)

    def sent(self, where: Where, position: int) -> int:
        """Through which position a partition is sent, when the relay has read up to `position`."""
        held = self._held.get(where)
        return position if held is None else held[0] - 1

    def through(self, position: int) -> int:
        """Through which position everything is sent, when the relay has read up to `position`."""
        return min((first - 1 for first, _ in self._held.values()), default=position)
