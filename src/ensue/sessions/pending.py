"""What a session has published and not written yet, and when it is written: by SQLAlchemy's own events.

`before_commit` comes for savepoints too, and does not say whose it is; but a session with no savepoint open can only
mean its outermost commit. Then its changes are flushed, whose row locks put the events of one key in order, and what
was published is written. Whatever is published after that, by a listener of the user's during the commit, or while a
savepoint was left open, is written when the connection commits, which is the last moment there is. See docs/adr/0052.
"""

from __future__ import annotations

import datetime
import weakref
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, MetaData, Table, event, update
from sqlalchemy import Transaction as DatabaseTransaction
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util.concurrency import in_greenlet

from ensue.errors import EnsueError, UsageError
from ensue.sessions.publisher import Draft, Publisher, Transaction

#: So many flushes in a row SQLAlchemy allows at a commit as well.
_FLUSHES_MAX = 100
_INFO = "ensue.pending"
#: In the info of a session whose transaction has, or had, a savepoint.
_SAVEPOINT = "ensue.savepoint"
#: In the info of a session: the connections of its transaction, and what holds its rows there, a transaction or a
#: savepoint: of the session, or of whoever gave it a connection.
_CONNECTIONS = "ensue.connections"
#: Asks for the connection that writes. Sessions that route, as in SQLAlchemy's documentation, have another one to read.
_A_WRITE = update(Table("ensue_meta", MetaData()))


class Pending:
    """Of one session, in whose `info` it is, for as long as that lives; it may have any number of transactions."""

    def __init__(self, session: Session) -> None:
        self._publisher: Publisher | None = None
        self._transaction: Transaction | None = None
        self._drafts: list[Draft] = []
        #: How much was published when a savepoint began. Weak, since one may end without a word.
        self._marks: weakref.WeakKeyDictionary[SessionTransaction, int] = weakref.WeakKeyDictionary()
        #: Savepoints that were released. Any other one that ends was rolled back.
        self._released: weakref.WeakSet[SessionTransaction] = weakref.WeakSet()
        #: Of the transaction: looked at, and so known to take events.
        self._watched: Connection | None = None
        #: At whose commit we are told: the same one, or of async code the one that `_watch` will find.
        self._heard: Connection | None = None
        #: How much was published when each open savepoint of that connection began, the innermost last. Whoever has
        #: the connection may make some, and not only the session.
        self._savepoints: list[int] = []
        self._info = session.info
        self._connections = _connections_of(session)
        self._failed: BaseException | None = None
        self._wrote = False
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_begin", self._connected)
        event.listen(session, "after_transaction_create", self._begun)
        event.listen(session, "after_transaction_end", self._ended)

    def publish(
        self,
        session: Session,
        publisher: Publisher,
        events: Sequence[object],
        extensions: Mapping[str, str] | None,
        after: datetime.timedelta | None,
        at: datetime.datetime | None,
    ) -> None:
        if self._transaction is None or self._publisher is not publisher:
            if self._transaction is not None and self._publisher is not None:
                raise UsageError(
                    f"services {self._publisher.definition.name} and {publisher.definition.name} publish in one "
                    "transaction of a session: each has a database of its own, and so an outbox"
                )
            transaction = publisher.begin()
        else:
            transaction = self._transaction
        drafts = [transaction.draft(each, extensions, after, at) for each in events]
        _begin(session)
        self._publisher, self._transaction = publisher, transaction
        if _can_ask(session):
            self._watch(session)
        self._drafts += drafts
        for connection in list(self._connections):
            self._connected(session, None, connection)

    # --- what SQLAlchemy tells

    def _before_commit(self, session: Session) -> None:
        if self._failed is not None:
            raise _cannot_commit(self._failed) from self._failed
        if not self._drafts:
            return
        connection = self._watch(session)
        if session.in_nested_transaction():
            # A savepoint is released. Or the outermost transaction is committed while one was left open: `_committing`.
            return
        _flush(session)
        self._write(connection)

    def _committing(self, connection: Connection) -> None:
        try:
            if self._failed is not None:
                raise _cannot_commit(self._failed) from self._failed
            if self._drafts:
                self._check(connection)
                self._write(connection)
            self._savepoints.clear()
        except BaseException:
            _roll_back(connection)
            raise

    def committed(self, session: Session) -> None:
        """A savepoint was released, or all is committed: then something is left only of a session that is part of a
        transaction of its connection, which goes on. That one's commit may be long after this session has ended."""
        savepoint = session.get_nested_transaction()
        if savepoint is not None:
            self._released.add(savepoint)
        elif self._drafts and self._watched is not None:
            self._write(self._watched)

    def _connected(self, session: Session, _: SessionTransaction | None, connection: Connection) -> None:
        """Async code cannot ask for the connection when it publishes, and its session may be left without a word in a
        transaction of that connection, which commits later."""
        if self._drafts and self._heard is None and _writes_by(session, connection):
            self._hear(connection)

    def _savepoint_begun(self, *_: object) -> None:
        self._savepoints.append(len(self._drafts))  # it has no name yet

    def _savepoint_released(self, *_: object) -> None:
        if self._savepoints:
            self._savepoints.pop()

    def _savepoint_gone_back(self, *_: object) -> None:
        # One of which we were not told that it began is older than whatever was published.
        self._drop_after(self._savepoints.pop() if self._savepoints else 0)

    def _gone_back(self, _: Connection) -> None:
        """A session that is part of a transaction of its connection may stay when that is rolled back."""
        self._savepoints.clear()
        self._drop_after(0)

    def _drop_after(self, kept: int) -> None:
        del self._drafts[kept:]
        self._savepoints = [min(mark, kept) for mark in self._savepoints]
        for savepoint, mark in list(self._marks.items()):
            self._marks[savepoint] = min(mark, kept)

    def _begun(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._marks[transaction] = len(self._drafts)

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        """Also of a session that is closed, and of a savepoint that is closed since a flush in it has failed: of what
        ends like that no rollback is told."""
        if transaction.nested and transaction not in self._released:
            self._drop_after(self._marks.get(transaction, 0))
        if transaction.parent is not None:
            return
        if self._drafts:
            # Where none is heard, the rows may be in any.
            for connection in list(self._connections) if self._heard is None else [self._heard]:
                _refuse_rows_alone(session, connection)
        self._hear(None)
        wrote, ended = self._wrote, self._transaction
        self._drafts.clear()
        self._marks.clear()
        self._transaction = self._watched = self._failed = None
        self._wrote = False
        if wrote and ended is not None:
            ended.outbox.committed()  # a hint, which says nothing wrong where it was rolled back

    # ---

    def _watch(self, session: Session) -> Connection:
        """Return the connection of the session's transaction, at whose commit we are told."""
        assert self._transaction is not None
        connection = self._watched
        if connection is None:
            try:
                connection = session.connection(bind_arguments={"clause": _A_WRITE})
            except UnboundExecutionError as error:
                raise UsageError(
                    "an event was published in a session that has no engine of its own, only some of its classes have: "
                    "give it the engine of the service's database, Session(engine, binds={...})"
                ) from error
            self._check(connection)
            self._hear(connection)
        if session.info.get(_SAVEPOINT) or session.in_nested_transaction():
            self._transaction.outbox.check_savepoint(connection)
        return connection

    def _check(self, connection: Connection) -> None:
        assert self._transaction is not None
        if self._watched is None:
            self._transaction.outbox.check(connection)
            if self._info.get(_SAVEPOINT):
                self._transaction.outbox.check_savepoint(connection)
            self._watched = connection

    def _hear(self, connection: Connection | None) -> None:
        if self._heard is connection:
            return
        for told_of, listener in (
            ("commit", self._committing),
            ("rollback", self._gone_back),
            ("savepoint", self._savepoint_begun),
            ("release_savepoint", self._savepoint_released),
            ("rollback_savepoint", self._savepoint_gone_back),
        ):
            if self._heard is not None:
                event.remove(self._heard, told_of, listener)
            if connection is not None:
                event.listen(connection, told_of, listener)
        self._heard = connection
        self._savepoints.clear()

    def _write(self, connection: Connection) -> None:
        assert self._transaction is not None
        self._wrote = True
        try:
            _check_alone(connection, self._connections)
            self._transaction.write(connection, self._drafts)
        except BaseException as error:
            self._failed = error  # a part of the records may be in
            raise
        self._drop_after(0)


def _roll_back(connection: Connection) -> None:
    """SQLAlchemy takes a transaction whose commit a listener refuses for ended, and hands its connection to the pool
    with the rows in it: whoever gets it next would commit them."""
    try:
        connection.dialect.do_rollback(connection.connection)
    except Exception as error:  # it is of no use to anybody
        connection.invalidate(error)


def _refuse_rows_alone(session: Session, connection: Connection) -> None:
    """A session was closed, neither committed nor rolled back, and its rows may stay in a transaction that it does not
    own: whether they are to be kept that one's commit says, and of their events nobody has."""
    held = _connections_of(session).get(connection)
    within = None if held is None else held()
    if within is None or not within.is_active:
        return
    root = connection.get_transaction()

    def refuse(connection: Connection) -> None:
        if connection.get_transaction() is root:
            _roll_back(connection)
            raise UsageError(
                "this transaction cannot commit: a session that took part in it has published, and was closed without "
                "a commit, so its rows would be kept without their events: session.commit() before it is closed, "
                "which leaves the transaction open"
            )

    event.listen(connection, "commit", refuse)


_Held = weakref.WeakKeyDictionary[Connection, "weakref.ref[DatabaseTransaction]"]


def _connections_of(session: Session) -> _Held:
    found = session.info.get(_CONNECTIONS)
    if found is None:
        found = session.info[_CONNECTIONS] = _Held()
    assert isinstance(found, weakref.WeakKeyDictionary)
    return found


def _note_transaction(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.info[_SAVEPOINT] = True
    elif transaction.parent is None:
        session.info.pop(_SAVEPOINT, None)
        _connections_of(session).clear()


def _note_commit(session: Session) -> None:
    pending = session.info.get(_INFO)
    if isinstance(pending, Pending):
        pending.committed(session)


def _note_connection(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    within = connection.get_nested_transaction() or connection.get_transaction()
    if transaction.parent is None and within is not None:
        _connections_of(session)[connection] = weakref.ref(within)


# Of all sessions: both may have been before the first event is published, when `Pending` begins to look.
event.listen(Session, "after_transaction_create", _note_transaction)
event.listen(Session, "after_begin", _note_connection)
# Before a listener of the user's, whose error would hide that it was committed: those of all sessions, and of what a
# sessionmaker makes, come before those of one session.
event.listen(Session, "after_commit", _note_commit, insert=True)


def _check_alone(connection: Connection, all_of_them: Iterable[Connection]) -> None:
    """Raise UsageError where the rows may go by another connection, whose commit is another one."""
    url = connection.engine.url
    if any(each is not connection and each.engine.url == url for each in all_of_them):
        raise UsageError(
            "an event was published in a session that has two connections to its database, of two engines, so its rows "
            "may be in another transaction than the event: give the session one engine for all that it does there"
        )


def pending_of(session: Session) -> Pending:
    found = session.info.get(_INFO)
    if found is None:
        found = session.info[_INFO] = Pending(session)
    assert isinstance(found, Pending)
    return found


def _begin(session: Session) -> None:
    """As whatever else is done with a session begins its transaction."""
    if not session.is_active:
        # Its flush has failed, or a listener publishes when its commit or rollback is done: no state is told.
        raise UsageError(
            "an event was published in a session whose transaction has failed: roll it back first, session.rollback(), "
            "and do all of it anew; or it is over: a listener publishes in before_commit or after_flush, and not in "
            "after_commit, when nothing can be written with the rows any more"
        )
    if session.in_transaction():
        return
    if not session.autobegin:
        raise UsageError(
            "an event was published in a session with autobegin=False and no transaction: session.begin() comes first"
        )
    session.begin()


def _can_ask(session: Session) -> bool:
    """Whether statements can be sent from here: not from async code, which is none of SQLAlchemy's greenlets."""
    try:
        bind = session.get_bind(clause=_A_WRITE)
    except UnboundExecutionError:
        return True  # `_watch` says what is wrong
    return not bind.dialect.is_async or in_greenlet()


def _writes_by(session: Session, connection: Connection) -> bool:
    try:
        bind = session.get_bind(clause=_A_WRITE)
    except UnboundExecutionError:
        return False  # `_watch` says what is wrong
    return bind is connection or bind is connection.engine


def _flush(session: Session) -> None:
    """Send all changes, also those that listeners make at a flush."""
    for _ in range(_FLUSHES_MAX):
        if not (session.new or session.dirty or session.deleted):
            return
        session.flush()


def _cannot_commit(failed: BaseException) -> UsageError:
    # What others say of it may show what the event says.
    said = str(failed) if isinstance(failed, EnsueError) else type(failed).__name__
    return UsageError(
        "this session cannot commit any more, since an event could not be written with its rows: roll it back, "
        f"session.rollback(). What happened: {said}",
        caught=failed,
    )
