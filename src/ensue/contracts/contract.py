"""What a service writes and reads, from its declaration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ensue.command import CommandType
from ensue.contracts.described import Contract, Described, of_failures, of_message, of_reply
from ensue.contracts.files import write
from ensue.errors import UsageError
from ensue.event import EventType, event_type
from ensue.message import REPLY, SAGA, TOLD
from ensue.service import ServiceDefinition


def contract_of(service: ServiceDefinition) -> Contract:
    """Return what it publishes, sends and answers, and what it handles and is answered, without what it tells itself.

    A service that handles or sends commands may answer, or be answered, with each failure that is declared in this
    process. Raises UsageError for a chain of upcasters that is not complete.
    """
    handled = list(handled_by(service))
    sent: list[EventType[Any]] = [
        event_type(cls) for cls in dict.fromkeys((*(service.publishes or ()), *service.calls))
    ]
    served = [each for each in handled if isinstance(each, CommandType) and not is_older(each)]
    asked = [each for each in sent if isinstance(each, CommandType)]
    failures = of_failures() if served or asked else []
    writes = [*map(of_message, sent), *(reply for each in served for reply in of_reply(each))]
    reads = [of_message(each, older=is_older(each)) for each in handled]
    reads += [reply for each in asked for reply in of_reply(each)]
    return Contract(
        service.signs_as,
        by_name([*writes, *(failures if served else ())]),
        by_name([*reads, *(failures if asked else ())]),
        sorted(each.type for each in served),
        service.publishes is None,
    )


def handled_by(service: ServiceDefinition) -> Iterator[EventType[Any]]:
    """What others write that it handles: events and commands, their older versions among them."""
    recurring = {service.runs_of(name).type for name in service.recurring}
    for kind, handlers in service.handlers.items():
        if kind not in (REPLY, SAGA, TOLD) and kind not in recurring:
            yield handlers[0].event


def is_older(spec: EventType[Any]) -> bool:
    """Whether upcasters read it."""
    return spec.type != event_type(spec.cls).type


def by_name(found: list[Described]) -> list[Described]:
    return sorted({each.name: each for each in found}.values(), key=lambda each: each.name)


def owned(contracts: Sequence[Contract]) -> dict[str, Described]:
    """The messages that services write, by name; of a command, as the service has it that handles it.

    Raises UsageError where two of them have different schemas for one name: whose is the contract?
    """
    found: dict[str, tuple[str, Described]] = {}
    handled = {name: contract for contract in contracts for name in contract.handles}
    for contract in contracts:
        for each in (*contract.writes, *(one for one in contract.reads if one.name in contract.handles)):
            owner = handled.get(each.name, contract)
            if owner is not contract:
                continue
            service, other = found.setdefault(each.name, (contract.service, each))
            if other != each and write(other) != write(each):
                raise UsageError(
                    f"{each.name} is written by {service} as {other.cls}, and by {contract.service} as {each.cls}, and "
                    "their schemas differ: let both import one class, or give one of them another type_name or version",
                )
    return {name: each for name, (_, each) in sorted(found.items())}


def writers(contracts: Sequence[Contract]) -> dict[str, set[str]]:
    """The services that write each event, and send or handle each command, by name. None of an answer: it goes with its
    command, and of a failure no declaration says who means it."""
    found: dict[str, set[str]] = {}
    for contract in contracts:
        for each in (*contract.writes, *(one for one in contract.reads if one.name in contract.handles)):
            if each.topic:
                found.setdefault(each.name, set()).add(contract.service)
    return found
