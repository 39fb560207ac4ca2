"""What a memory store holds once it is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from ensue.errors import UsageError
from ensue.message import Checkpoint, DeadLetter, OutboxRecord, Partition, StoredResponse

Row = Sequence[Any]
Place = tuple[str, int]


class Data:
    """outbox[i] has position `first` + i: positions have no holes, since nothing commits late."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Row]] = {}
        self.first = 1
        self.outbox: list[OutboxRecord] = []
        self.written: deque[tuple[int, float]] = deque()  # (last position, epoch seconds) of each commit
        self.heads: dict[Place, int] = {}
        self.relayed = 0
        self.checkpoints: dict[Partition, Checkpoint] = {}
        self.letters: dict[int, DeadLetter] = {}
        self.letter_id = 0
        self.inbox: dict[tuple[str, str, str], float] = {}
        self.responses: dict[str, tuple[StoredResponse, float]] = {}
        self.workers: dict[str, float] = {}
        self.leases: dict[str, tuple[str, float]] = {}

    @property
    def last(self) -> int:
        return self.first + len(self.outbox) - 1


def no_sessions() -> UsageError:
    return UsageError("a memory store has no SQLAlchemy sessions: use `sqlite://`, or repositories of plain tables")
