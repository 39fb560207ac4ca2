"""`ensue topology`: who publishes what, and who subscribes to it. From the declarations alone; nothing need run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer

from ensue.app import Service
from ensue.cli.loading import load_services
from ensue.cli.output import complain, print_table, say
from ensue.event import EventType, event_type
from ensue.message import REPLY


class Flow(NamedTuple):
    """One event type: who declares to publish it, who handles it (service -> names of handlers)."""

    type: str
    topic: str
    publishers: tuple[str, ...]
    subscribers: dict[str, tuple[str, ...]]


def topology(
    services: Annotated[list[str], typer.Argument(metavar="SERVICE...", help="MODULE:NAME, one or several")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flowchart")] = False,
) -> None:
    """Show who publishes and who subscribes, and warn of events that nobody reads or nobody publishes."""
    definitions = load_services(services)
    flows = find_flows(definitions)
    if mermaid:
        say(*as_mermaid(definitions, flows).split("\n"))
    else:
        rows = [(flow.topic, flow.type, _listed(flow.publishers), _handlers(flow)) for flow in flows]
        print_table("", ("topic", "event", "published by", "handled by"), rows)
    for warning in find_warnings(definitions, flows):
        complain(f"warning: {warning}")


def find_flows(services: Sequence[Service]) -> list[Flow]:
    """Every event type that one of the services declares to publish or handles, by topic and type."""
    topics: dict[str, str] = {}
    publishers: dict[str, list[str]] = {}
    subscribers: dict[str, dict[str, tuple[str, ...]]] = {}
    for service in services:
        for cls in dict.fromkeys((*(service.publishes or ()), *service.calls)):
            spec: EventType[Any] = event_type(cls)
            topics[spec.type] = spec.topic
            publishers.setdefault(spec.type, []).append(service.name)
        for name in service.recurring:
            publishers[service.runs_of(name).type] = [service.name]
        for kind, handlers in service.handlers.items():
            if kind == REPLY:
                continue  # goes with the commands that it calls
            topics[kind] = handlers[0].event.topic
            subscribers.setdefault(kind, {})[service.name] = tuple(handler.name for handler in handlers)
    return [
        Flow(kind, topics[kind], tuple(publishers.get(kind, ())), subscribers.get(kind, {}))
        for kind in sorted(topics, key=lambda kind: (topics[kind], kind))
    ]


def find_warnings(services: Sequence[Service], flows: Sequence[Flow]) -> list[str]:
    """What may be a mistake, as far as these services can tell."""
    silent = [service.name for service in services if service.publishes is None]
    warnings = [
        f"{name} does not declare what it publishes (publishes=[...]): it may publish anything" for name in silent
    ]
    for flow in flows:
        if not flow.subscribers:
            warnings.append(f"nobody here subscribes to {flow.type}, published by {', '.join(flow.publishers)}")
        if not flow.publishers and not silent:
            warnings.append(f"nobody here publishes {flow.type}, handled by {', '.join(flow.subscribers)}")
    return warnings


def as_mermaid(services: Sequence[Service], flows: Sequence[Flow]) -> str:
    """A flowchart: services are boxes, events label the arrows; dotted ones have nobody at one end."""
    lines = ["flowchart LR"]
    lines += [f"  {_node(service.name)}[{service.name}]" for service in services]
    arrows: dict[tuple[str, str], list[str]] = {}
    for flow in flows:
        name = flow.type.removeprefix(f"{flow.topic}.")
        for publisher in flow.publishers or ("?",):
            for subscriber in flow.subscribers or ("?",):
                arrows.setdefault((publisher, subscriber), []).append(name)
    for (publisher, subscriber), names in arrows.items():
        arrow = "-.->" if "?" in (publisher, subscriber) else "-->"
        lines.append(f'  {_end(publisher, "nobody_publishes")} {arrow}|"{"<br/>".join(names)}"| '
                     f'{_end(subscriber, "nobody_reads")}')  # fmt: skip
    return "\n".join(lines)


def _end(name: str, nobody: str) -> str:
    return f"{nobody}((nobody))" if name == "?" else _node(name)


def _node(name: str) -> str:
    """A Mermaid id: `end` and the like are words of its own, so every id gets a prefix."""
    return "service_" + re.sub(r"\W", "_", name)


def _handlers(flow: Flow) -> str:
    return _listed([f"{service} ({', '.join(names)})" for service, names in flow.subscribers.items()])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nobody"
