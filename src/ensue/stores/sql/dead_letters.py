"""Dead letters: messages set aside in the subscriber's own database, in the transaction of its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensue.message import DeadLetter, DeadLetterState, Partition
from ensue.stores import rules
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link

COLUMNS = (
    "subscription, topic, partition_no, log_offset, source, position, previous, record_key, envelope, data, "
    "state, attempts, due_at, error_type, error, parked_at"
)
SELECT = f"SELECT {COLUMNS}, id FROM ensue_dead_letter"
COUNTS = (
    "SELECT subscription, topic, partition_no, state, count(*) FROM ensue_dead_letter "
    "GROUP BY subscription, topic, partition_no, state"
)
# An operator's DISCARDED is final: a worker that did not know of it yet must look again.
CHANGE = (
    "UPDATE ensue_dead_letter SET state = ?, attempts = ?, due_at = ?, error_type = ?, error = ? "
    "WHERE id = ? AND state <> 'discarded'"
)
REMOVE = "DELETE FROM ensue_dead_letter WHERE id = ? AND state <> 'discarded'"


async def add(link: Link, dialect: Dialect, letters: Sequence[DeadLetter]) -> None:
    """Insert the letters and give them their ids."""
    rows = [
        (
            *letter.partition, letter.offset, _bytes(letter.source), letter.position, letter.previous,
            _bytes(letter.key), letter.envelope, letter.data, letter.state.value, letter.attempts, letter.due_at,
            _storable(letter.error_type), _storable(letter.error), letter.parked_at,
        )
        for letter in letters
    ]  # fmt: skip
    if rows:
        for letter, letter_id in zip(letters, await dialect.add_letters(link, COLUMNS, rows), strict=True):
            letter.id = letter_id


async def change(link: Link, dialect: Dialect, letter: DeadLetter) -> None:
    values = (letter.state.value, letter.attempts, letter.due_at, _storable(letter.error_type), _storable(letter.error))
    if await link.execute(dialect.text(CHANGE), *values, letter.id) != 1:
        raise rules.letter_gone(letter.id)


async def remove(link: Link, dialect: Dialect, ids: Sequence[int]) -> None:
    for letter_id in ids:
        if await link.execute(dialect.text(REMOVE), letter_id) != 1:
            raise rules.letter_gone(letter_id)


async def find(
    link: Link, dialect: Dialect, partition: Partition | None, states: Sequence[DeadLetterState], limit: int
) -> list[DeadLetter]:
    conditions: list[str] = []
    values: list[object] = []
    if partition is not None:
        conditions.append("subscription = ? AND topic = ? AND partition_no = ?")
        values += partition
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values += [state.value for state in states]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = await link.fetch(dialect.text(f"{SELECT}{where} ORDER BY id LIMIT ?"), *values, limit)
    return [_letter(row) for row in rows]


async def get(link: Link, dialect: Dialect, letter_id: int) -> DeadLetter | None:
    rows = await link.fetch(dialect.text(f"{SELECT} WHERE id = ?"), letter_id)
    return _letter(rows[0]) if rows else None


async def counts(link: Link) -> dict[tuple[Partition, DeadLetterState], int]:
    return {
        (Partition(subscription, topic, number), DeadLetterState(state)): int(count)
        for subscription, topic, number, state, count in await link.fetch(COUNTS)
    }


async def decide(link: Link, dialect: Dialect, letter_id: int, state: DeadLetterState) -> DeadLetter:
    rows = await link.fetch(dialect.text(f"{SELECT} WHERE id = ? FOR UPDATE"), letter_id)
    letter = rules.check_decision(letter_id, _letter(rows[0]) if rows else None, state)
    letter.state = state
    await change(link, dialect, letter)
    return letter


def _letter(row: Sequence[Any]) -> DeadLetter:
    subscription, topic, number, offset, source, position, previous, key, envelope, data, state, *rest = row
    return DeadLetter(
        Partition(subscription, topic, number), offset, _str(source), position, previous, _str(key),
        bytes(envelope), bytes(data), DeadLetterState(state), *rest,
    )  # fmt: skip


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _str(raw: bytes) -> str:
    return bytes(raw).decode("utf-8", "surrogatepass")


def _storable(text: str) -> str:
    """The text of an error may hold anything, also half a character or a zero that no database takes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
