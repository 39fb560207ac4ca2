"""Dead letters: messages set aside in the subscriber's own database, in the transaction of its checkpoint."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ensue.message import DeadLetter, DeadLetterState, Partition
from ensue.stores import rules

_COLUMNS = (
    'subscription, topic, partition, "offset", source, position, previous, key, envelope, data, '
    "state, attempts, due_at, error_type, error, parked_at"
)
_INSERT = f"INSERT INTO ensue_dead_letter ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"
_SELECT = f"SELECT {_COLUMNS}, id FROM ensue_dead_letter"
_COUNTS = (
    "SELECT subscription, topic, partition, state, count(*) FROM ensue_dead_letter "
    "GROUP BY subscription, topic, partition, state"
)
# An operator's DISCARDED is final: a worker that did not know of it yet must look again.
_CHANGE = (
    "UPDATE ensue_dead_letter SET state = ?, attempts = ?, due_at = ?, error_type = ?, error = ? "
    "WHERE id = ? AND state <> 'discarded'"
)
_REMOVE = "DELETE FROM ensue_dead_letter WHERE id = ? AND state <> 'discarded'"


def add(connection: sqlite3.Connection, letters: Sequence[DeadLetter]) -> None:
    """Insert the letters and give them their ids."""
    for letter in letters:
        cursor = connection.execute(
            _INSERT,
            (
                *letter.partition, letter.offset, letter.source, letter.position, letter.previous, letter.key,
                letter.envelope, letter.data, letter.state.value, letter.attempts, letter.due_at,
                _storable(letter.error_type), _storable(letter.error), letter.parked_at,
            ),
        )  # fmt: skip
        letter.id = cursor.lastrowid or 0


def change(connection: sqlite3.Connection, letter: DeadLetter) -> None:
    values = (letter.state.value, letter.attempts, letter.due_at, _storable(letter.error_type), _storable(letter.error))
    if connection.execute(_CHANGE, (*values, letter.id)).rowcount != 1:
        raise rules.letter_gone(letter.id)


def remove(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    for letter_id in ids:
        if connection.execute(_REMOVE, (letter_id,)).rowcount != 1:
            raise rules.letter_gone(letter_id)


def find(
    connection: sqlite3.Connection, partition: Partition | None, states: Sequence[DeadLetterState], limit: int
) -> list[DeadLetter]:
    conditions: list[str] = []
    values: list[object] = []
    if partition is not None:
        conditions.append("subscription = ? AND topic = ? AND partition = ?")
        values += partition
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values += [state.value for state in states]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return [_letter(row) for row in connection.execute(f"{_SELECT}{where} ORDER BY id LIMIT ?", (*values, limit))]


def get(connection: sqlite3.Connection, letter_id: int) -> DeadLetter | None:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (letter_id,)).fetchone()
    return None if row is None else _letter(row)


def counts(connection: sqlite3.Connection) -> dict[tuple[Partition, DeadLetterState], int]:
    return {
        (Partition(subscription, topic, number), DeadLetterState(state)): count
        for subscription, topic, number, state, count in connection.execute(_COUNTS)
    }


def decide(connection: sqlite3.Connection, letter_id: int, state: DeadLetterState) -> DeadLetter:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (letter_id,)).fetchone()
    letter = rules.check_decision(letter_id, None if row is None else _letter(row), state)
    letter.state = state
    change(connection, letter)
    return letter


def _letter(row: tuple[object, ...]) -> DeadLetter:
    subscription, topic, number, offset, source, position, previous, key, envelope, data, state, *rest = row
    letter = DeadLetter(  # the columns are as strict as the fields
        Partition(subscription, topic, number), offset, source, position, previous, key, envelope, data,  # type: ignore[arg-type]
        DeadLetterState(state), *rest,  # type: ignore[arg-type]
    )  # fmt: skip
    return letter


def _storable(text: str) -> str:
    """The text of an error may hold anything, also half a character that no database takes."""
    return text.encode("utf-8", "backslashreplace").decode()
