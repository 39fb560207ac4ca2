"""One event of a service that does not run in this process, published in a step of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from ensue.codec import decode_envelope
from ensue.command import CommandType
from ensue.engine.dispatch import Dispatcher
from ensue.engine.timers import put
from ensue.errors import UsageError
from ensue.event import event_type
from ensue.message import OutboxRecord
from ensue.ports import StepTransaction, Store

_PAGE = 500
#: So many times, for up to a second, a position is waited for: a transaction that began before may be open for long.
_LOOKS = 5


class Published(NamedTuple):
    """position: of its record; 0: it has none yet, since an older transaction of the database is still open."""

    id: str
    correlation_id: str
    topic: str
    partition: int
    key: str
    position: int


#: Writes down, in the transaction at hand, who has published what: (transaction, id, correlation id, record).
Note = Callable[[StepTransaction, str, str, OutboxRecord], Awaitable[None]]


async def publish(store: Store, dispatcher: Dispatcher, event: Any, note: Note | None = None) -> Published:
    """Publish an event, or send a command, and return it when it is committed. A relay of the service sends it.

    Raises UsageError where the service may not, or the store has no outbox, and what `Step.publish` raises.
    """
    name = dispatcher.definition.name
    if not store.capabilities.publishes:
        raise UsageError(f"service {name} cannot publish: its database is a store for views, which has no outbox")
    before = max((await store.outbox_heads()).values(), default=0)
    async with store.transaction() as transaction:
        step = dispatcher.outside_step(transaction, "", "", "")
        command = isinstance(event_type(type(event)), CommandType)
        id = step.send(event) if command else step.publish(event)
        [record] = step.outgoing.close()
        await put(transaction, [record])
        if note is not None:
            await note(transaction, id, step.correlation_id, record)
    position = await _position(store, id, before)
    return Published(id, step.correlation_id, record.topic, record.partition, record.key, position)


async def _position(store: Store, id: str, after: int) -> int:
    """Positions are given with the commit, or by who looks next; other processes may have published meanwhile."""
    looks = 0
    while looks < _LOOKS:
        records = await store.outbox_after(after, _PAGE)
        for record in records:
            if decode_envelope(record.envelope).id == id:
                return record.position
        if records:
            after = records[-1].position
        else:
            looks += 1
            await store.outbox_wait(1.0)
    return 0
