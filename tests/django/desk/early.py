"""Events, and between them a handler."""

from __future__ import annotations

from ensue import Event
from ensue.integrations.django import on


class EarlyAsked(Event, topic="django.early", key="number"):
    number: int


@on
def answer(event: EarlyAsked) -> None: ...


class EarlyAnswered(Event, topic="django.early", key="number"):
    number: int
