"""What every store says in the same way: its refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensue.errors import RowConflict, UsageError


def cannot_commit(caught: BaseException) -> UsageError:
    """For a step that caught an error after which its transaction is no whole any more."""
    return UsageError(
        "the step cannot commit after this error, which was caught inside of it: "
        f"{str(caught) or type(caught).__name__}. Let it pass",
        caught=caught,
    )


def ended_inside() -> UsageError:
    return UsageError(
        "the step's transaction was ended inside of it, by a statement (in a procedure, say) or by an error of "
        "the database that was caught: a step commits by itself when it returns; let such errors pass"
    )


def ends_the_step(words: str) -> UsageError:
    return UsageError(
        f"{words} in the session of a step: it would end the transaction, or change what the step and others on its "
        "connection rely on. Remove it: a step commits when it returns and rolls back when it raises an error; a part "
        "of it is undone with begin_nested(); tables are made by migrations; settings are for the database's URL",
        statement=words,
    )


def unknown_savepoint(name: str) -> UsageError:
    return UsageError(
        f"ROLLBACK TO {name}: this message has set no such savepoint, so it might undo another one's work. Write "
        "`async with session.begin_nested()`, or set it first"
    )


def forked(place: str) -> UsageError:
    return UsageError(
        f"{place}: this process was forked from the one that opened the store, and what it sends would be part of that "
        "one's transactions. Start the service anew in a child that is not forked from a running one: "
        'multiprocessing.get_context("spawn")'
    )


def session_ended() -> UsageError:
    return UsageError(
        "this session belongs to a step that has ended; what it does would be in no transaction. "
        "Open a step of its own for work that goes on"
    )


def writes_nothing() -> UsageError:
    return UsageError("a query changes nothing: open a step to write")


def has_history(place: str) -> UsageError:
    return UsageError(
        f"{place} has published events of its own already, so it cannot go on with another database's history: give an "
        "empty database"
    )


def not_allowed(place: str, service: str, what: str) -> UsageError:
    return UsageError(
        f"{place}: the user of service {service} lacks a right: {what}. Grant it (deploy/postgres/roles and "
        "deploy/mariadb/roles have all that are needed); where tables are to be made, let their owner do it first: "
        "`ensue db init`, or a migration"
    )


def store_not_open(kind: str, service: str) -> UsageError:
    return UsageError(f"the {kind}store of {service} is not open: call open() first")


def rows_missing(table: str, id_column: str, wanted: int, found: int) -> UsageError:
    return UsageError(
        f"table {table}: {wanted} rows to update, {found} of them are there by {id_column}: "
        "was a row deleted, or the id of a loaded entity changed?",
        table=table,
    )


def not_open() -> UsageError:
    return UsageError("this transaction is not open: it begins with `async with` and ends with its block")


def rows_changed(table: str, ids: Sequence[Any], found: int) -> RowConflict:
    """For rows that were to be as expected, of which only `found` were."""
    some = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    return RowConflict(
        f"table {table}: {len(ids)} rows expected as they were loaded ({some}), {found} of them are: another step "
        "changed or removed them first; load them again",
        table=table,
    )


def row_exists(table: str, row_id: Any) -> RowConflict:
    return RowConflict(f"table {table} has a row {row_id!r} already: another step inserted it first", table=table)
