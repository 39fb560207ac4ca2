"""Random scripts of what people do with a session, run against the real one and a model of it."""

from __future__ import annotations

from random import Random

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from tests.sessions.desk import Ticket, TicketOpened

from ensue import Service

#: What is done, and how often.
DOES = {
    "publish": 8,
    "both": 8,
    "flush": 2,
    "savepoint": 5,
    "release": 3,
    "go back": 3,
    "fail": 2,
    "commit": 2,
    "commit the root": 1,
    "roll back": 1,
    "close": 1,
}
#: A row that is always there: who adds it again fails.
TAKEN = 0


class Script:
    """The model: a stack of what each open savepoint has published, and what is committed. rows: tickets besides."""

    def __init__(self, seed: int, first: int = 1) -> None:
        self._random = Random(seed)
        self._next = first
        self._open: list[tuple[list[int], list[int]]] = [([], [])]
        self.events: list[int] = []
        self.rows: list[int] = []
        self.said: list[str] = []

    def run(self, desk: Service, session: Session, steps: int = 40) -> None:
        for _ in range(steps):
            [what] = self._random.choices(list(DOES), list(DOES.values()))
            self.said.append(what)
            self._do(what, desk, session)
        self.said.append("commit")
        session.commit()
        self._ended(kept=True)

    def _do(self, what: str, desk: Service, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        events, rows = self._open[-1]
        if what in ("publish", "both"):
            number, self._next = self._next, self._next + 1
            events.append(number)
            if what == "both":
                rows.append(number)
                session.add(Ticket(id=number))
            desk.publish(session, TicketOpened(ticket_id=number, text=str(number)))
        elif what == "flush":
            session.flush()
        elif what == "savepoint":
            session.begin_nested()
            self._open.append(([], []))
        elif what == "release" and savepoint is not None:
            savepoint.commit()
            self._open.pop()
            self._open[-1][0].extend(events)
            self._open[-1][1].extend(rows)
        elif what == "go back" and savepoint is not None:
            savepoint.rollback()
            self._open.pop()
        elif what == "fail":
            self._fail(session)
        elif what.startswith("commit"):
            root = session.get_transaction()
            if what == "commit" or root is None:
                session.commit()
            else:
                root.commit()
            self._ended(kept=True)
        elif what in ("roll back", "close"):
            (session.rollback if what == "roll back" else session.close)()
            self._ended(kept=False)

    def _fail(self, session: Session) -> None:
        """A flush that the database refuses takes the innermost savepoint along, or everything."""
        savepoint = session.get_nested_transaction()
        session.add(Ticket(id=TAKEN))
        try:
            session.flush()
        except IntegrityError:
            if savepoint is None:
                session.rollback()
                self._ended(kept=False)
            else:
                # As a block does that is left by an error: a transaction that is not active any more is closed.
                (savepoint.rollback if self._random.random() < 0.5 else savepoint.close)()
                self._open.pop()
        else:
            raise AssertionError("the row that is there already was not refused")

    def _ended(self, *, kept: bool) -> None:
        if kept:
            for events, rows in self._open:
                self.events += events
                self.rows += rows
        self._open = [([], [])]
