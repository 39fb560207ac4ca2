"""Entity steps: one load of all entities of a batch, the handlers on plain objects in memory, one save.

In a store without transactions each entity is a document that knows what took effect on it. Its documents are written
one after the other, and a process that dies in between leaves some written and the checkpoint where it was, so the
messages come again: each is left out for the documents on which it took effect, and applied to the others. That is all
that differs there, and it is said by two hooks, `Documents.due` and `Documents.done`. See docs/adr/0021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Any, Protocol, cast

from ensue import logs
from ensue.engine.budget import Budget
from ensue.engine.limits import HandlerLimit
from ensue.engine.links import Links
from ensue.errors import EntityMissing, UsageError
from ensue.handler import Handler
from ensue.mapped import SqlAlchemyRepository
from ensue.message import Message
from ensue.outgoing import Outgoing
from ensue.ports import DocumentTransaction, StepTransaction
from ensue.repository import AggregateRepository, Repository, Settling, TableRepository
from ensue.step import SessionAsked, Step
from ensue.tracing import Processing

Answer = Callable[[Handler, Any, Step, HandlerLimit, Callable[..., Any]], Awaitable[Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A handler made ready: no lookup is left for the moment when it is called.

    place: the repository's number in its service; repositories that are equal have the same. awaits: it can wait for
    the session. stepped: it is given something of the step. answer: what is done with what it returns, where somebody
    waits for it; returns the entity.
    """

    handler: Handler
    call: Callable[[Any, Any, Step], Any]
    asynchronous: bool
    repository: Repository[Any] | None
    place: int
    id_of: Callable[[Any], Any]
    optional: bool
    awaits: bool
    stepped: bool
    answer: Answer | None


def begins(trace: Processing, message: Message, calls: Sequence[Call]) -> None:
    """Tell that the handlers of a message are called next."""
    trace.message(message, [each.handler.name for each in calls], local=calls[0].handler.local)


class Entities:
    """The entities of one repository in one run. found: by id; before they are loaded, the ids that are wanted.

    unsettled: ids of those that must be saved and loaded anew before another handler has them.
    """

    __slots__ = ("changed", "created", "found", "mapped", "repository", "settling", "streamed", "unsettled")

    def __init__(self, repository: Repository[Any]) -> None:
        self.repository = repository
        self.mapped = repository if isinstance(repository, SqlAlchemyRepository) else None
        self.settling = repository if isinstance(repository, Settling) else None
        self.streamed = repository if isinstance(repository, AggregateRepository) else None
        self.unsettled: set[Any] = set()
        self.found: dict[Any, Any] = {}
        self.changed: dict[Any, Any] = {}
        self.created: dict[Any, Any] = {}

    async def load(self, transaction: StepTransaction, outgoing: Outgoing) -> None:
        if self.streamed is None:
            self.found = await self.repository.load(transaction, list(self.found))
        else:  # what steps record of a new one is found there by the next
            self.found = await outgoing.streams.load(transaction, self.streamed.kind, list(self.found))

    def left(self, entity_id: Any, entity: Any, result: Any) -> None:
        """A handler was given `entity` (None: there is none) and returned `result` (None: nothing)."""
        if self.streamed is not None:
            if result is not None and result is not self.found.get(entity_id):
                raise UsageError(
                    f"an entity step returned a {type(result).__qualname__} that has recorded nothing: an aggregate is "
                    "saved by its events, `step.record(...)`; it need not be returned",
                    entity_id=entity_id,
                )
            return
        if result is None or result is entity:
            if entity is not None and entity_id not in self.created:
                self.changed[entity_id] = entity
            return
        if entity is None or entity_id in self.created:
            self.created[entity_id] = result
        else:
            self.changed[entity_id] = result
        self.found[entity_id] = result

    def settled(
        self, mapped: SqlAlchemyRepository[Any], transaction: StepTransaction, entity_id: Any, entity: Any, result: Any
    ) -> Any:
        """What is to be asked of a mapped entity first. Returns `entity`, or None when its session has deleted it."""
        if entity is not None:
            mapped.check_id(entity, entity_id)
            if mapped.deleted(transaction, entity):
                # Whatever comes next in this batch must find what it would find in a later one.
                self.changed.pop(entity_id, None)
                self.found[entity_id] = entity = None
        left = entity if result is None else result
        if left is not None:
            mapped.notice(left)
        return entity


#: The handlers of one message, each with the entity that it wants.
Todo = Sequence[tuple[Call, Entities, Any]]


class Routed(Protocol):
    """What a message goes to: what reads its event, and its handlers."""

    @property
    def read(self) -> Callable[[bytes], Any]: ...
    @property
    def calls(self) -> Sequence[Call]: ...


class EntityRun:
    """Runs entity steps in one transaction. When `run` raises, `index` and `call` say where it was.

    index: of the work at hand; None while entities are loaded or saved, which may fail for any of it. made: how many
    entities are to be inserted.
    """

    __slots__ = ("_documents", "_limit", "_outgoing", "_trace", "_transaction", "call", "index", "made")

    def __init__(
        self,
        transaction: StepTransaction,
        outgoing: Outgoing,
        limit: HandlerLimit,
        trace: Processing | None = None,
        *,
        documents: bool,
    ) -> None:
        self._trace = trace
        self._limit = limit
        self._transaction = transaction
        self._outgoing = outgoing
        self._documents = Documents(cast(DocumentTransaction, transaction), outgoing) if documents else None
        self.index: int | None = None
        self.call: Call | None = None
        self.made = 0

    async def run(
        self, messages: Sequence[Message], routes: Sequence[Routed], budget: Budget | None = None, *,
        guarded: bool = False,
    ) -> int:  # fmt: skip
        """Return how many of the messages were handled, the first at least: all, or what came before the budget was
        spent, or before a message whose entity has to be loaded anew (see `Links`). routes: of each message. guarded:
        raises SessionAsked."""
        count = len(messages)
        transaction, outgoing, documents = self._transaction, self._outgoing, self._documents
        # Side by side, and no container of its own for each message: those that live until the batch is saved would be
        # most of what Python's cyclic garbage collector looks through, again and again.
        events: list[Any] = []
        ids: list[Any] = []  # for each call in turn
        loaded: dict[int, Entities] = {}
        for self.index, (message, route) in enumerate(zip(messages, routes, strict=True)):
            self.call = None
            event = route.read(message.data)
            events.append(event)
            for call in route.calls:
                self.call = call
                entities = loaded.get(call.place)
                if entities is None:
                    entities = loaded[call.place] = Entities(call.repository)  # type: ignore[arg-type]  # entity steps have one
                entity_id = call.id_of(event)
                entities.found[entity_id] = None
                ids.append(entity_id)
        self.index = None
        for entities in loaded.values():
            await entities.load(transaction, outgoing)
        links = Links(loaded.values())
        watched = links.watched
        settling = any(each.settling is not None for each in loaded.values())
        budget = budget or Budget()
        now, until = budget.now, budget.now() + budget.left_s
        trace, limit, is_at_hand = self._trace, self._limit, logs.at_hand.set
        at = 0
        for self.index, (message, route, event) in enumerate(zip(messages, routes, events, strict=True)):
            if len(route.calls) == 1:  # the usual case
                [call] = route.calls
                todo: Todo = ((call, loaded[call.place], ids[at]),)
            else:
                todo = [(call, loaded[call.place], ids[number]) for number, call in enumerate(route.calls, at)]
            at += len(todo)
            if self.index and (
                now() >= until
                or (settling and any(each in entities.unsettled or links.stale(entities) for _, entities, each in todo))
            ):
                count = self.index
                break
            step: Any = None  # made for those that ask for something of it
            is_at_hand(message)
            if trace is not None:
                begins(trace, message, [call for call, *_ in todo])
            for call, entities, entity_id in todo if documents is None else documents.due(message, todo):
                self.call = call
                if step is None and call.stepped:
                    step = _step(transaction, outgoing, message)
                entity = entities.found.get(entity_id)
                if entity is None and not call.optional:
                    raise missing(call.handler, entity_id)
                outgoing.guarded = guarded and call.awaits
                inside = copy_context().run  # what a handler sets there (a tenant, say) is of its message alone
                result = inside(call.call, entity, event, step)
                if call.answer is not None:
                    result = await call.answer(call.handler, result, step, limit, inside)
                if result is not None and result is not entity:
                    result = await entity_of(call.handler, result, entity_id, limit, inside)
                if outgoing.asked:
                    raise SessionAsked  # again: the handler has caught it
                was = entity
                if entities.mapped is not None:
                    entity = entities.settled(entities.mapped, transaction, entity_id, entity, result)
                if entities.settling is not None:
                    left = entity if result is None else result
                    if left is not None and entities.settling.unsettled(left):
                        entities.unsettled.add(entity_id)
                entities.left(entity_id, entity, result)
                if watched:
                    links.left(entities, was, entities.found.get(entity_id))
                if documents is not None:
                    documents.done(message, call, entities, entity_id)
        budget.left_s = until - now()
        self.index = None
        self.made = sum(len(entities.created) for entities in loaded.values())
        for entities in loaded.values():
            if entities.streamed is None:
                # In one order everywhere: two that insert the same ids in two orders would wait for each other.
                created = {each: entities.created[each] for each in sorted(entities.created, key=str)}
                await entities.repository.save(transaction, entities.changed, created)
        await outgoing.streams.save(transaction)
        return count


class Documents:
    """What is special where each entity is a document of its own. Every repository is a TableRepository: see `fits`."""

    def __init__(self, transaction: DocumentTransaction, outgoing: Outgoing) -> None:
        self._transaction = transaction
        self._outgoing = outgoing

    def due(self, message: Message, todo: Todo) -> Todo:
        """Those whose document the message has not taken effect on; asked before the first handler, for all of them."""
        judged = {(call.place, each): self._took_effect(message, entities, each) for call, entities, each in todo}
        return [(call, entities, each) for call, entities, each in todo if not judged[call.place, each]]

    def _took_effect(self, message: Message, entities: Entities, entity_id: Any) -> bool:
        return self._transaction.took_effect(*_document(entities, entity_id), message)

    def done(self, message: Message, call: Call, entities: Entities, entity_id: Any) -> None:
        """A handler has run: its entity's document remembers the message, and carries what was published for it."""
        records = self._outgoing.records[:]
        self._outgoing.records.clear()
        if entities.found.get(entity_id) is not None:
            self._transaction.attach(*_document(entities, entity_id), message, records)
        elif records:
            raise UsageError(
                f"handler {call.handler.name} of {call.handler.event.type} publishes for {entity_id}, which does not "
                "exist: in this database an event is part of its entity's document, so return a new entity, or "
                "publish nothing"
            )


def _step(transaction: StepTransaction, outgoing: Outgoing, message: Message) -> Step:
    envelope = message.envelope
    return Step(transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent)


def _document(entities: Entities, entity_id: Any) -> tuple[Any, Any]:
    repository = cast(TableRepository[Any], entities.repository)
    return repository.table, repository.value(repository.table.id_column, entity_id)


def missing(handler: Handler, entity_id: Any) -> EntityMissing:
    assert handler.entity is not None
    name = handler.entity.__name__
    return EntityMissing(
        f"{name} {entity_id} does not exist, and handler {handler.name} of {handler.event.type} needs it; "
        f"it is tried again, then set aside. If it may be missing, annotate the parameter {name} | None",
        entity=name,
        entity_id=entity_id,
    )


async def entity_of(handler: Handler, result: Any, entity_id: Any, limit: HandlerLimit, run: Callable[..., Any]) -> Any:
    """What an entity step returned: None or the entity, once what is awaitable is awaited."""
    assert handler.entity is not None
    if not isinstance(result, handler.entity):
        result = await limit.finished(handler, result, run)
        if result is not None and not isinstance(result, handler.entity):
            raise UsageError(
                f"{handler.where} returned {type(result).__name__}; an entity step returns nothing or a "
                f"{handler.entity.__name__}"
            )
    # Under another id it would be found by the rest of its batch and by nobody later, or overwrite a row not loaded.
    returned = entity_id if result is None else getattr(result, getattr(handler.repository, "id_name", ""), entity_id)
    if returned != entity_id:
        raise UsageError(
            f"{handler.where} returned a {handler.entity.__name__} whose id is {returned!r}; the event names "
            f"{entity_id!r} in {handler.id_field!r}: return the one that it names, or say which field does, on(id=...)",
            entity_id=entity_id,
        )
    return result
