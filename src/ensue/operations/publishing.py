"""One event of a service, published by a person."""

from __future__ import annotations

from typing import Any

from ensue.deciding import Deciding
from ensue.engine import publishing
from ensue.engine.publishing import Published
from ensue.event import event_type
from ensue.message import OutboxRecord
from ensue.operations.opening import Opened, dispatcher_of
from ensue.ports import StepTransaction


async def publish_event(access: Opened, event: Any, by: Deciding) -> Published:
    """Publish an event, or send a command, in one transaction with the row that says who did.

    The row says which event it was, by its id and its type, and nothing of what is in it. Raises what
    `engine.publishing.publish` does.
    """
    dispatcher = await dispatcher_of(access)

    async def note(transaction: StepTransaction, id: str, correlation_id: str, record: OutboxRecord) -> None:
        told = {
            "type": event_type(type(event)).type,
            "topic": record.topic,
            "partition": record.partition,
            "correlation_id": correlation_id,
        }
        await access.books.record(transaction, by, "publish", id, None, told)

    return await publishing.publish(access.store, dispatcher, event, note)
