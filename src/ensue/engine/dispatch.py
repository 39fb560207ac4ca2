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

from ensue.codec import RECORD_BYTES_MAX
from ensue.engine.clock import rfc3339
from ensue.engine.endings import ends_handler
from ensue.errors import CheckpointConflict, EntityMissing, HandlerCancelled, StoreUnavailable, UsageError
from ensue.event import EventType
from ensue.handler import Handler
from ensue.handling import finished
from ensue.message import Message
from ensue.ports import Ids, StepTransaction
from ensue.repository import Repository
from ensue.service import ServiceDefinition
from ensue.step import Outgoing, Step

#: Not the message's fault: the loop deals with these, no attempt is counted.
NOT_THE_MESSAGE = (StoreUnavailable, CheckpointConflict)


class StepFailed(Exception):
    """A handler failed with `error`; the transaction must be rolled back.

    index: of the message whose handler failed, or None when entities failed to load or save, which may be due to any.
    handler: its name; empty when no handler ran (the data does not fit the event), or when it may be any of several.
    """

    def __init__(self, index: int | None, error: BaseException, handler: str = "") -> None:
        super().__init__(index, error, handler)
        self.index = index
        self.error = error
        self.handler = handler


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A handler made ready: no lookup is left for the moment when it is called.

    place: the repository's number in its service; repositories that are equal have the same.
    """

    handler: Handler
    call: Callable[[Any, Any, Step], Any]
    asynchronous: bool
    repository: Repository[Any] | None
    place: int
    id_of: Callable[[Any], Any]
    optional: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """All that happens for one event type. entities: every handler is an entity step."""

    event: EventType[Any]
    read: Callable[[bytes], Any]
    calls: tuple[Call, ...]
    entities: bool


class Entities:
    """The entities of one repository in one run. found: by id; before they are loaded, the ids that are wanted."""

    __slots__ = ("changed", "created", "found", "repository")

    def __init__(self, repository: Repository[Any]) -> None:
        self.repository = repository
        self.found: dict[Any, Any] = {}
        self.changed: dict[Any, Any] = {}
        self.created: dict[Any, Any] = {}

    def returned(self, entity_id: Any, entity: Any, result: Any) -> None:
        """A handler returned another entity than the one it was given, or one where there was none."""
        if entity is None or entity_id in self.created:
            self.created[entity_id] = result
        else:
            self.changed[entity_id] = result
        self.found[entity_id] = result


class Dispatcher:
    """The handlers of one service, ready to run."""

    def __init__(
        self, definition: ServiceDefinition, ids: Ids, partitions: int, record_bytes_max: int = RECORD_BYTES_MAX
    ) -> None:
        self.definition = definition
        self._record_bytes_max = record_bytes_max
        places: dict[Repository[Any] | None, int] = {}
        self.routes = {kind: _route(handlers, places) for kind, handlers in definition.handlers.items()}
        self._ids = ids
        self._partitions = partitions
        self._types: dict[type, EventType[Any]] = {}
        self._allowed = None if definition.publishes is None else frozenset(definition.publishes)

    def only_handler(self, kind: str) -> str:
        """The name of the handler of an event type; empty when it has several, or none."""
        handlers = self.definition.handlers.get(kind, ())
        return handlers[0].name if len(handlers) == 1 else ""

    def outgoing(self, now: float) -> Outgoing:
        return Outgoing(
            self.definition.name,
            self._ids,
            self._partitions,
            rfc3339(now),
            self._types,
            self._allowed,
            self._record_bytes_max,
        )

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
                        continue
                    if call.asynchronous:
                        result = await call.call(None, event, step)
                    else:
                        result = await asyncio.to_thread(_in_thread, call.call, event, step)
                    if result is not None:
                        await finished(call.handler.where, result)
        except NOT_THE_MESSAGE:
            raise
        except BaseException as error:
            raise StepFailed(index, blamed(error), _name(call)) from error

    async def _entity_run(
        self, transaction: StepTransaction, messages: Sequence[Message], start: int, stop: int, outgoing: Outgoing
    ) -> None:
        index: int | None = None
        call: Call | None = None
        routes = self.routes
        work: list[tuple[Message, Any, list[tuple[Call, Entities, Any]]]] = []
        run: dict[int, Entities] = {}
        try:
            for index in range(start, stop):
                call = None
                message = messages[index]
                route = routes[message.envelope.type]
                event = route.read(message.data)
                todo = []
                for call in route.calls:
                    entities = run.get(call.place)
                    if entities is None:
                        entities = run[call.place] = Entities(call.repository)  # type: ignore[arg-type]  # entity steps have one
                    entity_id = call.id_of(event)
                    entities.found[entity_id] = None
                    todo.append((call, entities, entity_id))
                work.append((message, event, todo))
            index = None
            for entities in run.values():
                entities.found = await entities.repository.load(transaction, list(entities.found))
            for index, (message, event, todo) in enumerate(work, start):  # noqa: B007  # told below
                envelope = message.envelope
                step = Step(
                    transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent
                )
                for call, entities, entity_id in todo:
                    entity = entities.found.get(entity_id)
                    if entity is None and not call.optional:
                        raise missing(call.handler, entity_id)
                    result = call.call(entity, event, step)
                    if result is not None and result is not entity:
                        result = await entity_of(call.handler, result)
                    if result is not None and result is not entity:
                        entities.returned(entity_id, entity, result)
                    elif entity is not None and entity_id not in entities.created:
                        entities.changed[entity_id] = entity
            index = None
            for entities in run.values():
                await entities.repository.save(transaction, entities.changed, entities.created)
        except NOT_THE_MESSAGE:
            raise
        except BaseException as error:
            raise StepFailed(index, blamed(error), self._at_fault(messages, start, stop, index, call)) from error

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
        raise missing(call.handler, entity_id)
    result = call.call(entity, event, step)
    if result is not None:
        result = await entity_of(call.handler, result)
    if entity is not None:
        await repository.save(transaction, {entity_id: entity if result is None else result}, {})
    elif result is not None:
        await repository.save(transaction, {}, {entity_id: result})


def blamed(error: BaseException) -> BaseException:
    """The failure of a handler that ended with `error`; raises `error` when it is no failure of the handler's."""
    if ends_handler(error):
        raise error
    if isinstance(error, asyncio.CancelledError):
        inside = HandlerCancelled(f"the handler ended with CancelledError({error}), but nobody has cancelled the step")
        inside.__cause__ = error  # it leads to the place
        return inside
    return error


def _in_thread(call: Callable[[Any, Any, Step], Any], event: Any, step: Step) -> Any:
    """Call a plain handler, and give other names to what means something else where its result is awaited.

    A future takes no StopIteration, a GeneratorExit closes whoever awaits it, and Ctrl-C is not raised in a thread.
    """
    try:
        return call(None, event, step)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration: next() on something that had ended?") from error
    except (GeneratorExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error


def missing(handler: Handler, entity_id: Any) -> EntityMissing:
    assert handler.entity is not None
    name = handler.entity.__name__
    return EntityMissing(
        f"{name} {entity_id} does not exist, and handler {handler.name} of {handler.event.type} needs it; "
        f"it is tried again, then set aside. If it may be missing, annotate the parameter {name} | None",
        entity=name,
        entity_id=entity_id,
    )


async def entity_of(handler: Handler, result: Any) -> Any:
    """What an entity step returned: None or the entity, once what is awaitable is awaited."""
    assert handler.entity is not None
    if not isinstance(result, handler.entity):
        result = await finished(handler.where, result)
        if result is not None and not isinstance(result, handler.entity):
            raise UsageError(
                f"{handler.where} returned {type(result).__name__}; an entity step returns nothing or a "
                f"{handler.entity.__name__}"
            )
    return result


def _route(handlers: Sequence[Handler], places: dict[Repository[Any] | None, int]) -> Route:
    calls = tuple(
        Call(
            each,
            each.caller(),
            each.asynchronous,
            each.repository,
            places.setdefault(each.repository, len(places)),
            attrgetter(each.id_field) if each.id_field else _no_id,
            each.optional,
        )
        for each in handlers
    )
    event = handlers[0].event
    return Route(event, event.read, calls, all(call.repository is not None for call in calls))


def _no_id(event: Any) -> Any:
    raise AssertionError("only entity steps have an id field")
