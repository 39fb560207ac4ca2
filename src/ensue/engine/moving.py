"""A service moves to another database: what Ensue keeps of it goes along, and it stays the same source.

The outbox is written anew, record by record, into a store that goes on with the history of the old one: since positions
are a dense count, each record gets the very position, and follows on the very one, that it had. So the log and all
subscribers see no difference, and what was not sent yet is sent by the new database.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, cast

from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, StepTransaction, Store, Successor, Table
from ensue.tables import CHECKPOINTS, LETTERS, RELAY

#: Rows, or records of up to a megabyte each, in one statement.
_PAGE = 50

#: So much may the clocks differ by which processes write when an event was published.
_CLOCKS_S = 5.0

Place = tuple[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """source: the same in both databases. unsent: of the records, those that are not known to be in the log."""

    source: str
    records: int
    unsent: int
    checkpoints: int
    letters: int


@dataclasses.dataclass(slots=True)
class _Begin:
    """Where the records begin that move. position: of what is before them. heads: what they follow on.

    dropped_before: those that are not moved were written before that time, seconds since the epoch; 0: there is none.
    """

    position: int
    heads: Mapping[Place, int]
    dropped_before: float = 0.0


#: Writes down who has moved it, in the transaction that does.
Note = Callable[[StepTransaction, Moved], Awaitable[None]]


async def move(origin: Store, target: Store, service: str, note: Note | None = None) -> Moved:
    """Copy what Ensue keeps from one open store into another, empty one, in one transaction, and compare the outboxes.

    No worker of the service may run meanwhile, and none on the old database later. Leases stay behind.
    Raises UsageError: the target cannot go on with another's history, or is in use.
    """
    for store in (origin, target):
        if not store.capabilities.takes_over:
            raise UsageError(
                f"service {service}: a {type(store).__name__} cannot hand over, or take over, a history: only SQLite, "
                "PostgreSQL and MariaDB can. A view begins anew in an empty database, and reads what the log has"
            )
    books = Books(origin, service)
    if await Books(target, service).checkpoints():
        raise UsageError(
            f"the new database of service {service} has checkpoints of its own already: the service has run there. "
            "Give an empty database, or drop what begins with ensue_ in it"
        )
    begin, relayed = await _begin(origin, books), await books.relay_position()
    source, records, unsent = origin.source, 0, 0
    async with target.transaction() as transaction:
        await cast(Successor, transaction).take_over(source, begin.position, begin.heads)
        position = begin.position
        while found := await origin.outbox_after(position, _PAGE):
            position = found[-1].position
            records += len(found)
            unsent += sum(each.position > relayed for each in found)
            await transaction.outbox_add([_anew(each) for each in found])
            if withdrawn := await books.withdrawals(decode_envelope(each.envelope).id for each in found):
                await transaction.insert_rows(RELAY, withdrawn)
        counts = await _add_rows(transaction, books.kept(begin.dropped_before))
        moved = Moved(source, records, unsent, counts[CHECKPOINTS], counts[LETTERS])
        if note is not None:
            await note(transaction, moved)
    await _compare(origin, target, begin.position)
    return moved


async def _add_rows(transaction: StepTransaction, rows: AsyncIterator[tuple[Table, Row]]) -> Counter[Table]:
    """Insert rows, those of a table after each other; return how many of each."""
    counts: Counter[Table] = Counter()
    page: list[Row] = []
    last = CHECKPOINTS
    async for table, row in rows:
        if table is not last or len(page) == _PAGE:
            await transaction.insert_rows(last, page)
            last, page = table, []
        page.append(_plain(row))
        counts[table] += 1
    await transaction.insert_rows(last, page)
    return counts


async def _begin(store: Store, books: Books) -> _Begin:
    """Retention may have left single records among others that it took, by the order of their times: from the last
    such hole on there is none."""
    firsts: dict[Place, int] = {}
    begin: int | None = None
    position, last, dropped_before = 0, None, 0.0
    while found := await store.outbox_after(position, _PAGE):
        for record in found:
            if begin is None or record.position != position + 1:
                begin, firsts = record.position - 1, {}
                dropped_before = 0.0 if last is None else _published_at(last) + _CLOCKS_S
            firsts.setdefault((record.topic, record.partition), record.previous)
            position, last = record.position, record
    heads = {place: firsts.get(place, head) for place, head in (await store.outbox_heads()).items()}
    if begin is None:
        begin = max(await books.relay_position(), *heads.values(), 0)
    return _Begin(begin, {place: head for place, head in heads.items() if head}, dropped_before)


def _published_at(record: OutboxRecord) -> float:
    return datetime.fromisoformat(decode_envelope(record.envelope).time).timestamp()


def _anew(record: OutboxRecord) -> OutboxRecord:
    return OutboxRecord(record.topic, record.partition, record.key, record.envelope, record.data)


def _plain(row: Row) -> list[Any]:
    """As any store takes it: some read bytes as a view of a buffer."""
    return [bytes(value) if isinstance(value, bytearray | memoryview) else value for value in row]


async def _compare(origin: Store, target: Store, position: int) -> None:
    """Raise UsageError when the new outbox is not the old one, record by record: it must not be used then."""
    while True:
        expected = await origin.outbox_after(position, _PAGE)
        if not expected:
            break
        found: list[OutboxRecord] = []
        at = position
        while len(found) < len(expected) and (more := await target.outbox_after(at, len(expected) - len(found))):
            found += more
            at = found[-1].position
        if found != list(expected):
            raise UsageError(
                f"after position {position} the new outbox is not as the old one ({len(found)} of {len(expected)} "
                "records are there): drop what begins with ensue_ in the new database, and move once more"
            )
        position = expected[-1].position
    if await target.outbox_heads() != await origin.outbox_heads():
        raise UsageError("the new outbox does not end as the old one does: drop what begins with ensue_ there")
