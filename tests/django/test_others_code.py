"""Handlers as other people write them: expressions, threads, other databases, keys that are set, what tests find."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.models import F
from tests.django.conftest import database_at
from tests.django.desk.contracts import DjangoBadgeSeen as Seen
from tests.django.desk.contracts import DjangoTicketClosed as Closed
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Badge, Comment, Seat, Ticket
from tests.django.test_handlers import handle, tickets

from ensue.errors import UsageError
from ensue.integrations.django import DjangoRepository, DjangoService
from ensue.integrations.django.publishing import publish
from ensue.integrations.django.testing import deliver


def counts(desk: DjangoService) -> dict[int, int]:
    return dict(Ticket.objects.using(desk.using).order_by("id").values_list("id", "count"))


def test_each_expression_that_an_entity_step_sets_is_saved(desk: DjangoService) -> None:
    """However many events of one entity share a batch."""
    Ticket.objects.using(desk.using).create(id=1)

    @desk.on
    def opened(ticket: Ticket, event: Opened) -> None:
        ticket.count = F("count") + 1

    assert handle(desk, *[Opened(ticket_id=1)] * 5) == []
    assert counts(desk) == {1: 5}


def test_what_another_handler_of_the_event_has_left_to_the_database_is_not_read(desk: DjangoService) -> None:
    Ticket.objects.using(desk.using).create(id=1)

    @desk.on
    def opened(ticket: Ticket, event: Opened) -> None:
        ticket.count = F("count") + 1

    @desk.on
    def opened_too(ticket: Ticket, event: Opened) -> None:
        ticket.count = F("count") + 1

    [error] = handle(desk, Opened(ticket_id=1))
    assert "opened_too" in error
    assert "set plain values" in error
    assert counts(desk) == {1: 0}


def test_a_new_entity_has_what_the_database_made_before_the_next_event_sees_it(desk: DjangoService) -> None:
    with connections[desk.using].schema_editor() as editor:
        editor.create_model(Badge)
    desk.publishes = (*(desk.publishes or ()), Seen)

    @desk.on
    def seen(badge: Badge | None, event: Seen) -> Badge:
        if badge is None:
            return Badge(id=event.badge_id)
        badge.count = 100 if badge.count == 7 else -1
        return badge

    one, two = uuid.uuid4(), uuid.uuid4()
    assert handle(desk, Seen(badge_id=one), Seen(badge_id=one), Seen(badge_id=two)) == []
    found = Badge.objects.using(desk.using).filter(remark__isnull=True)
    assert dict(found.values_list("id", "count")) == {one: 100, two: 7}


def test_an_entity_keeps_its_key(desk: DjangoService) -> None:
    for each in (1, 2):
        Ticket.objects.using(desk.using).create(id=each, text=str(each))

    @desk.on
    def opened(ticket: Ticket, event: Opened) -> None:
        ticket.id, ticket.text = 2, "of another"

    [error] = handle(desk, Opened(ticket_id=1))
    assert "set the primary key of Ticket 1 to 2" in error
    assert tickets(desk) == {1: "1", 2: "2"}


def test_a_model_with_a_composite_key_is_refused_where_it_is_declared() -> None:
    with pytest.raises(UsageError, match=r"DjangoRepository\(Seat\).*composite"):
        DjangoRepository(Seat)


@pytest.mark.parametrize("unsafe", [False, True], ids=["as usual", "allow async unsafe"])
def test_an_entity_step_writes_nothing_beside_its_step(
    desk: DjangoService, monkeypatch: pytest.MonkeyPatch, unsafe: bool
) -> None:
    """Where it is called Django has a connection of its own, whose statements would each commit by themselves."""
    Ticket.objects.using(desk.using).create(id=1)
    if unsafe:
        monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

    @desk.on
    def opened(ticket: Ticket, event: Opened) -> None:
        Comment.objects.using(desk.using).create(ticket=ticket, text="beside")
        raise ValueError("and then fails")

    [error] = handle(desk, Opened(ticket_id=1))
    assert not Comment.objects.using(desk.using).exists()
    assert ("a statement in an entity step" if unsafe else "async context") in error
    with pytest.raises(UsageError, match="a statement in an entity step"):
        deliver(Opened(ticket_id=1), desk)


@pytest.mark.parametrize("alias", ["postgres"], indirect=True)  # on SQLite nobody else writes meanwhile
def test_what_a_thread_writes_and_publishes_on_its_own_is_not_the_steps(desk: DjangoService) -> None:
    """Its context may be the handler's, as with sync_to_async; its connection is not."""

    def elsewhere() -> None:
        with transaction.atomic(using=desk.using):
            Ticket.objects.using(desk.using).create(id=2)
            publish(desk, [Closed(ticket_id=2)], None, None, None)
        connections[desk.using].close()

    @desk.on
    def opened(event: Opened) -> None:
        context = contextvars.copy_context()
        other = threading.Thread(target=context.run, args=(elsewhere,))
        other.start()
        other.join()
        raise ValueError("the step fails")

    closings: list[int] = []

    @desk.on
    def closed(event: Closed) -> None:
        closings.append(event.ticket_id)

    [error] = handle(desk, Opened(ticket_id=1), count=2)
    assert "the step fails" in error
    assert (list(tickets(desk)), closings) == ([2], [2])


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[str]:
    """Another alias, of a file."""
    database_at("beside", ENGINE="django.db.backends.sqlite3", NAME=str(tmp_path / "beside.db"))
    with connections["beside"].schema_editor() as editor:
        editor.create_model(Ticket)
    connections["beside"].close()
    yield "beside"
    connections["beside"].close()


def test_connections_of_other_aliases_live_as_long_as_in_a_request(desk: DjangoService, beside: str) -> None:
    """CONN_MAX_AGE holds for them; one that is dead does not stay so for good."""
    used: list[Any] = []

    @desk.on
    def opened(event: Opened) -> None:
        assert all(each.connection is None for each in used)
        used.append(connections[beside])
        Ticket.objects.using(beside).create(id=event.ticket_id)

    assert handle(desk, Opened(ticket_id=1), Opened(ticket_id=2)) == []
    assert len(used) == 2
    assert all(each.connection is None for each in used)


def test_what_a_step_would_refuse_to_commit_is_refused_in_a_test_too(desk: DjangoService) -> None:
    @desk.on
    def opened(event: Opened) -> None:
        Ticket.objects.using(desk.using).create(id=1)
        with contextlib.suppress(DatabaseError):
            Ticket.objects.using(desk.using).create(id=1)

    with pytest.raises(UsageError, match="the step cannot commit"):
        deliver(Opened(ticket_id=1), desk)
    assert tickets(desk) == {}
