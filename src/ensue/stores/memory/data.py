"""What a memory store holds once it is committed."""

from __future__ import annotations

from collections import deque
from typing import Any

from ensue.message import OutboxRecord
from ensue.ports import Row
from ensue.stores.numbering import Place


class Data:
    """outbox[i] has position `first` + i: positions have no holes, since nothing commits late."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Row]] = {}
        self.first = 1
        self.outbox: list[OutboxRecord] = []
        self.written: deque[tuple[int, float]] = deque()  # (last position, epoch seconds) of each commit
        self.heads: dict[Place, int] = {}

    @property
    def last(self) -> int:
        return self.first + len(self.outbox) - 1
