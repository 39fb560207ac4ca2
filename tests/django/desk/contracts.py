"""What the desk of the tests publishes."""

from __future__ import annotations

import uuid

from ensue import Command, Event, Failure


class DjangoTicketOpened(Event, topic="django.desk", key="ticket_id"):
    ticket_id: int
    text: str = ""


class DjangoTicketClosed(Event, topic="django.desk", key="ticket_id"):
    ticket_id: int


class DjangoTicketCount(Event, topic="django.desk", key="ticket_id"):
    ticket_id: int
    count: int


class DjangoBadgeSeen(Event, topic="django.badges", key="badge_id"):
    badge_id: uuid.UUID


class DjangoNoTicket(Failure):
    ticket_id: int


class CountDjangoTicket(Command[DjangoTicketCount], service="django-desk", key="ticket_id"):
    ticket_id: int
