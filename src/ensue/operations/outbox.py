"""What a service has published, sent or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ensue.codec import decode_envelope
from ensue.deciding import Deciding
from ensue.engine.books import Books
from ensue.engine.portion import Portion
from ensue.errors import UsageError
from ensue.message import HeldPartition, OutboxRecord
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json


class OutboxLine(msgspec.Struct, kw_only=True):
    """One record. sent: it is known to be in the log. held: a record before it, or itself, is one that the broker does
    not take. withdrawn: an empty record goes out instead. refused: it is what holds its partition, and can be
    withdrawn. data: as JSON has it, else what the bytes look like; raw: the
    bytes."""

    position: int
    previous: int
    topic: str
    partition: int
    key: str
    sent: bool
    held: bool
    withdrawn: bool
    refused: bool
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
            return await _page(access, records, sent, head, more=False)
        portion.took(read)
        for each in read:
            if left is not None:
                left -= len(each.data) + len(each.envelope)
                if left < 0 and records:
                    return await _page(access, records, sent, head, more=True)
            records.append(each)
        position = read[-1].position
    return await _page(access, records, sent, head, more=True)


async def refused(access: Opened, message_id: str) -> HeldPartition | None:
    """The partition that this message holds, if it can be withdrawn."""
    held = next((each for each in await access.books.held() if each.id == message_id and each.refused), None)
    return None if held is None or await access.books.withdrawn([message_id]) else held


async def withdraw(access: Opened, message_id: str, by: Deciding) -> HeldPartition:
    """Have an empty record go out in place of an event that the broker refuses, so that those behind it follow. Nobody
    will ever get the event. Raises UsageError when it is not what holds a partition."""
    name = access.service.name
    async with access.store.transaction() as transaction:
        held = await access.books.held_for(transaction)
        found = next((each for each in held if each.id == message_id), None)
        if found is None:
            ids = ", ".join(each.id for each in held if each.refused) or "none"
            raise UsageError(
                f"message {message_id} of {name} is not what holds a partition: only the one that the broker refuses "
                f"can be withdrawn, now {ids} (ensue status {access.target})",
                id=message_id,
            )
        if not found.refused:
            raise UsageError(
                f"message {message_id} of {name} is not refused: the broker does not answer for {found.topic}/"
                f"{found.partition}, and may take it when it does: {found.reason}",
                id=message_id,
            )
        if not await access.books.withdraw(transaction, found):
            raise UsageError(
                f"message {message_id} of {name} is withdrawn already; its stand-in goes out when the relay tries "
                f"again, within some seconds, unless the broker refuses that too: {found.reason}",
                id=message_id,
            )
        before = {
            "topic": found.topic, "partition": found.partition, "position": found.position, "type": found.type,
            "reason": found.reason,
        }  # fmt: skip
        await access.books.record(transaction, by, "outbox withdraw", message_id, before)
    return found


async def _page(access: Opened, records: Sequence[OutboxRecord], sent: Sent, head: int, *, more: bool) -> OutboxPage:
    lines = [_line(each, sent) for each in records]
    withdrawn = await access.books.withdrawn(each.headers["id"] for each in lines)
    refused = {each.id for each in sent.held.values() if each.refused} - withdrawn
    for each in lines:
        each.withdrawn = each.headers["id"] in withdrawn
        each.refused = each.headers["id"] in refused
    return OutboxPage(sent=sent.through, head=head, records=lines, more=more)


def _line(record: OutboxRecord, sent: Sent) -> OutboxLine:
    return OutboxLine(
        withdrawn=False, refused=False,
        position=record.position, previous=record.previous, topic=record.topic, partition=record.partition,
        key=record.key, sent=sent.has(record), held=sent.holds(record) is not None,
        headers=msgspec.to_builtins(decode_envelope(record.envelope)), data=read_json(record.data), raw=record.data,
    )  # fmt: skip
