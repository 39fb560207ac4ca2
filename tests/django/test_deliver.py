"""`deliver` in a test of a project: events and commands, as a worker has their handlers run."""

from __future__ import annotations

import datetime

import pytest
from django.db import transaction
from tests.django.desk.contracts import CountDjangoTicket, DjangoNoTicket, DjangoTicketCount
from tests.django.desk.contracts import DjangoTicketClosed as Closed
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Ticket
from tests.django.test_handlers import tickets
from tests.sessions.desk import published

from ensue import Command, Saga, Step
from ensue.codec import decode_envelope
from ensue.errors import UsageError
from ensue.integrations.django import DjangoService
from ensue.integrations.django.testing import captured_events, deliver
from ensue.message import SAGA

pytestmark = pytest.mark.parametrize("alias", ["sqlite"], indirect=True)


class BookDjangoTicket(Command[None], service="django-desk", key="ticket_id"):
    ticket_id: int


def test_a_command_is_answered(desk: DjangoService) -> None:
    @desk.handles
    def count(command: CountDjangoTicket, step: Step) -> DjangoTicketCount | DjangoNoTicket:
        Ticket.objects.using(desk.using).create(id=command.ticket_id, text="counted")
        step.publish(Closed(ticket_id=command.ticket_id))
        if command.ticket_id == 2:
            raise DjangoNoTicket(ticket_id=2)
        if command.ticket_id == 3:
            return DjangoNoTicket(ticket_id=3)
        return DjangoTicketCount(ticket_id=command.ticket_id, count=7)

    with captured_events(desk) as captured:
        assert deliver(CountDjangoTicket(ticket_id=1), desk) == DjangoTicketCount(ticket_id=1, count=7)
        for refused in (2, 3):  # nothing is kept of a failure that is raised
            with pytest.raises(DjangoNoTicket):
                deliver(CountDjangoTicket(ticket_id=refused), desk)
    assert list(tickets(desk)) == [1, 3]
    assert captured.events == [Closed(ticket_id=1), Closed(ticket_id=3)]


def test_an_answer_that_could_not_travel_is_refused(desk: DjangoService) -> None:
    @desk.handles
    def count(command: CountDjangoTicket):  # type: ignore[no-untyped-def]
        return "seven"

    with pytest.raises(UsageError, match="returned a str, expected a DjangoTicketCount"):
        deliver(CountDjangoTicket(ticket_id=1), desk)


def test_what_a_handler_sends_and_starts_is_in_its_transaction(desk: DjangoService) -> None:
    desk.publishes = (*(desk.publishes or ()), BookDjangoTicket)

    @desk.saga
    async def book(saga: Saga, wanted: Opened) -> None: ...

    @desk.on
    def opened(event: Opened, step: Step) -> None:
        step.start(book, event, id=event.ticket_id)
        step.send(BookDjangoTicket(ticket_id=event.ticket_id))
        step.send(BookDjangoTicket(ticket_id=9), after=datetime.timedelta(hours=1))
        if event.text:
            raise ZeroDivisionError

    with captured_events(desk) as captured, transaction.atomic(using=desk.using):
        with pytest.raises(ZeroDivisionError):
            deliver(Opened(ticket_id=1, text="fails"), desk)
        deliver(Opened(ticket_id=2), desk)
    assert captured.events == [BookDjangoTicket(ticket_id=2)]
    written = [decode_envelope(each.envelope).type for each in published(desk)]
    assert written == [SAGA, "django-desk.commands.BookDjangoTicket.v1"]
    assert captured.later == [BookDjangoTicket(ticket_id=9)]


def test_a_command_that_starts_a_saga_is_refused(desk: DjangoService) -> None:
    @desk.saga(handles=BookDjangoTicket)
    async def book(saga: Saga, wanted: BookDjangoTicket) -> None: ...

    with pytest.raises(UsageError, match="it starts the saga book"):
        deliver(BookDjangoTicket(ticket_id=1), desk)
