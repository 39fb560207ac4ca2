"""Who publishes or sends what, and who handles it. From the declarations alone; nothing need run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ensue.app import Service
from ensue.command import CommandType
from ensue.event import EventType, event_type
from ensue.message import REPLY, SAGA, TOLD
from ensue.saga.code import commands_of


class SagaFlow(NamedTuple):
    """A saga: its versions, the command that starts it (empty: a step does), and those that its code names."""

    service: str
    name: str
    versions: tuple[int, ...]
    handles: str
    calls: tuple[str, ...]


class Flow(NamedTuple):
    """One event type: who declares to publish it, who handles it (service -> names of handlers).

    Of a command: who may send it, who handles it, who calls it, and the name of its reply; None: it is an event.
    """

    type: str
    topic: str
    publishers: tuple[str, ...]
    subscribers: dict[str, tuple[str, ...]]
    callers: tuple[str, ...] = ()
    reply: str | None = None

    @property
    def begins(self) -> tuple[str, ...]:
        """The services that it comes from."""
        return tuple(dict.fromkeys((*self.publishers, *self.callers)))


def no_publisher(services: Sequence[Service]) -> str:
    """What to show where none of these is known to publish a message."""
    return "not declared" if any(each.publishes is None for each in services) else "nobody"


def find_flows(services: Sequence[Service]) -> list[Flow]:
    """Every event type and command that one of the services declares to publish, call or handle, by topic and type."""
    specs: dict[str, EventType[Any]] = {}
    publishers: dict[str, list[str]] = {}
    callers: dict[str, list[str]] = {}
    subscribers: dict[str, dict[str, tuple[str, ...]]] = {}
    for service in services:
        for classes, origins in ((service.publishes or (), publishers), (service.calls, callers)):
            for cls in classes:
                spec: EventType[Any] = event_type(cls)
                specs[spec.type] = spec
                origins.setdefault(spec.type, []).append(service.name)
        for name in service.recurring:
            publishers[service.runs_of(name).type] = [service.name]
        for kind, handlers in service.handlers.items():
            if kind in (REPLY, SAGA, TOLD):
                continue  # what the service itself has asked for
            specs[kind] = handlers[0].event
            subscribers.setdefault(kind, {})[service.name] = tuple(handler.name for handler in handlers)
    return [
        Flow(
            kind,
            spec.topic,
            tuple(publishers.get(kind, ())),
            subscribers.get(kind, {}),
            tuple(callers.get(kind, ())),
            _reply_of(spec),
        )
        for kind, spec in sorted(specs.items(), key=lambda item: (item[1].topic, item[0]))
    ]


def find_sagas(services: Sequence[Service]) -> list[SagaFlow]:
    """The sagas of these services, by service and name."""
    found: list[SagaFlow] = []
    for service in services:
        for called in sorted({name for name, _ in service.sagas}):
            codes = [code for (name, _), code in sorted(service.sagas.items()) if name == called]
            calls = {event_type(each).type for code in codes for each in commands_of(code.function)}
            handles = next((each.handles.type for each in reversed(codes) if each.handles is not None), "")
            versions = tuple(each.version for each in codes)
            found.append(SagaFlow(service.name, called, versions, handles, tuple(sorted(calls))))
    return found


def _reply_of(spec: EventType[Any]) -> str | None:
    if not isinstance(spec, CommandType):
        return None
    return "none" if spec.reply is None else spec.reply.cls.__qualname__


def find_warnings(services: Sequence[Service], flows: Sequence[Flow]) -> list[str]:
    """What may be a mistake, as far as these services can tell."""
    silent = [service.name for service in services if service.publishes is None]
    warnings = [
        f"{name} does not declare what it publishes (publishes=[...]): it may publish anything" for name in silent
    ]
    for flow in flows:
        command = flow.reply is not None
        if not flow.subscribers:
            lacks, has = ("handles", "sent or called by") if command else ("subscribes to", "published by")
            warnings.append(f"nobody here {lacks} {flow.type}, {has} {', '.join(flow.begins)}")
        if not flow.begins and not silent:
            lacks = "sends or calls" if command else "publishes"
            warnings.append(f"nobody here {lacks} {flow.type}, handled by {', '.join(flow.subscribers)}")
    return warnings
