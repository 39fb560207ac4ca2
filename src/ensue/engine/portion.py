"""How many records of the outbox are read at once: as many as a batch may have, unless they are large."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.message import OutboxRecord

#: What one read should bring into memory at most, in bytes.
READ_BYTES = 8 << 20
#: Records read at once before it is known how large they are; then up to GROWTH times as many as the last time.
_FIRST, _GROWTH = 64, 4


class Portion:
    """Goes by the records that were read last: a store is asked for a number of records, of any size.

    limit: for the next read. full: the last one brought as many as were asked for, so that there may be more.
    """

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self.limit = min(records_max, _FIRST)
        self.full = False

    def took(self, records: Sequence[OutboxRecord]) -> None:
        """So many were returned for a read of `limit`.

        >>> portion = Portion(500)
        >>> portion.took([OutboxRecord("orders", 0, "key", b"", bytes(900_000))] * 64)
        >>> portion.limit, portion.full
        (9, True)
        """
        self.full = len(records) >= self.limit
        if records:
            size = sum([len(each.data) + len(each.envelope) for each in records])
            fitting = READ_BYTES * len(records) // max(size, 1)
            self.limit = max(1, min(fitting, self._records_max, self.limit * _GROWTH))
