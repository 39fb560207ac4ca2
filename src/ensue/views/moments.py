"""How far a log had come at a time. A pure rule over values.

Said by the senders' clocks, which stand in the records. Within one source and partition positions are in the order of
the commits, and a clock may go back: so it is the last position that is not later, and all before it belong to it.
"""

from __future__ import annotations

import datetime

from ensue.message import LOST, TICK, WHO, Message


class Moments:
    """Of one partition, record by record. positions: by source, the last one that was written at `moment` (seconds
    since the epoch) or before. offset: of the last record without a chain of which that is true."""

    def __init__(self, moment: float) -> None:
        self._moment = moment
        self.positions: dict[str, int] = {}
        self.offset = 0

    def add(self, message: Message) -> None:
        if message.type in (TICK, LOST, WHO) or not self._is_before(message):
            return
        if message.position:
            self.positions[message.source] = max(self.positions.get(message.source, 0), message.position)
        else:
            self.offset = message.offset

    def _is_before(self, message: Message) -> bool:
        try:
            return datetime.datetime.fromisoformat(message.envelope.time).timestamp() <= self._moment
        except ValueError:  # a stranger's, without a time: it belongs to what is written after it, where that has one
            return False
