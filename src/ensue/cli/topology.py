"""`ensue topology`: who publishes or sends what, and who handles it. From the declarations alone; nothing need run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from ensue.app import Service
from ensue.cli.completing import services_here
from ensue.cli.loading import load_services
from ensue.cli.output import complain, print_table, say
from ensue.operations.topology import Flow, SagaFlow, find_flows, find_sagas, find_warnings, no_publisher


def topology(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flowchart")] = False,
) -> None:
    """Show who publishes and who subscribes, who handles which command and who sends or calls it, and which sagas there
    are, and warn of what has nobody at one end."""
    definitions = load_services(services)
    flows, unknown = find_flows(definitions), no_publisher(definitions)
    if mermaid:
        say(*as_mermaid(definitions, flows).split("\n"))
    else:
        events = [each for each in flows if each.reply is None]
        commands = [each for each in flows if each.reply is not None]
        sagas = find_sagas(definitions)
        if events or not (commands or sagas):
            rows = [(each.topic, each.type, _listed(each.publishers, unknown), _handlers(each)) for each in events]
            print_table("", ("topic", "event", "published by", "handled by"), rows)
        if commands:
            asked = [
                (each.type, each.reply, _listed(each.publishers, unknown), _listed(each.callers), _handlers(each))
                for each in commands
            ]
            print_table("", ("command", "reply", "sent by", "called by", "handled by"), asked)
        if sagas:
            print_table("", ("saga", "versions", "started by", "calls"), map(_saga_row, sagas))
    for warning in find_warnings(definitions, flows):
        complain(f"warning: {warning}")


def _saga_row(saga: SagaFlow) -> tuple[str, ...]:
    versions = ", ".join(map(str, saga.versions))
    return f"{saga.service} ({saga.name})", versions, saga.handles or "a step", ", ".join(saga.calls) or "none"


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
        begin = _end(nodes, publisher, f"nobody_publishes(({no_publisher(services)}))")
        end = _end(nodes, subscriber, "nobody_reads((nobody))")
        lines.append(f'  {begin} {arrow}|"{"<br/>".join(names)}"| {end}')
    return "\n".join(lines)


def _label(service: str, sagas: Sequence[SagaFlow]) -> str:
    own = [each.name for each in sagas if each.service == service]
    return f'"{"<br/>".join([service, *(f"saga {name}" for name in own)])}"' if own else service


def _end(nodes: Mapping[str, str], name: str, nobody: str) -> str:
    return nobody if name == "?" else nodes[name]


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


def _listed(names: Sequence[str], nobody: str = "nobody") -> str:
    return ", ".join(names) or nobody
