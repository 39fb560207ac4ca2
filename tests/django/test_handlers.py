"""Handlers that use Django's ORM: what they write is part of their step, whatever becomes of it."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import F
from tests.django.desk.contracts import CountDjangoTicket, DjangoNoTicket, DjangoTicketCount
from tests.django.desk.contracts import DjangoTicketClosed as Closed
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Comment, Ticket

from ensue import Retry, Service, Step
from ensue.errors import UsageError
from ensue.integrations.django import DjangoService
from ensue.integrations.django.publishing import publish
from ensue.message import DeadLetterState


def publish_now(desk: DjangoService, *events: object) -> None:
    with transaction.atomic(using=desk.using):
        publish(desk, events, None, None, None)
    connections[desk.using].close()


async def _handle(desk: DjangoService, events: tuple[object, ...], count: int) -> list[str]:
    desk.retry = Retry(attempts_max=1)
    async with desk.running() as runtime, asyncio.timeout(40):
        await asyncio.to_thread(publish_now, desk, *events)
        books = runtime.context.books
        while True:
            letters = [each async for each in books.letters_by_time([DeadLetterState.DEAD])]
            # Of the store: whatever it says is committed.
            applied = sum(each.counters.applied for each in (await books.checkpoints()).values())
            if applied + len(letters) >= count:
                return [each.error for each in letters]
            await asyncio.sleep(0.02)


def handle(desk: DjangoService, *events: object, count: int = 0) -> list[str]:
    """Have the desk handle its own events; return the errors of those that became dead letters. count: how many
    messages there are to be, those that handlers publish among them."""
    return asyncio.run(_handle(desk, events, count or len(events)))


def tickets(desk: DjangoService) -> dict[int, str]:
    return dict(Ticket.objects.using(desk.using).order_by("id").values_list("id", "text"))


def test_what_the_orm_writes_is_part_of_the_step(desk: DjangoService) -> None:
    """Rows, what is published, and the subscription's progress: all of it, or nothing where the handler fails."""
    now = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.UTC)
    seen: list[Ticket] = []

    @desk.on
    def opened(event: Opened) -> None:
        tickets = Ticket.objects.using(desk.using)
        tickets.create(
            id=event.ticket_id, text=event.text, price=decimal.Decimal("12.50"), opened_at=now, closed=True,
            notes={"by": ["ann", 1]},
        )  # fmt: skip
        publish(desk, [Closed(ticket_id=event.ticket_id)], None, None, None)
        if event.text == "fails":
            raise ValueError("no such thing")

    @desk.on
    def closed(event: Closed, step: Step) -> None:
        ticket = Ticket.objects.using(desk.using).select_for_update().get(id=event.ticket_id)
        seen.append(ticket)
        Ticket.objects.using(desk.using).filter(opened_at=now, price__gt=12, closed=True).update(count=F("count") + 1)

    [error] = handle(desk, Opened(ticket_id=1, text="a % b"), Opened(ticket_id=2, text="fails"), count=3)
    assert "no such thing" in error
    assert tickets(desk) == {1: "a % b"}
    assert Ticket.objects.using(desk.using).get(id=1).count == 1
    [ticket] = seen
    assert (ticket.price, ticket.opened_at, ticket.closed, ticket.notes) == (
        decimal.Decimal("12.50"), now, True, {"by": ["ann", 1]},
    )  # fmt: skip


def test_a_savepoint_takes_its_rows_and_events_back(desk: DjangoService) -> None:
    called: list[str] = []
    done = threading.Event()

    def later(what: str) -> Callable[[], None]:
        def call() -> None:
            called.append(what)
            done.set()

        return call

    @desk.on
    def opened(event: Opened, step: Step) -> None:
        Comment.objects.using(desk.using).create(ticket=Ticket.objects.using(desk.using).create(id=1), text="one")
        try:
            with transaction.atomic(using=desk.using):
                Ticket.objects.using(desk.using).create(id=2)
                transaction.on_commit(later("never"), using=desk.using)
                step.publish(Closed(ticket_id=2))
                publish(desk, [Closed(ticket_id=3)], None, None, None)
                Comment.objects.using(desk.using).create(ticket_id=1, text="one")
        except IntegrityError:
            step.publish(Closed(ticket_id=4))
        with transaction.atomic(using=desk.using):
            publish(desk, [Closed(ticket_id=5)], None, None, None)
        transaction.on_commit(later("committed"), using=desk.using)

    closings: list[int] = []

    @desk.on
    def closed(event: Closed) -> None:
        closings.append(event.ticket_id)

    assert handle(desk, Opened(ticket_id=1), count=3) == []
    assert sorted(closings) == [4, 5]
    assert list(tickets(desk)) == [1]
    assert done.wait(10)
    assert called == ["committed"]


def _caught(desk: DjangoService) -> None:
    try:
        Ticket.objects.using(desk.using).create(id=1)
        Ticket.objects.using(desk.using).create(id=1)
    except DatabaseError:
        pass


def _durable(desk: DjangoService) -> None:
    with transaction.atomic(using=desk.using, durable=True):
        pass


#: What a handler may not do to its step, and what it is told.
REFUSED: dict[str, tuple[Callable[[DjangoService], Any], str]] = {
    "catches": (_caught, "cannot commit"),
    "commits": (lambda desk: connections[desk.using].commit(), "atomic"),
    "rolls back": (lambda desk: transaction.rollback(using=desk.using), "atomic"),
    "leaves": (lambda desk: transaction.set_autocommit(True, using=desk.using), "atomic"),
    "closes": (lambda desk: connections[desk.using].close(), "in a handler"),
    "ends": (lambda desk: connections[desk.using].cursor().execute("COMMIT"), "COMMIT in the session of a step"),
    "durable": (_durable, "durable"),
    "rollback mark": (lambda desk: transaction.set_rollback(True, using=desk.using), "marked its transaction"),
}


def test_a_handler_cannot_end_its_step(desk: DjangoService) -> None:
    names = list(REFUSED)

    @desk.on
    def opened(event: Opened) -> None:
        Ticket.objects.using(desk.using).create(id=100 + event.ticket_id)
        does, _ = REFUSED[names[event.ticket_id]]
        does(desk)

    errors = handle(desk, *(Opened(ticket_id=at) for at in range(len(names))))
    assert tickets(desk) == {}
    for _, said in REFUSED.values():
        assert any(said in each for each in errors), said
    assert len(errors) == len(names)


def test_a_connection_is_lent_for_one_handler_and_thread(desk: DjangoService, tmp_path: Path) -> None:
    """A thread that a handler leaves behind writes nothing into the steps that follow; others have Django's own."""
    # One that outlives the first run: for what a broker has lost the second one would ask for four seconds.
    desk._given["broker"] = f"sqlite:///{tmp_path}/kept.db"
    outcomes: list[BaseException | None] = []
    go, ended = threading.Event(), threading.Event()
    left: list[Any] = []

    @desk.on
    def opened(event: Opened) -> None:
        if not left:
            left.append(Ticket.objects.using(desk.using).iterator(chunk_size=1))
            left.append(connections[desk.using].cursor())

            def work() -> None:
                try:
                    go.wait(30)
                    left[1].execute("INSERT INTO desk_comment (ticket_id, text) VALUES (1, 'late')")
                    outcomes.append(None)
                except BaseException as error:
                    outcomes.append(error)
                finally:
                    ended.set()

            threading.Thread(target=work, daemon=True).start()
        else:
            go.set()
            assert ended.wait(30)
        Ticket.objects.using(desk.using).create(id=event.ticket_id)

    async def two() -> None:
        await _handle(desk, (Opened(ticket_id=1),), 1)
        await _handle(desk, (Opened(ticket_id=2),), 2)

    asyncio.run(two())
    assert list(tickets(desk)) == [1, 2]
    [outcome] = outcomes
    assert outcome is not None
    assert not Comment.objects.using(desk.using).exists()


def test_entity_steps_of_models_load_and_save_in_bulk(desk: DjangoService) -> None:
    @desk.on
    def opened(ticket: Ticket | None, event: Opened) -> Ticket:
        if ticket is None:
            return Ticket(id=event.ticket_id, text=event.text)
        ticket.count += 1
        publish(desk, [Closed(ticket_id=event.ticket_id)], None, None, None)
        return ticket

    @desk.on
    def closed(ticket: Ticket, event: Closed) -> None:
        ticket.closed = True
        ticket.notes = {"closed": True}

    events = [Opened(ticket_id=1 + at % 3, text=str(at)) for at in range(6)]
    assert handle(desk, *events, Closed(ticket_id=77), count=10)[0].startswith(
        "handler closed: Ticket 77 does not exist"
    )
    found = Ticket.objects.using(desk.using).order_by("id").values_list("id", "text", "count", "closed", "notes")
    assert list(found) == [(at + 1, str(at), 1, True, {"closed": True}) for at in range(3)]


def test_what_the_database_refuses_at_the_commit_is_the_fault_of_its_message(desk: DjangoService) -> None:
    """Django defers foreign keys to the commit, which many messages share."""

    @desk.on
    def opened(event: Opened) -> None:
        connections[desk.using].force_debug_cursor = True
        Ticket.objects.using(desk.using).create(id=event.ticket_id)
        Comment.objects.using(desk.using).create(ticket_id=event.ticket_id % 4, text=str(event.ticket_id))
        assert "desk_comment" in connections[desk.using].queries[-1]["sql"]

    [error] = handle(desk, *(Opened(ticket_id=at) for at in (1, 2, 3, 4)))
    assert list(tickets(desk)) == [1, 2, 3]
    assert "foreign key" in error.lower()


@pytest.mark.parametrize("alias", ["postgres"], indirect=True)  # on SQLite nobody else writes meanwhile
@pytest.mark.parametrize("catches", [False, True], ids=["lets it pass", "catches it"])
def test_a_race_that_is_lost_to_another_process_is_run_again(desk: DjangoService, catches: bool) -> None:
    Ticket.objects.using(desk.using).create(id=1)
    counts: list[int] = []

    def elsewhere() -> None:
        Ticket.objects.using(desk.using).filter(id=1).update(count=10)
        connections[desk.using].close()

    @desk.on
    def opened(event: Opened) -> None:
        ticket = Ticket.objects.using(desk.using).get(id=1)
        counts.append(ticket.count)
        if len(counts) == 1:
            other = threading.Thread(target=elsewhere)
            other.start()
            other.join()
        ticket.count += 1
        try:
            with transaction.atomic(using=desk.using):
                ticket.save(using=desk.using)
        except DatabaseError:
            if not catches:
                raise

    assert handle(desk, Opened(ticket_id=1)) == []
    assert counts == [0, 10]
    assert Ticket.objects.using(desk.using).get(id=1).count == 11


def test_the_answer_to_a_command_is_part_of_what_the_orm_writes(desk: DjangoService, tmp_path: Path) -> None:
    Ticket.objects.using(desk.using).create(id=1)

    @desk.handles
    def count(command: CountDjangoTicket) -> DjangoTicketCount:
        tickets = Ticket.objects.using(desk.using)
        tickets.create(id=100 + command.ticket_id)
        ticket = tickets.filter(id=command.ticket_id).first()
        if ticket is None:
            raise DjangoNoTicket(ticket_id=command.ticket_id)
        ticket.count += 1
        ticket.save(using=desk.using)
        return DjangoTicketCount(ticket_id=ticket.id, count=ticket.count)

    broker = f"sqlite:///{tmp_path}/asked.db"
    desk._given["broker"] = broker
    asker = Service(
        "django-asker",
        database=f"sqlite:///{tmp_path}/asker.db",
        broker=broker,
        partitions=2,
        calls=[CountDjangoTicket],
    )

    async def ask() -> DjangoTicketCount:
        async with desk.running(), asker.running():
            with pytest.raises(DjangoNoTicket):
                await asker.call(CountDjangoTicket(ticket_id=2), timeout=30)
            return await asker.call(CountDjangoTicket(ticket_id=1), timeout=30)

    assert asyncio.run(ask()) == DjangoTicketCount(ticket_id=1, count=1)
    assert list(tickets(desk)) == [1, 101]


def test_recurring_steps_use_the_orm(desk: DjangoService) -> None:
    @desk.every(datetime.timedelta(milliseconds=50))
    def tidy() -> None:
        Ticket.objects.using(desk.using).update_or_create(id=1, defaults={"text": "tidied"})

    @desk.on
    def opened(event: Opened) -> None:
        pass

    assert handle(desk, Opened(ticket_id=9), count=2) == []
    assert tickets(desk) == {1: "tidied"}


def test_what_cannot_use_the_orm_is_refused_at_once(alias: str) -> None:
    desk = DjangoService("django-desk", using=alias, broker="memory:")
    with pytest.raises(UsageError, match="is async, and Django's ORM"):

        @desk.on
        async def opened(event: Opened) -> None: ...

    with pytest.raises(UsageError, match="is async, and Django's ORM"):

        @desk.on
        async def closed(ticket: Ticket, event: Closed) -> None: ...

    with pytest.raises(UsageError, match="local step step_of_a_saga is async, and Django's ORM"):

        @desk.local
        async def step_of_a_saga() -> None: ...

    with pytest.raises(UsageError, match="Django's DATABASES says that"):
        DjangoService("django-desk", database="sqlite:///other.db")
