"""Ticks: a quiet source says how far it has come, so that even a lost last record is noticed.

A tick is a record whose position and previous are both the last position sent to that partition: a subscriber that is
there sees a duplicate, one that is below sees a gap. A partition ticks soon after its last record and then ever more
seldom, for as long as it is quiet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ensue.codec import encode_envelope
from ensue.engine.clock import rfc3339
from ensue.engine.context import Context
from ensue.engine.hallmark import hallmark_of
from ensue.engine.sending import Sending
from ensue.message import TICK, Envelope, OutboxRecord


class Ticks:
    """When each partition's next tick is due. Times are monotonic seconds."""

    def __init__(self, context: Context, sending: Sending) -> None:
        self._context = context
        self._sending = sending
        self._due: dict[tuple[str, int], tuple[float, float]] = {}  # when, interval
        self._heads: dict[tuple[str, int], int] = {}
        self._next = float("inf")

    def start(self, heads: Mapping[tuple[str, int], int]) -> None:
        """At the relay's start every partition ticks soon: what was lost while it was down shows at once."""
        self._heads = dict(heads)
        first = self._context.config.tick_first_s
        now = self._context.clock.monotonic()
        self._due = dict.fromkeys(self._heads, (now + first, first))
        self._next = now + first if heads else float("inf")

    def sent(self, heads: Mapping[tuple[str, int], int]) -> None:
        """Records up to these positions were appended: their partitions are not quiet."""
        first = self._context.config.tick_first_s
        due = self._context.clock.monotonic() + first
        for where, position in heads.items():
            self._heads[where] = position
            self._due[where] = (due, first)
        self._next = min(self._next, due)

    def next_due_s(self) -> float:
        return max(self._next - self._context.clock.monotonic(), 0.0)

    async def send_due(
        self, sent: Callable[[tuple[str, int]], int], answers: Callable[[tuple[str, int]], bool], source: str
    ) -> None:
        """Append the ticks of `source` that are due, of partitions whose last record was sent. sent: through which.
        answers: whether the broker does, for that partition.

        One busy partition does not keep the quiet ones silent: a loss there would stay unseen for as long.
        """
        context = self._context
        now = context.clock.monotonic()
        if now < self._next:
            return
        hallmark, time = await hallmark_of(context.store), rfc3339(context.clock.now())
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for where, (due, interval) in self._due.items():
            if due <= now:
                head = self._heads[where]
                if head <= sent(where) and answers(where):
                    envelope = encode_envelope(Envelope(hallmark.tick(*where, head), TICK, time))
                    batches[where] = [OutboxRecord(*where, "", envelope, b"", head, head)]
                longer = min(interval * 2, context.config.tick_max_s)
                self._due[where] = (now + longer, longer)
        self._next = min(due for due, _ in self._due.values())
        if batches:
            self._sending.forget()  # what the broker has lost is made again, though nobody publishes
            # A partition that is not answered for ticks again later, as seldom as any: each try may take long.
            for where in await self._sending.append(source, batches):
                self._due[where] = (now + context.config.tick_max_s, context.config.tick_max_s)
            context.faults.point("relay.ticked")
