"""A program that publishes in sessions of its own, as a task queue's worker does, and is killed at it."""

from __future__ import annotations

import sys

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session
from tests.sessions.desk import Ticket, TicketOpened, engine_at, plain_url

from ensue import Service


def wait(said: str) -> None:
    """Say where it is, and go on when it is told to."""
    print(said, flush=True)
    sys.stdin.readline()


def main(url: str, place: str) -> None:
    """place: where to wait in the second transaction; `never`: it goes on as fast as it can."""
    desk = Service("desk", database=url, publishes=[TicketOpened])
    engine = engine_at(plain_url(url))

    def committing(_: object) -> None:
        if place == "written":
            wait("written")

    with Session(engine) as session:
        first = 1 + (session.scalar(select(func.max(Ticket.id))) or 0)
        session.rollback()
        for number in range(first, 1_000_000):
            session.add(Ticket(id=number))
            desk.publish(session, TicketOpened(ticket_id=number, text=str(number)))
            session.flush()
            if number == 2:
                if place == "flushed":
                    wait("flushed")
                event.listen(session.connection(), "commit", committing)  # after ours: the event is written
            session.commit()
            if place == "committed" and number == 2:
                wait("committed")
            if place == "never":
                print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
