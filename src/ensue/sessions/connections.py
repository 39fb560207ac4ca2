"""Which connections the transaction of a session has, and what holds its rows there: noted of all sessions, since both
may have begun before the first event is published."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from sqlalchemy import Connection, MetaData, NestedTransaction, Table, Update, event, update
from sqlalchemy import Transaction as DatabaseTransaction
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from ensue.errors import UsageError

#: In the info of a session whose transaction has, or had, a savepoint.
SAVEPOINT = "ensue.savepoint"
#: In the info of a session: the connections of its transaction, and what holds its rows there, a transaction or a
#: savepoint: of the session, or of whoever gave it a connection.
_CONNECTIONS = "ensue.connections"
#: In the info of a session: which savepoint of a connection is which of its own.
_OWN_SAVEPOINTS = "ensue.savepoints"


_Held = weakref.WeakKeyDictionary[Connection, "weakref.ref[DatabaseTransaction]"]
_OwnSavepoints = weakref.WeakKeyDictionary[DatabaseTransaction, "weakref.ref[SessionTransaction]"]


def connections_of(session: Session) -> _Held:
    found = session.info.get(_CONNECTIONS)
    if found is None:
        found = session.info[_CONNECTIONS] = _Held()
    assert isinstance(found, weakref.WeakKeyDictionary)
    return found


def own_savepoints_of(session: Session) -> _OwnSavepoints:
    found = session.info.get(_OWN_SAVEPOINTS)
    if found is None:
        found = session.info[_OWN_SAVEPOINTS] = _OwnSavepoints()
    assert isinstance(found, weakref.WeakKeyDictionary)
    return found


def _note_transaction(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.info[SAVEPOINT] = True
    elif transaction.parent is None:
        session.info.pop(SAVEPOINT, None)
        connections_of(session).clear()


def _note_connection(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    within = connection.get_nested_transaction() or connection.get_transaction()
    if transaction.parent is None and within is not None:
        connections_of(session)[connection] = weakref.ref(within)
    elif transaction.nested and within is not None:
        own_savepoints_of(session)[within] = weakref.ref(transaction)


event.listen(Session, "after_transaction_create", _note_transaction)
event.listen(Session, "after_begin", _note_connection)


def a_write(tables: MetaData | None) -> Update:
    """Asks a session for the connection that writes. Those that route, as in SQLAlchemy's documentation, have another
    one to read; those of Flask-SQLAlchemy look at the info of the MetaData, here that of the service's own tables."""
    return update(Table("ensue_meta", MetaData(info=None if tables is None else dict(tables.info))))


def joined(session: Session, write: Update) -> list[Connection]:
    """The connection that was given to the session, in whose open transaction the session takes part."""
    try:
        bind = session.get_bind(clause=write)
    except UnboundExecutionError:
        return []  # `_watch` says what is wrong
    return [bind] if isinstance(bind, Connection) and bind.in_transaction() else []


def _would_join(session: Session, connection: Connection) -> DatabaseTransaction | None:
    """Which transaction would hold the session's rows and is not its own, had it sent any. None: it would have made a
    savepoint, which is gone with it."""
    mode, within = session.join_transaction_mode, connection.get_nested_transaction()
    if mode in ("create_savepoint", "control_fully") or (mode == "conditional_savepoint" and within is not None):
        return None
    return within or connection.get_transaction()


def refuse_rows_alone(session: Session, connection: Connection) -> None:
    """A session was closed, neither committed nor rolled back, and its rows may stay in a transaction that it does not
    own: whether they are to be kept that one's commit says, and of their events nobody has. One that has only published
    may have sent nothing there yet."""
    held = connections_of(session).get(connection)
    within = _would_join(session, connection) if held is None else held()
    if within is None or not within.is_active:
        return
    root = connection.get_transaction()
    around = set[str]()
    each: DatabaseTransaction | None = within
    while isinstance(each, NestedTransaction):
        around.add(str(each._savepoint))
        each = each._previous_nested
    gone: list[str] = []

    def gone_back(_: Connection, name: str, __: None) -> None:
        if name in around:
            gone.append(name)

    def refuse(connection: Connection) -> None:
        if connection.get_transaction() is root and not gone:
            roll_back(connection)
            raise UsageError(
                "this transaction cannot commit: a session that took part in it has published, and was closed without "
                "a commit, so its rows would be kept without their events: session.commit() before it is closed, "
                "which leaves the transaction open; session.rollback() takes back what it has published"
            )

    event.listen(connection, "commit", refuse)
    event.listen(connection, "rollback_savepoint", gone_back)


def check_alone(connection: Connection, all_of_them: Iterable[Connection]) -> None:
    """Raise UsageError where the rows may go by another connection, whose commit is another one."""
    url = connection.engine.url
    if any(each is not connection and each.engine.url == url for each in all_of_them):
        raise UsageError(
            "an event was published in a session that has two connections to its database, of two engines, so its rows "
            "may be in another transaction than the event: give the session one engine for all that it does there"
        )


def writes_by(session: Session, write: Update, connection: Connection) -> bool:
    try:
        bind = session.get_bind(clause=write)
    except UnboundExecutionError:
        return False  # `_watch` says what is wrong
    return bind is connection or bind is connection.engine


def roll_back(connection: Connection) -> None:
    """SQLAlchemy takes a transaction whose commit a listener refuses for ended, and hands its connection to the pool
    with the rows in it: whoever gets it next would commit them."""
    try:
        connection.dialect.do_rollback(connection.connection)
    except Exception as error:  # it is of no use to anybody
        connection.invalidate(error)
