"""Hand a batch of messages to their handlers inside one open transaction.

Messages whose handlers are all entity steps run together: one load of all their entities, the handlers on plain
objects in memory, one save. A plain handler may do anything to the database, so entities are saved before it and
loaded anew after it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from ensue.engine.clock import rfc3339
from ensue.errors import CheckpointConflict, EntityMissing, HandlerCancelled, StoreUnavailable, UsageError
from ensue.event import EventType
from ensue.message import Message
from ensue.ports import Ids, StepTransaction
from ensue.repository import Repository
from ensue.service import Handler, ServiceDefinition
from ensue.step import Outgoing, Step

#: Not the message's fault: the loop deals with these, no attempt is counted.
NOT_THE_MESSAGE = (StoreUnavailable, CheckpointConflict)


class StepFailed(Exception):
    """A handler failed with `error`; the transaction must be rolled back.

    index: of the message whose handler failed, or None when entities failed to load or save, which may be due to any.
    handler: its name; empty when no handler ran (the data does not fit the event), or when it may be any of several.
    """

    def __init__(self, index: int | None, error: Exception, handler: str = "") -> None:
        super().__init__(index, error, handler)
        self.index = index
        self.error = error
        self.handler = handler


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A handler made ready: no lookup is left for the moment when it is called."""

    handler: Handler
    call: Callable[[Any, Any, Step], Any]
    asynchronous: bool
    repository: Repository[Any] | None
    id_of: Callable[[Any], Any]
    optional: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """All that happens for one event type. entities: every handler is an entity step."""

    event: EventType[Any]
    read: Callable[[bytes], Any]
    calls: tuple[Call, ...]
    entities: bool


class Dispatcher:
    """The handlers of one service, ready to run."""

    def __init__(self, definition: ServiceDefinition, ids: Ids, partitions: int) -> None:
        self.definition = definition
        self.routes = {kind: _route(handlers) for kind, handlers in definition.handlers.items()}
        self._ids = ids
        self._partitions = partitions
        self._types: dict[type, EventType[Any]] = {}
        self._allowed = None if definition.publishes is None else frozenset(definition.publishes)

    def only_handler(self, kind: str) -> str:
        """The name of the handler of an event type; empty when it has several, or none."""
        handlers = self.definition.handlers.get(kind, ())
        return handlers[0].name if len(handlers) == 1 else ""

    def outgoing(self, now: float) -> Outgoing:
        return Outgoing(self.definition.name, self._ids, self._partitions, rfc3339(now), self._types, self._allowed)

    def outside_step(self, transaction: StepTransaction, correlation_id: str, traceparent: str, key: str) -> Step:
        """A step that no message began."""
        outgoing = self.outgoing(transaction.now)
        return Step(transaction, outgoing, None, correlation_id or self._ids.next(), traceparent, key)

    async def apply(self, transaction: StepTransaction, messages: Sequence[Message]) -> Outgoing:
        """Run the handlers of `messages` in order; return what they publish, not yet in the outbox.

        Raises StepFailed with the index of the message whose handler failed.
        """
        outgoing = self.outgoing(transaction.now)
        routes = self.routes
        start, end = 0, len(messages)
        while start < end:
            together = routes[messages[start].envelope.type].entities
            stop = start + 1
            while stop < end and routes[messages[stop].envelope.type].entities is together:
                stop += 1
            if together:
                if start:
                    await transaction.flush()  # a repository that reads past the session sees what handlers left in it
                await self._entity_run(transaction, messages, start, stop, outgoing)
            else:
                await self._plain_run(transaction, messages, start, stop, outgoing)
            start = stop
        return outgoing

    async def _plain_run(
        self, transaction: StepTransaction, messages: Sequence[Message], start: int, stop: int, outgoing: Outgoing
    ) -> None:
        index = start
        call: Call | None = None
        routes = self.routes
        try:
            for index in range(start, stop):
                call = None
                message = messages[index]
                route = routes[message.envelope.type]
                event = route.read(message.data)
                envelope = message.envelope
                step = Step(
                    transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent
                )
                for call in route.calls:
                    if call.repository is not None:
                        await _one_entity(transaction, call, event, step)
                    elif call.asynchronous:
                        await call.call(None, event, step)
                    else:
                        await asyncio.to_thread(_in_thread, call.call, event, step)
        except NOT_THE_MESSAGE:
            raise
        except asyncio.CancelledError as error:
            raise StepFailed(index, _from_inside(error), _name(call)) from error
        except (Exception, SystemExit) as error:
            raise StepFailed(index, _as_failure(error), _name(call)) from error

    async def _entity_run(
        self, transaction: StepTransaction, messages: Sequence[Message], start: int, stop: int, outgoing: Outgoing
    ) -> None:
        index: int | None = None
        call: Call | None = None
        routes = self.routes
        work: list[tuple[Message, Any, Route]] = []
        wanted: dict[Repository[Any], dict[Any, None]] = {}
        try:
            for index in range(start, stop):
                call = None
                message = messages[index]
                route = routes[message.envelope.type]
                event = route.read(message.data)
                work.append((message, event, route))
                for call in route.calls:
                    ids = wanted.get(call.repository)  # type: ignore[arg-type]  # entity steps have one
                    if ids is None:
                        ids = wanted[call.repository] = {}  # type: ignore[index]
                    ids[call.id_of(event)] = None
            index = None
            entities = {repository: await repository.load(transaction, list(ids)) for repository, ids in wanted.items()}
            changed: dict[Repository[Any], dict[Any, Any]] = {repository: {} for repository in wanted}
            created: dict[Repository[Any], dict[Any, Any]] = {repository: {} for repository in wanted}
            for index, (message, event, route) in enumerate(work, start):  # noqa: B007  # told below
                envelope = message.envelope
                step = Step(
                    transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent
                )
                for call in route.calls:
                    repository = call.repository
                    entity_id = call.id_of(event)
                    cache = entities[repository]  # type: ignore[index]
                    entity = cache.get(entity_id)
                    if entity is None and not call.optional:
                        raise _missing(call.handler, entity_id)
                    result = call.call(entity, event, step)
                    if call.asynchronous:
                        result = await result
                    if result is not None and result is not entity:
                        _check_returned(call.handler, result)
                        if entity is None or entity_id in created[repository]:  # type: ignore[index]
                            created[repository][entity_id] = result  # type: ignore[index]
                        else:
                            changed[repository][entity_id] = result  # type: ignore[index]
                        cache[entity_id] = result
                    elif entity is not None and entity_id not in created[repository]:  # type: ignore[index]
                        changed[repository][entity_id] = entity  # type: ignore[index]
            index = None
            for repository in wanted:
                await repository.save(transaction, changed[repository], created[repository])
        except NOT_THE_MESSAGE:
            raise
        except asyncio.CancelledError as error:
            raise StepFailed(index, _from_inside(error), self._at_fault(messages, start, stop, index, call)) from error
        except (Exception, SystemExit) as error:
            raise StepFailed(index, _as_failure(error), self._at_fault(messages, start, stop, index, call)) from error

    def _at_fault(
        self, messages: Sequence[Message], start: int, stop: int, index: int | None, call: Call | None
    ) -> str:
        if index is not None:
            return _name(call)
        return self.only_handler(messages[start].envelope.type) if stop - start == 1 else ""


def _name(call: Call | None) -> str:
    return "" if call is None else call.handler.name


async def _one_entity(transaction: StepTransaction, call: Call, event: Any, step: Step) -> None:
    repository = call.repository
    assert repository is not None
    entity_id = call.id_of(event)
    await transaction.flush()  # as before a run of entity steps
    entity = (await repository.load(transaction, [entity_id])).get(entity_id)
    if entity is None and not call.optional:
        raise _missing(call.handler, entity_id)
    result = call.call(entity, event, step)
    if call.asynchronous:
        result = await result
    if result is not None:
        _check_returned(call.handler, result)
    if entity is not None:
        await repository.save(transaction, {entity_id: entity if result is None else result}, {})
    elif result is not None:
        await repository.save(transaction, {}, {entity_id: result})


def _from_inside(error: asyncio.CancelledError) -> HandlerCancelled:
    """The error of a handler that ended with CancelledError; raises `error` when it is this task that is cancelled."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    inside = HandlerCancelled(f"the handler ended with CancelledError({error}), but nobody has cancelled the step")
    inside.__cause__ = error  # it leads to the place
    return inside


def _as_failure(error: Exception | SystemExit) -> Exception:
    """A handler that ends its process would end it again with each delivery: it is a failure as any other."""
    if isinstance(error, SystemExit):
        failure = RuntimeError(f"the handler raised SystemExit({error.code!r})")
        failure.__cause__ = error  # it leads to the place
        return failure
    return error


def _in_thread(call: Callable[[Any, Any, Step], Any], event: Any, step: Step) -> None:
    """Call a plain handler. A future takes no StopIteration (it would never be done); nor is it an answer here."""
    try:
        call(None, event, step)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration: next() on something that had ended?") from error


def _missing(handler: Handler, entity_id: Any) -> EntityMissing:
    assert handler.entity is not None
    name = handler.entity.__name__
    return EntityMissing(
        f"{name} {entity_id} does not exist, and handler {handler.name} of {handler.event.type} needs it; "
        f"it is tried again, then set aside. If it may be missing, annotate the parameter {name} | None",
        entity=name,
        entity_id=entity_id,
    )


def _check_returned(handler: Handler, result: Any) -> None:
    assert handler.entity is not None
    if not isinstance(result, handler.entity):
        raise UsageError(
            f"handler {handler.name} of {handler.event.type} returned {type(result).__name__}; an entity step returns "
            f"nothing or a {handler.entity.__name__}"
        )


def _route(handlers: Sequence[Handler]) -> Route:
    calls = tuple(
        Call(
            each,
            each.caller(),
            each.asynchronous,
            each.repository,
            attrgetter(each.id_field) if each.id_field else _no_id,
            each.optional,
        )
        for each in handlers
    )
    event = handlers[0].event
    return Route(event, event.read, calls, all(call.repository is not None for call in calls))


def _no_id(event: Any) -> Any:
    raise AssertionError("only entity steps have an id field")
