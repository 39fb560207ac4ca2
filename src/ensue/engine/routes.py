"""What happens for the messages of each type: their handlers, and whether they are run together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ensue.engine.answering import answered, returned, started
from ensue.engine.entities import Call
from ensue.event import EventType
from ensue.handler import Handler
from ensue.handling import wraps_async
from ensue.mapped import SqlAlchemyRepository
from ensue.repository import Repository


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """All that happens for one event type.

    together: every handler is an entity step that has nothing but its entities, so that many messages share a load. An
    async one may still ask for the step's session: that is found out when it does, see `SessionAsked`.
    locked: all that a handler can change has been locked; not so what its entity's relationships lead to.
    """

    event: EventType[Any]
    read: Callable[[bytes], Any]
    calls: tuple[Call, ...]
    together: bool
    locked: bool


class Alone:
    """One of a message's handlers, of an event that is read already. See `entities.Routed`."""

    def __init__(self, event: Any, calls: Sequence[Call]) -> None:
        self.event = event
        self.calls = calls

    def read(self, data: bytes) -> Any:
        return self.event


def route_of(handlers: Sequence[Handler], places: dict[Repository[Any] | None, int], sessions: bool) -> Route:
    """Of the handlers of one type. places: a number for each repository, shared by all types."""
    calls = tuple(
        Call(
            each,
            each.caller(),
            each.asynchronous,
            each.repository,
            places.setdefault(each.repository, len(places)),
            each.id_of() if each.id_field else _no_id,
            each.optional,
            each.asynchronous or wraps_async(each.function),
            each.needs_step or answer is not None,
            answer,
        )
        for each in handlers
        for answer in (_answer_of(each),)
    )
    event = handlers[0].event
    together = all(call.repository is not None and not (sessions and call.handler.needs_session) for call in calls)
    mapped = [each.repository for each in handlers if isinstance(each.repository, SqlAlchemyRepository)]
    linked = sessions and any(each.related for each in mapped)
    if sessions and len(calls) > 1 and (linked or len({each.root for each in mapped}) < len(mapped)):
        together = False  # each handler of a message is to find what the one before has left
    return Route(event, event.read, calls, together, locked=not linked)


def _answer_of(handler: Handler) -> Callable[..., Any] | None:
    if handler.starts is not None:
        return started
    return returned if handler.local else answered if handler.command is not None else None


def _no_id(event: Any) -> Any:
    raise AssertionError("only entity steps have an id field")
