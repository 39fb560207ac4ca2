"""`ensue topology`: who publishes or sends what, and who handles it. From the declarations alone; nothing need run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from ensue.app import Service
from ensue.cli.loading import load_services
from ensue.cli.output import complain, print_table, say
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


def topology(
    services: Annotated[list[str], typer.Argument(metavar="SERVICE...", help="MODULE:NAME, one or several")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flowchart")] = False,
) -> None:
    """Show who publishes and who subscribes, who handles which command and who sends or calls it, and which sagas there
    are, and warn of what has nobody at one end."""
    definitions = load_services(services)
    flows = find_flows(definitions)
    if mermaid:
        say(*as_mermaid(definitions, flows).split("\n"))
    else:
        events = [each for each in flows if each.reply is None]
        commands = [each for each in flows if each.reply is not None]
        sagas = find_sagas(definitions)
        if events or not (commands or sagas):
            rows = [(each.topic, each.type, _listed(each.publishers), _handlers(each)) for each in events]
            print_table("", ("topic", "event", "published by", "handled by"), rows)
        if commands:
            asked = [
                (each.type, each.reply, _listed(each.publishers), _listed(each.callers), _handlers(each))
                for each in commands
            ]
            print_table("", ("command", "reply", "sent by", "called by", "handled by"), asked)
        if sagas:
            print_table("", ("saga", "versions", "started by", "calls"), map(_saga_row, sagas))
    for warning in find_warnings(definitions, flows):
        complain(f"warning: {warning}")


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


def _saga_row(saga: SagaFlow) -> tuple[str, ...]:
    versions = ", ".join(map(str, saga.versions))
    return f"{saga.service} ({saga.name})", versions, saga.handles or "a step", ", ".join(saga.calls) or "none"


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


def as_mermaid(services: Sequence[Service], flows: Sequence[Flow]) -> str:
    """A flowchart: services are boxes with their sagas, events label the arrows, and commands the thick ones; dotted
    ones have nobody at one end."""
    lines = ["flowchart LR"]
    nodes = _nodes([service.name for service in services])
    sagas = find_sagas(services)
    for service in services:
        lines.append(f"  {nodes[service.name]}[{_label(service.name, sagas)}]")
    arrows: dict[tuple[str, str, bool], list[str]] = {}
    for flow in flows:
        name = flow.type.removeprefix(f"{flow.topic}.")
        for publisher in flow.begins or ("?",):
            for subscriber in flow.subscribers or ("?",):
                arrows.setdefault((publisher, subscriber, flow.reply is not None), []).append(name)
    for (publisher, subscriber, command), names in arrows.items():
        arrow = "-.->" if "?" in (publisher, subscriber) else "==>" if command else "-->"
        lines.append(f'  {_end(nodes, publisher, "nobody_publishes")} {arrow}|"{"<br/>".join(names)}"| '
                     f'{_end(nodes, subscriber, "nobody_reads")}')  # fmt: skip
    return "\n".join(lines)


def _label(service: str, sagas: Sequence[SagaFlow]) -> str:
    own = [each.name for each in sagas if each.service == service]
    return f'"{"<br/>".join([service, *(f"saga {name}" for name in own)])}"' if own else service


def _end(nodes: Mapping[str, str], name: str, nobody: str) -> str:
    return f"{nobody}((nobody))" if name == "?" else nodes[name]


def _nodes(names: Sequence[str]) -> dict[str, str]:
    """A Mermaid id for each: `end` and the like are words of its own, so every id gets a prefix.

    >>> _nodes(["a-b", "a_b"])
    {'a-b': 'service_a_b', 'a_b': 'service_a_b_'}
    """
    found: dict[str, str] = {}
    for name in names:
        node = "service_" + re.sub(r"\W", "_", name)
        while node in found.values():
            node += "_"
        found[name] = node
    return found


def _handlers(flow: Flow) -> str:
    return _listed([f"{service} ({', '.join(names)})" for service, names in flow.subscribers.items()])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"
