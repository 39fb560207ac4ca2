"""What a service is, as those see it who run it: its handlers, what it publishes, its sagas. No I/O here.

A service is one subscription: one checkpoint a partition, one transaction a batch. Its handlers of one event run in
the order of declaration, in the same step. What it does by time are messages to itself, see docs/adr/0039. How it is
declared: `service`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ensue.aggregate.aggregate import Aggregate
from ensue.answers import keeps_answers
from ensue.catch_up import Since, earliness
from ensue.command import SERVICE_NAME, CommandType
from ensue.errors import UsageError
from ensue.event import EventType, event_type
from ensue.formats import of_msgspec
from ensue.handler import Handler
from ensue.message import REPLY
from ensue.reply import is_of_replies, replies_of
from ensue.repositories import aggregates_of, declare_aggregate
from ensue.repository import Repository, TableRepository
from ensue.retry import Retry
from ensue.saga.code import SagaCode
from ensue.saga.local import LocalStep
from ensue.saga.named import Named
from ensue.saga.outside import OutsideFunction
from ensue.schedule import Run, Schedule

_RUNS = of_msgspec(Run)


class ServiceDefinition:
    """The part of `ensue.Service` that does no I/O: its name, handlers and publications, for the engine.

    calls: the commands whose answers it waits for, see `Service.call`. signs_as: the service whose key it signs with.
    is_view: it publishes nothing, and is complete: what the log has lost of a source's beginning it never passes over
    by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        publishes: Iterable[type] | None = None,
        calls: Iterable[type] = (),
        repositories: Iterable[TableRepository[Any]] = (),
        aggregates: Iterable[type[Aggregate]] = (),
        retry: Retry | None = None,
        prunes: Iterable[str] = (),
        lanes: int = 1,
        handler_limit_s: float | None = None,
        outside_max: int = 50,
    ) -> None:
        if not SERVICE_NAME.fullmatch(name):
            raise UsageError(f"service name {name!r}: expected lower-case letters, digits, - and _, at most 63")
        self.name = name
        self.signs_as = name
        self.is_view = False
        self.publishes = None if publishes is None else _classes(name, "publishes", publishes)
        self.calls = _classes(name, "calls", calls)
        for cls in self.calls:
            if not isinstance(event_type(cls), CommandType):
                raise UsageError(f"service {name}: calls={cls.__qualname__}, which is an event: name commands there")
        if isinstance(prunes, str):
            raise UsageError(f"service {name}: prunes={prunes!r} is no list; write prunes=[{prunes!r}]")
        self.prunes = frozenset(prunes)
        self.retry = retry
        if not 1 <= lanes <= 64:
            raise UsageError(f"service {name}: lanes={lanes}, expected 1 to 64")
        self.lanes = lanes
        if handler_limit_s is not None and not handler_limit_s >= 0:
            raise UsageError(f"service {name}: handler_limit_s={handler_limit_s}, expected seconds; 0: no limit")
        self.handler_limit_s = handler_limit_s
        if not 1 <= outside_max <= 10_000:
            raise UsageError(f"service {name}: outside_max={outside_max}, expected 1 to 10,000")
        self.outside_max = outside_max
        self._repositories: dict[type, Repository[Any]] = {each.cls: each for each in repositories}
        for aggregate in _listed(name, "aggregates", aggregates):
            declare_aggregate(self._repositories, aggregate, f"service {name}", name, self.prunes)
        self._handlers: dict[str, list[Handler]] = {REPLY: [keeps_answers(name)]} if self.calls else {}
        self._recurring: dict[str, Schedule] = {}
        self._sagas: dict[tuple[str, int], SagaCode] = {}
        self._named: dict[Callable[..., Any], Named] = {}

    @property
    def handlers(self) -> Mapping[str, Sequence[Handler]]:
        """Handlers by the wire type of their event, in order of declaration: of older versions too, where upcasters
        make an event of today of them and nobody handles them as they are."""
        found: dict[str, Sequence[Handler]] = dict(self._handlers)
        for handlers in self._handlers.values():
            for older in handlers[0].event.older:
                if older.type not in found:
                    found[older.type] = [dataclasses.replace(each, event=older) for each in handlers]
        return found

    @property
    def recurring(self) -> Mapping[str, Schedule]:
        """Of the recurring steps, by name."""
        return self._recurring

    @property
    def sagas(self) -> Mapping[tuple[str, int], SagaCode]:
        """By name and version."""
        return self._sagas

    @property
    def locals(self) -> Mapping[Callable[..., Any], LocalStep]:
        """The local steps of sagas, by function."""
        return {function: each for function, each in self._named.items() if isinstance(each, LocalStep)}

    @property
    def outsides(self) -> Mapping[str, OutsideFunction]:
        """The outside functions of sagas, by name."""
        return {each.name: each for each in self._named.values() if isinstance(each, OutsideFunction)}

    @property
    def all_handlers(self) -> Sequence[Handler]:
        """Of messages, and the local steps of sagas."""
        return [
            *(each for handlers in self._handlers.values() for each in handlers),
            *(each.handler for each in self.locals.values()),
        ]

    def runs_of(self, name: str) -> EventType[Run]:
        """What begins a recurring step, as the wire sees it: a topic of the service's own, a type for each step."""
        topic = f"ensue.every.{self.name}"
        return EventType(Run, f"{topic}.{name}.v1", _RUNS, topic, "due", name, 1)

    @property
    def aggregates(self) -> Sequence[type[Aggregate]]:
        """Those that are declared, and those that handlers take."""
        return aggregates_of(self._repositories)

    @property
    def stream_topics(self) -> frozenset[str]:
        """The topics that carry the events of its aggregates, which nobody prunes."""
        return frozenset(event_type(each).topic for cls in self.aggregates for each in cls.__ensue_evolvers__)

    @property
    def repositories(self) -> Mapping[type, Repository[Any]]:
        """By the class of their entities."""
        return self._repositories

    def wanted(self, topic: str) -> dict[str, Since]:
        """The event types of a topic that are handled, each with the earliest `since` of its handlers."""
        found: dict[str, Since] = {}
        for kind, handlers in self.handlers.items():
            if handlers[0].event.topic == topic:
                found[kind] = min((each.since for each in handlers), key=earliness)
        return found

    def publishes_to(self, topics: Iterable[str]) -> set[str]:
        """Those of these topics that it publishes to, as far as its declaration tells. Who asks for an answer says
        where it goes, so to one who handles commands all topics of answers belong."""
        declared = {event_type(cls).topic for cls in (*(self.publishes or ()), *self.calls)}
        declared |= {self.runs_of(name).topic for name in self.recurring}
        declared |= {replies_of(self.name)} if self._sagas else set()
        answers = any(each.command is not None for handlers in self._handlers.values() for each in handlers)
        return {topic for topic in topics if topic in declared or (answers and is_of_replies(topic))}

    @property
    def subscribed_topics(self) -> tuple[str, ...]:
        return tuple(sorted({each.event.topic for handlers in self._handlers.values() for each in handlers}))


def _listed(service: str, option: str, given: Iterable[type]) -> tuple[type, ...]:
    if isinstance(given, type | str):
        shown = given if isinstance(given, str) else given.__name__
        raise UsageError(f"service {service}: {option}={shown} is no list; write {option}=[{shown}]")
    return tuple(given)


def _classes(service: str, option: str, given: Iterable[type]) -> tuple[type, ...]:
    """The events, or commands, that a declaration lists."""
    classes = _listed(service, option, given)
    for cls in classes:
        event_type(cls)
    return classes
