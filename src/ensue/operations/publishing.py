"""One event of a service, published by a person: for a test, or for what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ensue.app import Service
from ensue.deciding import Deciding
from ensue.engine import publishing
from ensue.engine.publishing import Published
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType, declared_types, event_type
from ensue.message import OutboxRecord
from ensue.operations.by_hand import unknown_fields
from ensue.operations.opening import Opened, dispatcher_of
from ensue.ports import StepTransaction
from ensue.roundtrip import fields_of
from ensue.texts import said_by

#: Of a decision's row.
PUBLISH = "publish"
_NAMED_MAX = 12


async def publish(access: Opened, event: Any, by: Deciding) -> Published:
    """Publish an event of the service, or send a command, in a step of its own; a relay of the service sends it. Cannot
    be taken back. The decision says which event it was, by its id and its type, and nothing of what is in it.

    event: of one of its classes, see `spec_of` and `read_event`. Raises UsageError where the service may not.
    """
    spec: EventType[Any] = event_type(type(event))

    async def note(transaction: StepTransaction, id: str, correlation_id: str, record: OutboxRecord) -> None:
        told = {
            "type": spec.type, "topic": record.topic, "partition": record.partition, "correlation_id": correlation_id
        }  # fmt: skip
        await access.books.record(transaction, by, PUBLISH, id, None, told)

    return await publishing.publish(access.store, await dispatcher_of(access), event, note)


def published_types(service: Service) -> Sequence[EventType[Any]]:
    """What the service declares to publish or send; all that is declared in this process, where it does not say."""
    return declared_types() if service.publishes is None else [event_type(cls) for cls in service.publishes]


def spec_of(service: Service, asked: str) -> EventType[Any]:
    """Which of the types that the service publishes is meant. Raises UsageError, which lists them, for none or two."""
    own = published_types(service)
    found = [each for each in own if each.type == asked] or [
        each for each in own if asked in (each.cls.__name__, each.name)
    ]
    if len(found) == 1:
        return found[0]
    types = sorted(each.type for each in found or own)
    listed = ", ".join(types[:_NAMED_MAX]) + (", ..." if len(types) > _NAMED_MAX else "")
    if found:
        raise UsageError(f"{asked} may be {listed}: say which")
    raise UsageError(f"service {service.name} does not publish {asked}; it publishes {listed or 'nothing'}")


def read_event(spec: EventType[Any], data: bytes) -> Any:
    """Return the event that JSON data describes. Raises UsageError, which names the field, for what does not fit its
    class, and for a field that the class does not have: by hand that is a slip of the pen, not a newer version."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the data for {spec.type} is no JSON: {error}") from error
    try:
        event = spec.read(data)
    except BadMessage as error:
        why = said_by(error.__cause__)
        raise UsageError(f"the data does not fit {spec.cls.__qualname__} ({spec.type}): {why}") from error
    if unknown := unknown_fields(spec, event, data):
        raise UsageError(
            f"{spec.cls.__qualname__} ({spec.type}) has no field {', '.join(unknown)}; it has "
            f"{', '.join(sorted(fields_of(spec.cls)))}"
        )
    return event
