"""What the desk of the tests publishes."""

from __future__ import annotations

from ensue import Event


class DjangoTicketOpened(Event, topic="django.desk", key="ticket_id"):
    ticket_id: int
    text: str = ""


class DjangoTicketClosed(Event, topic="django.desk", key="ticket_id"):
    ticket_id: int
