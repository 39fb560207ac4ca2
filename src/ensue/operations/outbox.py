"""What a service has published, sent or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ensue.codec import decode_envelope
from ensue.engine.books import Books
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
    """sent: up to this position all is in the log. head: the last position that was written."""

    sent: int
    head: int
    records: list[OutboxLine]


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


async def outbox(access: Opened, after: int, limit: int, *, unsent: bool = False) -> OutboxPage:
    """Up to `limit` records behind the position `after`, in the order in which they are sent. unsent: those alone that
    are not known to be in the log. What the retention took is gone."""
    store, sent = access.store, await Sent.of(access.books)
    head = max((await store.outbox_heads()).values(), default=0)
    records = await store.outbox_after(max(after, sent.through) if unsent else after, limit)
    return OutboxPage(sent=sent.through, head=head, records=[_line(each, sent) for each in records])


def _line(record: OutboxRecord, sent: Sent) -> OutboxLine:
    return OutboxLine(
        position=record.position, previous=record.previous, topic=record.topic, partition=record.partition,
        key=record.key, sent=sent.has(record), held=sent.holds(record) is not None,
        headers=msgspec.to_builtins(decode_envelope(record.envelope)), data=read_json(record.data), raw=record.data,
    )  # fmt: skip
