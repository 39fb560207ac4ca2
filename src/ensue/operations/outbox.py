"""What a service has published, sent or not."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ensue.codec import decode_envelope
from ensue.deciding import Deciding
from ensue.engine.books import Books
from ensue.engine.portion import Portion
from ensue.errors import UsageError
from ensue.message import REPLY, HeldPartition, OutboxRecord
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json

#: Types of what Ensue itself publishes begin so.
_OWN = "ensue."


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


async def refused(access: Opened, message_id: str) -> HeldPartition:
    """The partition that this message holds. Raises UsageError when it cannot be withdrawn."""
    return await _check_refused(access, await access.books.held(), message_id)


async def withdraw(access: Opened, message_id: str, by: Deciding) -> HeldPartition:
    """Have an empty record go out in place of an event that the broker refuses, so that those behind it follow. Nobody
    will ever get the event. Raises UsageError when it is not what holds a partition."""
    async with access.store.transaction() as transaction:
        found = await _check_refused(access, await access.books.held_for(transaction), message_id)
        if not await access.books.withdraw(transaction, found):
            raise _withdrawn_already(access, found)
        before = {
            "topic": found.topic, "partition": found.partition, "position": found.position, "type": found.type,
            "reason": found.reason,
        }  # fmt: skip
        await access.books.record(transaction, by, "outbox withdraw", message_id, before)
    return found


async def _check_refused(access: Opened, held: Sequence[HeldPartition], message_id: str) -> HeldPartition:
    name, books = access.service.name, access.books
    sent = await books.relay_position()
    there = [each for each in held if each.position > sent]
    found = next((each for each in there if each.id == message_id), None)
    if found is None:
        ids = ", ".join(each.id for each in there if each.refused) or "none"
        raise UsageError(
            f"message {message_id} of {name} is not what holds a partition: only the one that the broker refuses can "
            f"be withdrawn, now {ids} (ensue status {access.target})",
            id=message_id,
        )
    if not found.refused:
        raise UsageError(
            f"message {message_id} of {name} is not refused for what it is, and may go out when that is mended: "
            f"{found.reason}",
            id=message_id,
        )
    if found.type.startswith(_OWN) and found.type != REPLY:
        raise UsageError(
            f"message {message_id} of {name} is Ensue's own, {found.type}: a saga or a recurring step would stop "
            f"without it for ever, so it cannot be withdrawn: {found.reason}",
            id=message_id,
        )
    if await books.withdrawn([message_id]):
        raise _withdrawn_already(access, found)
    return found


def _withdrawn_already(access: Opened, found: HeldPartition) -> UsageError:
    return UsageError(
        f"message {found.id} of {access.service.name} is withdrawn already; its stand-in goes out when the relay tries "
        f"again, within some seconds, unless the broker refuses that too: {found.reason}",
        id=found.id,
    )


async def _page(access: Opened, records: Sequence[OutboxRecord], sent: Sent, head: int, *, more: bool) -> OutboxPage:
    withdrawn = await access.books.withdrawn(decode_envelope(each.envelope).id for each in records)
    lines = [_line(each, sent, withdrawn) for each in records]
    return OutboxPage(sent=sent.through, head=head, records=lines, more=more)


def _line(record: OutboxRecord, sent: Sent, withdrawn: Container[str]) -> OutboxLine:
    envelope, held = decode_envelope(record.envelope), sent.holds(record)
    gone = envelope.id in withdrawn
    return OutboxLine(
        position=record.position, previous=record.previous, topic=record.topic, partition=record.partition,
        key=record.key, sent=sent.has(record), held=held is not None, withdrawn=gone,
        refused=held is not None and held.refused and held.id == envelope.id and not gone,
        headers=msgspec.to_builtins(envelope), data=read_json(record.data), raw=record.data,
    )  # fmt: skip
