"""What a service has published, sent or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.engine.portion import Portion
from ensue.message import HeldPartition, OutboxRecord
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json


class OutboxLine(msgspec.Struct, kw_only=True):
    """One record. sent: it is known to be in the log. held: a record before it, or itself, is one that the broker does
    not take. data: as JSON has it, else what the bytes look like; raw: the bytes."""

    position: int
    previous: int
    topic: str
    partition: int
    key: str
    sent: bool
    held: bool
    headers: dict[str, Any]
    data: Any
    raw: bytes


class OutboxPage(msgspec.Struct, kw_only=True):
    """sent: up to this position all is in the log. head: the last position that was written. more: there may be further
    records behind the last one."""

    sent: int
    head: int
    records: list[OutboxLine]
    more: bool = False


class Sent(NamedTuple):
    """through: up to this position all is sent. held: by partition the first record that the broker does not take."""

    through: int
    held: Mapping[tuple[str, int], HeldPartition]

    @classmethod
    async def of(cls, books: Books) -> Sent:
        held = {(each.topic, each.partition): each for each in await books.held()}
        return cls(await books.relay_position(), held)

    def has(self, record: OutboxRecord) -> bool:
        return record.position <= self.through

    def holds(self, record: OutboxRecord) -> HeldPartition | None:
        """What holds it back; None: nothing does."""
        first = None if self.has(record) else self.held.get((record.topic, record.partition))
        return None if first is None or record.position < first.position else first


async def outbox(
    access: Opened, after: int, limit: int, *, unsent: bool = False, bytes_max: int | None = None
) -> OutboxPage:
    """Up to `limit` records behind the position `after`, in the order in which they are sent. unsent: those alone that
    are not known to be in the log. bytes_max: of them all; fewer records are returned when they have more, at least
    one. What the retention took is gone."""
    store, sent = access.store, await Sent.of(access.books)
    head = max((await store.outbox_heads()).values(), default=0)
    position, left = max(after, sent.through) if unsent else after, bytes_max
    portion, records = Portion(limit), list[OutboxRecord]()
    while len(records) < limit:
        read = await store.outbox_after(position, min(portion.limit, limit - len(records)))
        if not read:
            return _page(records, sent, head, more=False)
        portion.took(read)
        for each in read:
            if left is not None:
                left -= len(each.data) + len(each.envelope)
                if left < 0 and records:
                    return _page(records, sent, head, more=True)
            records.append(each)
        position = read[-1].position
    return _page(records, sent, head, more=True)


def _page(records: Sequence[OutboxRecord], sent: Sent, head: int, *, more: bool) -> OutboxPage:
    return OutboxPage(sent=sent.through, head=head, records=[_line(each, sent) for each in records], more=more)


def _line(record: OutboxRecord, sent: Sent) -> OutboxLine:
    return OutboxLine(
        position=record.position, previous=record.previous, topic=record.topic, partition=record.partition,
        key=record.key, sent=sent.has(record), held=sent.holds(record) is not None,
        headers=msgspec.to_builtins(decode_envelope(record.envelope)), data=read_json(record.data), raw=record.data,
    )  # fmt: skip
