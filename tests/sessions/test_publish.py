"""What is published in a session of the user's goes out if and only if that session's outermost transaction commits."""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import Delete, Engine, MetaData, Update, create_engine, event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from tests.sessions.desk import (
    Base,
    Ticket,
    TicketClosed,
    TicketOpened,
    async_engine_at,
    desk_at,
    engine_at,
    envelopes,
    made_by,
    published,
    records,
    texts,
    tickets,
)

import ensue
import ensue.testing
from ensue import Service, UsageError
from ensue.codec import decode_envelope


@pytest.fixture
def desk(tmp_path: Path) -> Service:
    return desk_at(f"sqlite:///{tmp_path}/desk.db?synchronous=OFF")


@pytest.fixture
def engine(desk: Service, tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    yield engine
    engine.dispose()


def open_ticket(session: Any, number: int, text: str = "") -> None:
    session.add(Ticket(id=number, text=text))
    ensue.publish(session, TicketOpened(ticket_id=number, text=text))


def test_a_commit_sends_and_a_rollback_does_not(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        open_ticket(session, 1, "kept")
        session.commit()
        open_ticket(session, 2, "dropped")
        session.rollback()
        session.commit()
        open_ticket(session, 3, "closed with its session")
    assert texts(published(desk)) == ["kept"]
    assert tickets(engine) == [1]


def test_a_session_that_commits_twice_sends_once(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        open_ticket(session, 1, "once")
        session.commit()
        session.commit()
        session.add(Ticket(id=2))
        session.commit()
        open_ticket(session, 3, "then")
        session.commit()
    assert texts(published(desk)) == ["once", "then"]
    assert [each.position for each in published(desk)] == [1, 2]


def test_everything_that_begins_a_transaction_will_do(desk: Service, engine: Engine) -> None:
    make = sessionmaker(engine, expire_on_commit=False)
    with Session(engine) as session, session.begin():
        open_ticket(session, 1, "session.begin")
    with make.begin() as session:
        open_ticket(session, 2, "sessionmaker.begin")
    with suppress(ZeroDivisionError), make.begin() as session:
        open_ticket(session, 3, "an error in the middle")
        1 / 0  # noqa: B018
    scoped = scoped_session(make)
    open_ticket(scoped, 4, "scoped_session")
    scoped.commit()
    scoped.remove()
    open_ticket(scoped, 5, "removed")
    scoped.remove()
    with make(autobegin=False) as session:
        with pytest.raises(UsageError, match=r"session\.begin\(\) comes first"):
            desk.publish(session, TicketOpened(ticket_id=6))
        with session.begin():
            open_ticket(session, 6, "autobegin=False")
    assert texts(published(desk)) == ["session.begin", "sessionmaker.begin", "scoped_session", "autobegin=False"]


def test_a_savepoint_that_goes_back_takes_its_events_along(desk: Service, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        open_ticket(session, 1, "before")
        with session.begin_nested():
            open_ticket(session, 2, "kept")
        with suppress(ZeroDivisionError), session.begin_nested():
            open_ticket(session, 3, "lost")
            with session.begin_nested():
                open_ticket(session, 4, "lost with the outer one")
            1 / 0  # noqa: B018
        with pytest.raises(IntegrityError), session.begin_nested():
            open_ticket(session, 1, "the flush fails")
        with session.begin_nested():
            open_ticket(session, 5, "outer")
            inner = session.begin_nested()
            open_ticket(session, 6, "inner")
            inner.rollback()
        open_ticket(session, 7, "after")
    assert texts(published(desk)) == ["before", "kept", "outer", "after"]
    assert tickets(engine) == [1, 2, 5, 7]


def test_a_savepoint_left_open_by_its_transactions_commit_is_part_of_it(desk: Service, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        open_ticket(session, 1, "outer")
        session.begin_nested()
        open_ticket(session, 2, "inner")
    with Session(engine) as session:
        session.begin_nested()
        open_ticket(session, 3, "never ended")
        session.commit()
    with Session(engine) as session:
        session.begin_nested()
        open_ticket(session, 4, "closed")
    assert texts(published(desk)) == ["outer", "inner", "never ended"]
    assert tickets(engine) == [1, 2, 3]


def test_a_flush_that_fails_takes_all_along_and_a_retry_sends_once(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Ticket(id=1))
        session.commit()
        open_ticket(session, 1, "refused")
        with pytest.raises(IntegrityError):
            session.commit()
        with pytest.raises(UsageError, match="roll it back first"):
            desk.publish(session, TicketOpened(ticket_id=9))
        session.rollback()
        open_ticket(session, 2, "tried again")
        session.commit()
    assert texts(published(desk)) == ["tried again"]


def test_what_a_listener_publishes_while_its_session_commits_goes_out(desk: Service, engine: Engine) -> None:
    """The first event of a session, from a flush that is part of its commit; and one of a flush that comes after it."""

    class Desk(Session): ...

    def tell(session: Session, context: object) -> None:
        for each in session.new:
            if isinstance(each, Ticket):
                ensue.publish(session, TicketOpened(ticket_id=each.id, text=each.text))

    def add_more(session: Session) -> None:
        if session.info.pop("more", False):
            session.add(Ticket(id=2, text="late"))

    event.listen(Desk, "after_flush", tell)
    with Desk(engine) as session:
        session.add(Ticket(id=1, text="in the commit"))
        session.info["more"] = True
        session.commit()
        session.info["more"] = True
        event.listen(session, "before_commit", add_more)  # after ours
        open_ticket(session, 3, "first")
        session.delete(session.get_one(Ticket, 1))
        session.commit()
    assert texts(published(desk)) == ["in the commit", "first", "first", "late"]


def test_events_keep_their_order_and_their_chain(desk: Service, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        desk.publish(session, TicketOpened(ticket_id=1, text="a"), TicketOpened(ticket_id=2, text="b"))
        with session.begin_nested():
            desk.publish(session, TicketOpened(ticket_id=1, text="c"))
        desk.publish(session, TicketOpened(ticket_id=2, text="d"))
    found = published(desk)
    assert texts(found) == ["a", "b", "c", "d"]
    for key in ("1", "2"):
        first, second = [each for each in found if each.key == key]
        assert second.previous >= first.position
    assert [each.position for each in found] == [1, 2, 3, 4]


def test_events_of_one_transaction_share_a_correlation_id_or_have_the_origins(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        desk.publish(session, TicketOpened(ticket_id=1), TicketOpened(ticket_id=2))
        session.commit()
        with ensue.coming_from(ensue.Origin(correlation_id="mine", traceparent="00-1")):
            desk.publish(session, TicketOpened(ticket_id=3), extensions={"tenant": "a"})
        session.commit()
    one, two, three = envelopes(desk)
    assert one.correlation_id == two.correlation_id != ""
    assert (three.correlation_id, three.traceparent, three.extensions) == ("mine", "00-1", {"tenant": "a"})
    assert len({one.id, two.id, three.id}) == 3
    assert one.time <= three.time


def test_two_sessions_at_once_do_not_mix(desk: Service, engine: Engine) -> None:
    with Session(engine) as one, Session(engine) as two:
        open_ticket(one, 1, "one")
        one.commit()
        open_ticket(one, 2, "one again")
        one.rollback()
        open_ticket(two, 3, "two")
        two.commit()
        one.commit()
    assert texts(published(desk)) == ["one", "two"]


def test_a_session_in_a_transaction_of_its_connection_follows_that_one(desk: Service, engine: Engine) -> None:
    """As test suites have it: everything is rolled back at the end of a test."""
    for end in ("rollback", "commit"):
        for mode in ("create_savepoint", "conditional_savepoint"):
            with engine.connect() as connection:
                outer = connection.begin()
                with Session(connection, join_transaction_mode=mode) as session:
                    desk.publish(session, TicketOpened(ticket_id=1, text=f"{end} {mode}"))
                    session.commit()
                    rows = connection.execute(text("SELECT count(*) FROM ensue_outbox")).scalar()
                    assert rows == (0 if end == "rollback" else 2 * (mode == "conditional_savepoint")) + 1
                    session.begin_nested()
                    desk.publish(session, TicketOpened(ticket_id=1, text="left open"))
                    session.get_transaction().commit()  # type: ignore[union-attr]
                getattr(outer, end)()
    assert texts(published(desk)) == [
        "commit create_savepoint", "left open", "commit conditional_savepoint", "left open",
    ]  # fmt: skip


def test_a_key_for_ids_that_was_rolled_back_is_not_used_again(desk: Service, engine: Engine) -> None:
    """Where neither a worker nor `ensue db init` has made it, the first session that publishes does."""
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            for number in range(2):
                desk.publish(session, TicketOpened(ticket_id=number))
                session.commit()
        outer.rollback()
    with Session(engine) as session:
        desk.publish(session, TicketOpened(ticket_id=3))
        session.commit()
    assert made_by(desk) == len(published(desk)) == 1


def test_an_event_is_checked_where_it_is_published(desk: Service, engine: Engine) -> None:
    class Unheard(ensue.Event, topic="desk", key="ticket_id"):
        ticket_id: int

    with Session(engine) as session:
        for given, said in [
            (TicketOpened, "is a class"),
            (object(), "is no event"),
            (Unheard(ticket_id=1), "leaves out"),
            (TicketOpened(ticket_id=1, text="x" * 2_000_000), "bytes"),
        ]:
            for publish in (desk.publish, ensue.publish):
                with pytest.raises(UsageError, match=said if publish == desk.publish else None):
                    publish(session, TicketOpened(ticket_id=1, text="the other one of two"), given)
        other = Service("annex", publishes=[Unheard])
        with pytest.raises(UsageError, match=r"several services \(annex, desk\)"):
            ensue.publish(session, TicketOpened(ticket_id=1, text="the other one of two"), Unheard(ticket_id=1))
        session.commit()
        del other
    assert published(desk) == []


def test_the_service_is_found_by_the_event_or_must_be_named(desk: Service, engine: Engine) -> None:
    class Nobodys(ensue.Event, topic="desk", key="ticket_id"):
        ticket_id: int

    with Session(engine) as session:
        with pytest.raises(UsageError, match=r"no service of this process declares that it publishes .*Nobodys"):
            ensue.publish(session, Nobodys(ticket_id=1))
        both = [Service(name, publishes=[Nobodys]) for name in ("north", "south")]
        with pytest.raises(UsageError, match=r"2 services of this process \(north, south\)"):
            ensue.publish(session, Nobodys(ticket_id=1))
        again = Service("desk", database=desk.settings().database, publishes=[TicketOpened])  # its latest declaration
        ensue.publish(session, TicketOpened(ticket_id=1, text="by the latest"))
        session.commit()
    assert texts(published(again)) == ["by the latest"]
    del both


@pytest.mark.parametrize("what", ["engine", "connection", "sessionmaker", "event"])
def test_what_is_no_session_is_told_apart(desk: Service, engine: Engine, what: str) -> None:
    with engine.connect() as connection:
        given: Any = {
            "engine": engine,
            "connection": connection,
            "sessionmaker": sessionmaker(engine),
            "event": TicketOpened(ticket_id=1),
        }[what]
        with pytest.raises(UsageError, match="expected an SQLAlchemy Session"):
            desk.publish(given, TicketOpened(ticket_id=1))


def test_a_database_without_ensues_tables_is_refused_with_its_rows(desk: Service, tmp_path: Path) -> None:
    engine = engine_at(f"sqlite:///{tmp_path}/elsewhere.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        open_ticket(session, 1)
        for _ in range(2):
            with pytest.raises(UsageError, match="ensue db init"):
                session.commit()
    assert tickets(engine) == []
    engine.dispose()


def test_the_database_of_another_service_is_refused_with_its_rows(desk: Service, tmp_path: Path) -> None:
    with Session(engine_at(f"sqlite:///{tmp_path}/desk.db")) as session:
        other = Service("annex", database=f"sqlite:///{tmp_path}/annex.db", publishes=[TicketClosed])
        session.add(Ticket(id=1))
        other.publish(session, TicketClosed(ticket_id=1))
        with pytest.raises(UsageError, match="database of service 'desk', not of 'annex'"):
            session.commit()
        with pytest.raises(UsageError, match="cannot commit any more"):
            session.commit()
        session.rollback()
        assert session.get(Ticket, 1) is None
        engine = session.get_bind()
    assert isinstance(engine, Engine)
    engine.dispose()
    assert published(desk) == []


class Routing(Session):
    """SQLAlchemy's documentation has it so: `looks_at_clause`, and in its older versions without."""

    leader: Engine
    follower: Engine
    looks_at_clause = True

    def get_bind(self, mapper: Any = None, clause: Any = None, **_: Any) -> Engine:
        if self._flushing or (self.looks_at_clause and isinstance(clause, Update | Delete)):
            return self.leader
        return self.follower


def test_a_session_that_routes_writes_the_event_where_its_rows_are(desk: Service, tmp_path: Path) -> None:
    followed = desk_at(f"sqlite:///{tmp_path}/follower.db")
    Routing.leader, Routing.follower = (engine_at(f"sqlite:///{tmp_path}/{name}.db") for name in ("desk", "follower"))
    with Routing() as session:
        assert session.get(Ticket, 1) is None
        session.add(Ticket(id=1))
        desk.publish(session, TicketOpened(ticket_id=1, text="the leader's"))
        session.commit()
    assert texts(published(desk)) == ["the leader's"]
    assert published(followed) == []
    Routing.leader.dispose()
    Routing.follower.dispose()


class Bases(DeclarativeBase):
    metadata = MetaData(info={"bind_key": "desk"})


class Note(Bases):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)


class BindsByInfo(Session):
    """As Flask-SQLAlchemy's."""

    engines: ClassVar[dict[str, Engine]]

    def get_bind(self, mapper: Any = None, clause: Any = None, **_: Any) -> Engine:
        table = getattr(clause, "table", None) if mapper is None else mapper.local_table
        return self.engines["default" if table is None else table.metadata.info.get("bind_key", "default")]


def test_a_session_with_binds_writes_the_event_where_the_services_tables_are(tmp_path: Path) -> None:
    desk = desk_at(f"sqlite:///{tmp_path}/desk.db", tables=Bases.metadata)
    BindsByInfo.engines = {name: engine_at(f"sqlite:///{tmp_path}/{name}.db") for name in ("desk", "default")}
    Base.metadata.create_all(BindsByInfo.engines["default"])
    Bases.metadata.create_all(BindsByInfo.engines["desk"])
    with BindsByInfo() as session:
        session.add(Note(id=1))
        session.add(Ticket(id=1))  # in another database
        desk.publish(session, TicketOpened(ticket_id=1, text="with the note"))
        session.commit()
        assert session.get(Note, 1) is not None
    assert texts(published(desk)) == ["with the note"]
    for each in BindsByInfo.engines.values():
        each.dispose()


def test_rows_by_a_second_connection_to_the_database_are_refused(desk: Service, tmp_path: Path) -> None:
    class Older(Routing):
        looks_at_clause = False

    Older.leader, Older.follower = (create_engine(f"sqlite:///{tmp_path}/desk.db") for _ in range(2))
    with Older() as session:
        open_ticket(session, 1)
        for _ in range(2):
            with pytest.raises(UsageError, match="two connections to its database"):
                session.commit()
        session.rollback()
        desk.publish(session, TicketOpened(ticket_id=2, text="without rows"))
        session.commit()
    assert tickets(Older.leader) == []
    assert texts(published(desk)) == ["without rows"]
    Older.leader.dispose()
    Older.follower.dispose()


def test_a_session_that_commits_by_itself_or_in_two_phases_is_refused(desk: Service, tmp_path: Path) -> None:
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    made_so = create_engine(f"sqlite:///{tmp_path}/desk.db", isolation_level="AUTOCOMMIT")
    for alone in (engine.execution_options(isolation_level="AUTOCOMMIT"), made_so):
        with Session(alone) as session, pytest.raises(UsageError, match="AUTOCOMMIT"):
            desk.publish(session, TicketOpened(ticket_id=1))
    half = create_engine(f"sqlite:///{tmp_path}/desk.db")
    event.listen(half, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    with Session(half) as session:
        desk.publish(session, TicketOpened(ticket_id=1))
        with pytest.raises(UsageError, match="begins no transaction"):
            session.commit()
    made_so.dispose()
    half.dispose()
    with Session(engine, twophase=True) as session, pytest.raises(UsageError, match="twophase"):
        desk.publish(session, TicketOpened(ticket_id=1))
    engine.dispose()
    assert published(desk) == []


def test_savepoints_that_the_driver_would_commit_are_refused(desk: Service, tmp_path: Path) -> None:
    """The SQLite driver as it is: without savepoints it is right, with them it may commit rows before their event."""
    engine = create_engine(f"sqlite:///{tmp_path}/desk.db")
    with Session(engine) as session:
        open_ticket(session, 1, "plain")
        session.commit()
        with pytest.raises(UsageError, match="BEGIN IMMEDIATE"), session.begin_nested():
            open_ticket(session, 2, "in a savepoint")
        session.rollback()
        with session.begin_nested():
            session.add(Ticket(id=3))
        for _ in range(2):
            with pytest.raises(UsageError, match="BEGIN IMMEDIATE"):
                desk.publish(session, TicketOpened(ticket_id=3, text="of a row that is committed already"))
        session.rollback()
        open_ticket(session, 4, "plain again")
        session.commit()
    engine.dispose()
    assert texts(published(desk)) == ["plain", "plain again"]


def test_an_insert_that_fails_leaves_nothing_that_could_commit(desk: Service, engine: Engine) -> None:
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "ensue_outbox_head" in statement and statement.startswith("INSERT"):
            raise OperationalError(statement, None, Exception("no"))

    with Session(engine) as session:
        open_ticket(session, 1)
        event.listen(engine, "before_cursor_execute", fail)
        with pytest.raises(OperationalError):
            session.commit()
        event.remove(engine, "before_cursor_execute", fail)
        with pytest.raises(UsageError, match="cannot commit any more"):
            session.commit()
        session.rollback()
        open_ticket(session, 2, "anew")
        session.commit()
    assert texts(published(desk)) == ["anew"]
    assert tickets(engine) == [2]


def test_entities_are_written_before_their_events(desk: Service, engine: Engine) -> None:
    """Their row locks put the events of one key in the order of the transactions that change it."""
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *_: said.append(statement))
    with Session(engine) as session:
        open_ticket(session, 1)
        session.commit()
    [entity] = [at for at, each in enumerate(said) if each.startswith("INSERT INTO tickets")]
    [outbox] = [at for at, each in enumerate(said) if "INTO" in each and '"ensue_outbox"' in each]
    assert entity < outbox


def test_events_of_later_wait_by_the_databases_clock(desk: Service, engine: Engine) -> None:
    day = datetime.timedelta(days=1)
    at = datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)
    with Session(engine) as session:
        ensue.publish(session, TicketOpened(ticket_id=1), after=day)
        ensue.publish(session, TicketOpened(ticket_id=2), at=at)
        begin = datetime.datetime.now(datetime.UTC)
        session.commit()
        ensue.publish(session, TicketOpened(ticket_id=3), after=day)
        session.rollback()
        rows = list(session.execute(text("SELECT id, due_at, envelope FROM ensue_timer ORDER BY due_at")))
    assert published(desk) == []
    assert [each[0] for each in rows] == [decode_envelope(each[2]).id for each in rows]
    assert rows[0][1] >= (begin + day).timestamp()
    assert rows[1][1] == at.timestamp()
    assert decode_envelope(rows[1][2]).time == "2040-01-01T00:00:00.000000Z"


async def test_a_session_of_ones_own_in_a_step_or_handler_is_refused(tmp_path: Path) -> None:
    desk = Service(
        "desk", database=f"sqlite:///{tmp_path}/desk.db", broker="memory:", publishes=[TicketOpened, TicketClosed]
    )
    engine = engine_at(f"sqlite:///{tmp_path}/desk.db")
    told: list[str] = []

    def close_at_once(number: int) -> None:
        with Session(engine) as session:
            desk.publish(session, TicketClosed(ticket_id=number))

    @desk.on
    def closes(opened: TicketOpened) -> None:
        try:
            close_at_once(opened.ticket_id)
        except UsageError as error:
            told.append(str(error))

    async with ensue.testing.run(desk) as world:
        async with desk.step() as step:
            with pytest.raises(UsageError, match="a step publishes by itself"):
                desk.publish(step.session, TicketOpened(ticket_id=1))
            with pytest.raises(UsageError, match="inside another step of desk"):
                close_at_once(1)
            step.publish(TicketOpened(ticket_id=1))
        await world.settle()
    engine.dispose()
    [said] = told
    assert "inside a handler of desk" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_processes_make_ids_of_their_own(desk: Service, engine: Engine) -> None:
    """As the workers of a web server or task queue are, which was loaded before."""

    def publish() -> None:
        with Session(engine) as session:
            desk.publish(session, TicketOpened(ticket_id=1))
            session.commit()

    publish()
    engine.dispose()
    if (child := os.fork()) == 0:
        status = 1
        try:
            publish()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    publish()
    assert len({each.id for each in envelopes(desk)}) == 3


def test_a_savepoint_whose_flush_fails_takes_its_events_along(desk: Service, engine: Engine) -> None:
    """SQLAlchemy's way to insert unless it is there. A block whose flush has failed closes the savepoint, and of that
    no rollback is told."""
    with Session(engine) as session, session.begin():
        open_ticket(session, 1, "first")
        with suppress(IntegrityError), session.begin_nested():
            session.add(Ticket(id=2))
            with session.begin_nested():
                open_ticket(session, 1, "twice")
                session.flush()
        with suppress(IntegrityError), session.begin_nested():
            with session.begin_nested():
                open_ticket(session, 3, "released, and then gone back with what is around it")
            open_ticket(session, 1, "twice")
            session.flush()
        open_ticket(session, 4, "last")
    assert texts(published(desk)) == ["first", "last"]
    assert tickets(engine) == [1, 4]


def test_rows_of_a_commit_that_fails_at_its_last_moment_are_nobody_elses_to_commit(
    desk: Service, engine: Engine
) -> None:
    """The connection goes back to the pool, and whoever gets it next commits."""

    def tell(session: Session, context: object) -> None:
        desk.publish(session, TicketOpened(ticket_id=1))  # so late that it is written when the connection commits

    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE ensue_outbox RENAME TO away"))
    with Session(engine) as session:
        event.listen(session, "after_flush", tell)
        session.add(Ticket(id=1))
        with pytest.raises(OperationalError, match="ensue_outbox"):
            session.commit()
    with Session(engine) as session:
        session.add(Ticket(id=2))
        session.commit()
    assert tickets(engine) == [2]


@pytest.mark.parametrize("mode", ["rollback_only", "create_savepoint"])
def test_rows_of_a_session_that_was_closed_are_not_kept_without_its_events(
    desk: Service, engine: Engine, mode: Any
) -> None:
    with engine.connect() as connection:
        with connection.begin(), Session(connection, join_transaction_mode=mode) as session:
            open_ticket(session, 1, "committed")
            session.commit()
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session, session.begin_nested():
            open_ticket(session, 2, "closed")
        if mode == "rollback_only":
            with pytest.raises(UsageError, match="closed without a commit"):
                outer.commit()
            outer.close()
        else:  # the savepoint of the session, and so its rows, went back
            outer.commit()
        with connection.begin(), Session(connection, join_transaction_mode=mode) as session:
            open_ticket(session, 3, "and again")
            session.commit()
    assert texts(published(desk)) == ["committed", "and again"]
    assert tickets(engine) == [1, 3]


def test_a_savepoint_of_the_connection_takes_its_events_along(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Ticket(id=1))
        session.flush()
        for number in range(2, 6):  # the first of them is older than whatever was published
            savepoint = session.connection().begin_nested()
            open_ticket(session, number, "kept" if number % 2 else "lost")
            session.flush()
            if number == 4:
                session.begin_nested()
                open_ticket(session, 9, "lost with the one around it")
                session.flush()
                session.get_nested_transaction().commit()  # type: ignore[union-attr]
            (savepoint.commit if number % 2 else savepoint.rollback)()
        session.expire_all()
        open_ticket(session, 6, "last")
        session.commit()
    assert texts(published(desk)) == ["kept", "kept", "last"]
    assert tickets(engine) == [1, 3, 5, 6]


def test_a_session_left_open_follows_whoever_has_its_connection(desk: Service, engine: Engine) -> None:
    with engine.connect() as connection:
        sessions = [Session(connection, join_transaction_mode="rollback_only") for _ in range(3)]
        outer = connection.begin()
        open_ticket(sessions[0], 1, "rolled back")
        sessions[0].flush()
        outer.rollback()
        outer = connection.begin()
        savepoint = connection.begin_nested()
        open_ticket(sessions[1], 2, "rolled back to a savepoint")
        sessions[1].flush()
        savepoint.rollback()
        open_ticket(sessions[2], 3, "committed")
        sessions[2].flush()
        outer.commit()
        for session in sessions:
            session.close()
    assert texts(published(desk)) == ["committed"]
    assert tickets(engine) == [3]


@pytest.mark.parametrize("listens_to", ["session", "sessionmaker", "all sessions, first of all"])
def test_an_error_of_a_listener_does_not_hide_that_a_savepoint_was_released(
    desk: Service, engine: Engine, listens_to: str
) -> None:
    first = listens_to.startswith("all")
    make = sessionmaker[Session]()

    def fail(session: Session) -> None:
        raise ValueError("the cache is away")

    def work(session: Session, listens: Any) -> None:
        with session.begin_nested():
            open_ticket(session, 1)
            session.flush()
            event.listen(listens, "after_commit", fail, insert=first)

    try:
        with engine.connect() as connection:
            outer = connection.begin()
            with make(bind=connection) as session:
                if listens_to == "session":
                    desk.publish(session, TicketOpened(ticket_id=9))
                listens: Any = {"session": session, "sessionmaker": make}.get(listens_to, Session)
                with pytest.raises(ValueError, match="the cache is away"):
                    work(session, listens)
            with pytest.raises(UsageError, match="closed without a commit"):
                outer.commit()
            outer.close()
    finally:
        if first:
            event.remove(Session, "after_commit", fail)
    assert tickets(engine) == []
    assert published(desk) == []


@pytest.mark.parametrize("name", ["before_commit", "after_flush"])
def test_a_listener_that_fails_while_a_savepoint_is_released_takes_rows_and_events(
    desk: Service, engine: Engine, name: str
) -> None:
    def fail(session: Session, *_: object) -> None:
        if session.in_nested_transaction():
            raise ValueError("refused")

    with engine.connect() as connection, Session(connection) as session:
        outer = connection.begin()
        open_ticket(session, 1, "kept")
        session.flush()
        event.listen(Session, name, fail, insert=True)
        try:
            with pytest.raises(ValueError, match="refused"), session.begin_nested():
                open_ticket(session, 2, "gone with its row")
        finally:
            event.remove(Session, name, fail)
        session.commit()
        outer.commit()
    assert texts(published(desk)) == ["kept"]
    assert tickets(engine) == [1]


async def test_what_an_async_session_publishes_in_a_transaction_of_its_connection_is_sent_or_refused(
    tmp_path: Path,
) -> None:
    """It has sent nothing there, so that only the connection that it was given says what it is a part of."""
    desk = await asyncio.to_thread(desk_at, f"sqlite:///{tmp_path}/async.db?synchronous=OFF")
    engine = async_engine_at(f"sqlite+aiosqlite:///{tmp_path}/async.db")

    def tell(session: AsyncSession, text: str) -> None:
        desk.publish(session, TicketOpened(ticket_id=1, text=text))

    async with engine.begin() as connection:
        left_open = AsyncSession(connection)
        tell(left_open, "left open")
    await left_open.close()
    with pytest.raises(UsageError, match="closed without a commit"):
        async with engine.begin() as connection, AsyncSession(connection) as session:
            tell(session, "closed")
    async with engine.connect() as connection:
        await connection.begin()
        async with AsyncSession(connection) as session:
            tell(session, "closed, and rolled back with its connection")
        await connection.rollback()
    async with engine.begin() as connection:
        async with AsyncSession(connection) as session:
            tell(session, "rolled back")
            await session.rollback()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            tell(session, "closed with a savepoint of its own")
        async with AsyncSession(connection) as session:
            tell(session, "committed")
            await session.commit()
    await engine.dispose()
    assert texts(await records(desk)) == ["left open", "committed"]


def test_a_listener_that_publishes_when_the_commit_is_done_is_told_where_to(desk: Service, engine: Engine) -> None:
    with Session(engine) as session:
        event.listen(session, "after_commit", lambda session: desk.publish(session, TicketOpened(ticket_id=1)))
        session.add(Ticket(id=1))
        with pytest.raises(UsageError, match="not in after_commit"):
            session.commit()


@pytest.mark.parametrize("what", ["another session", "a savepoint", "the transaction"])
async def test_what_goes_back_on_a_connection_takes_no_event_of_an_async_session_that_has_sent_nothing(
    desk: Service, tmp_path: Path, what: str
) -> None:
    """Its rows are still to come."""
    engine = async_engine_at(f"sqlite+aiosqlite:///{tmp_path}/desk.db")
    async with engine.connect() as connection:
        await connection.begin()
        async with (
            AsyncSession(connection, join_transaction_mode="create_savepoint") as other,
            AsyncSession(connection, join_transaction_mode="create_savepoint") as session,
        ):
            if what == "another session":
                other.add(Ticket(id=50))
                await other.flush()
            savepoint = await connection.begin_nested() if what == "a savepoint" else None
            session.add(Ticket(id=1))
            ensue.publish(session, TicketOpened(ticket_id=1, text=what))
            if what == "the transaction":
                await connection.rollback()
                await connection.begin()
            await (other if savepoint is None else savepoint).rollback()
            await session.commit()
        await connection.commit()
        found = await connection.execute(select(Ticket.id))
        assert [row[0] for row in found] == [1]
    assert texts(await records(desk)) == [what]
    await engine.dispose()


def test_a_commit_is_not_refused_for_rows_that_went_back_with_a_savepoint_around_them(
    desk: Service, engine: Engine
) -> None:
    with engine.begin() as connection:
        for number in (1, 2):
            savepoint = connection.begin_nested()
            with Session(connection, join_transaction_mode="rollback_only") as session:
                open_ticket(session, number, "gone")
                session.flush()
            savepoint.rollback()
    assert published(desk) == []


@pytest.mark.parametrize("mode", ["conditional_savepoint", "create_savepoint", "control_fully", "rollback_only"])
async def test_nor_for_an_async_session_that_has_only_published(desk: Service, tmp_path: Path, mode: Any) -> None:
    engine = async_engine_at(f"sqlite+aiosqlite:///{tmp_path}/desk.db")
    async with engine.begin() as connection:
        savepoint = await connection.begin_nested()
        async with AsyncSession(connection, join_transaction_mode=mode) as session:
            session.add(Ticket(id=1))
            ensue.publish(session, TicketOpened(ticket_id=1, text="gone"))
        await savepoint.rollback()
    assert await records(desk) == []
    await engine.dispose()
