"""Which cursor serves a read: the one that stands there, else a new one in a lane where its partition is free."""

from __future__ import annotations

import time

from ensue.brokers.kafka.reading import Cursor, Lane
from ensue.brokers.kafka.settings import KafkaSettings

#: So many readers of one partition can be at different offsets without taking turns.
LANES_MAX = 4
#: A cursor that nobody read from for this long gives its place to another offset of its partition; one that has brought
#: nothing in this time may lose it too.
_TAKEN_OVER_S = 1.0
#: A cursor that nobody read from for this long is dropped, buffer and all; a lane without cursors ends.
_IDLE_S = 15.0
_SWEEP_S = 2.0


class Places:
    """All cursors of one broker. The first lane serves everything as long as each partition has one reader."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lanes: list[Lane] = []
        self._ended: list[Lane] = []
        self._swept = time.monotonic()

    def find(self, topic: str, number: int, after: int) -> tuple[Cursor, Lane] | None:
        """Return the cursor for a read of what comes after an offset; None when every lane is another reader's turn."""
        now = time.monotonic()
        if now - self._swept > _SWEEP_S:
            self._sweep(now)
        key = (topic, number)
        for lane in self._lanes:
            cursor = lane.cursors.get(key)
            if cursor is not None and cursor.after <= after <= cursor.fetched:
                cursor.used_at = now
                return cursor, lane
        free = self._free(key, now)
        if free is None:
            return None
        cursor, lane = Cursor(topic, number, after), free
        lane.add(cursor)
        return cursor, lane

    def forget(self, topic: str) -> None:
        """The topic is gone: so are its cursors."""
        for lane in self._lanes:
            for key in [key for key in lane.cursors if key[0] == topic]:
                lane.drop(key)

    def stop(self) -> list[Lane]:
        """Wake every waiting read, end all threads; return the lanes, to be joined."""
        lanes, self._lanes = [*self._lanes, *self._ended], []
        self._ended = []
        for lane in lanes:
            for key in list(lane.cursors):
                lane.drop(key)
            lane.stop()
        return lanes

    def _free(self, key: tuple[str, int], now: float) -> Lane | None:
        longest: tuple[float, Lane] | None = None
        for lane in self._lanes:
            cursor = lane.cursors.get(key)
            if cursor is None or (not cursor.waiters and now - cursor.used_at > _TAKEN_OVER_S):
                return lane
            # One that lost its place before it brought anything would take another's at once, and nobody got anywhere.
            if cursor.served or now - cursor.made_at > _TAKEN_OVER_S:
                longest = min(longest or (cursor.made_at, lane), (cursor.made_at, lane), key=lambda each: each[0])
        if len(self._lanes) >= LANES_MAX:
            return longest[1] if longest is not None else None
        lane = Lane(self._settings)
        self._lanes.append(lane)
        return lane

    def _sweep(self, now: float) -> None:
        self._swept = now
        for lane in self._lanes:
            for key, cursor in list(lane.cursors.items()):
                if not cursor.waiters and now - cursor.used_at > _IDLE_S:
                    lane.drop(key)
        self._ended = [lane for lane in self._ended if lane.alive]
        for lane in [lane for lane in self._lanes[1:] if not lane.cursors]:
            self._lanes.remove(lane)
            self._ended.append(lane)
            lane.stop()
