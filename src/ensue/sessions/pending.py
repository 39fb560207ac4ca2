"""What a session has published and not written yet, and when it is written: by SQLAlchemy's own events.

`before_commit` comes for savepoints too, and does not say whose it is; but a session with no savepoint open can only
mean its outermost commit. Then its changes are flushed, whose row locks put the events of one key in order, and what
was published is written. Whatever is published after that, by a listener of the user's during the commit, or while a
savepoint was left open, is written when the connection commits, which is the last moment there is. See docs/adr/0052.
"""

from __future__ import annotations

import datetime
import weakref
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Update, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util.concurrency import in_greenlet

from ensue.errors import EnsueError, UsageError
from ensue.sessions.connections import (
    SAVEPOINT,
    check_alone,
    connections_of,
    joined,
    own_savepoints_of,
    refuse_rows_alone,
    roll_back,
    writes_by,
)
from ensue.sessions.publisher import Draft, Publisher, Transaction

#: So many flushes in a row SQLAlchemy allows at a commit as well.
_FLUSHES_MAX = 100
_INFO = "ensue.pending"


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
        self._connections = connections_of(session)
        self._own_savepoints = own_savepoints_of(session)
        self._failed: BaseException | None = None
        self._wrote = self._apart = False
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_begin", self._connected)
        event.listen(session, "after_rollback", self._rolled_back)
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
        if _can_ask(session, publisher.write):
            self._watch(session)
        self._drafts += drafts
        for connection in [*self._connections, *(joined(session, publisher.write) if self._heard is None else ())]:
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
            if self._drafts and not (self._apart and connection not in self._connections):
                self._check(connection)
                self._write(connection)
            self._savepoints.clear()
        except BaseException:
            roll_back(connection)
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
        if not self._drafts or self._heard is not None or self._publisher is None:
            return
        if writes_by(session, self._publisher.write, connection):
            self._hear(connection)

    def _savepoint_begun(self, *_: object) -> None:
        self._savepoints.append(len(self._drafts))  # it has no name yet

    def _savepoint_released(self, connection: Connection, *_: object) -> None:
        """It says so before a listener of the user's for the session's `after_commit`, which may come before ours, and
        fail, while the rows of the savepoint are in the transaction."""
        within = connection.get_nested_transaction()
        own = None if within is None else self._own_savepoints.get(within)
        if own is not None and (savepoint := own()) is not None:
            self._released.add(savepoint)
        if self._savepoints:
            self._savepoints.pop()

    def _savepoint_gone_back(self, connection: Connection, *_: object) -> None:
        # One of which we were not told that it began is older than whatever was published.
        mark = self._savepoints.pop() if self._savepoints else 0
        if connection in self._connections:
            self._drop_after(mark)
        else:  # async code has only published: its rows are still to come, and nothing of it went back
            self._apart = True

    def _gone_back(self, connection: Connection) -> None:
        """A session that is part of a transaction of its connection may stay when that is rolled back."""
        self._savepoints.clear()
        if connection in self._connections:
            self._drop_after(0)
        else:
            self._apart = True

    def _rolled_back(self, session: Session) -> None:
        if not session.in_nested_transaction():
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
                if not self._apart or connection in self._connections:
                    refuse_rows_alone(session, connection)
        self._hear(None)
        wrote, ended = self._wrote, self._transaction
        self._drafts.clear()
        self._marks.clear()
        self._transaction = self._watched = self._failed = None
        self._wrote = self._apart = False
        if wrote and ended is not None:
            ended.outbox.committed()  # a hint, which says nothing wrong where it was rolled back

    # ---

    def _watch(self, session: Session) -> Connection:
        """Return the connection of the session's transaction, at whose commit we are told."""
        assert self._transaction is not None
        assert self._publisher is not None
        connection = self._watched
        if connection is None:
            try:
                connection = session.connection(bind_arguments={"clause": self._publisher.write})
            except UnboundExecutionError as error:
                raise UsageError(
                    "an event was published in a session that has no engine of its own, only some of its classes have: "
                    "give it the engine of the service's database, Session(engine, binds={...})"
                ) from error
            self._check(connection)
            self._hear(connection)
        if session.info.get(SAVEPOINT) or session.in_nested_transaction():
            self._transaction.outbox.check_savepoint(connection)
        return connection

    def _check(self, connection: Connection) -> None:
        assert self._transaction is not None
        if self._watched is None:
            self._transaction.outbox.check(connection)
            if self._info.get(SAVEPOINT):
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
            check_alone(connection, self._connections)
            self._transaction.write(connection, self._drafts)
        except BaseException as error:
            self._failed = error  # a part of the records may be in
            raise
        self._drop_after(0)


def _note_commit(session: Session) -> None:
    pending = session.info.get(_INFO)
    if isinstance(pending, Pending):
        pending.committed(session)


# Before a listener of the user's, whose error would hide that it was committed: those of all sessions, and of what a
# sessionmaker makes, come before those of one session.
event.listen(Session, "after_commit", _note_commit, insert=True)


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


def _can_ask(session: Session, write: Update) -> bool:
    """Whether statements can be sent from here: not from async code, which is none of SQLAlchemy's greenlets."""
    try:
        bind = session.get_bind(clause=write)
    except UnboundExecutionError:
        return True  # `_watch` says what is wrong
    return not bind.dialect.is_async or in_greenlet()


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
