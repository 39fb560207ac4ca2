"""The records that got their positions last, in memory: a relay that follows closely need not read them back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ensue.message import OutboxRecord

#: Kept records that are held in memory for a relay that follows closely; one that does not reads the table.
RECENT_RECORDS = 20_000
RECENT_BYTES = 16 << 20


class Recent:
    """The last records that got a position here, without a hole between them."""

    def __init__(self) -> None:
        self._batches: deque[Sequence[OutboxRecord]] = deque()
        self._records = 0
        self._bytes = 0

    def add(self, records: Sequence[OutboxRecord], size: int) -> None:
        if self._batches and self._batches[-1][-1].position + 1 != records[0].position:
            self.clear()  # an epoch began, or another process gave positions meanwhile
        if self._records + len(records) > RECENT_RECORDS or self._bytes + size > RECENT_BYTES:
            self.clear()
        self._batches.append(records)
        self._records += len(records)
        self._bytes += size

    def clear(self) -> None:
        self._batches.clear()
        self._records = self._bytes = 0

    def after(self, position: int, limit: int) -> list[OutboxRecord]:
        """Return records after `position` if it follows closely; else nothing. What is behind it is given up."""
        batches = self._batches
        while batches and batches[0][-1].position <= position:
            self._records -= len(batches.popleft())
        if not batches:
            self._records = self._bytes = 0
            return []
        if batches[0][0].position > position + 1:
            return []
        found: list[OutboxRecord] = []
        for batch in batches:
            skip = max(position + 1 - batch[0].position, 0)
            found += batch[skip : skip + limit - len(found)]
            if len(found) == limit:
                break
        return found
