"""Entity steps in a store without transactions: each entity is a document that knows what took effect on it.

A step's documents are written one after the other. A process that dies in between leaves some written and the
checkpoint where it was, so the messages come again: each is left out for the documents on which it took effect, and
applied to the others. What a handler publishes is part of the document that it was called for. See docs/adr/0021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ensue.engine.dispatch import (
    NOT_THE_MESSAGE,
    Call,
    Dispatcher,
    Entities,
    StepFailed,
    blamed,
    entity_of,
    missing,
)
from ensue.errors import UsageError
from ensue.message import Message, OutboxRecord
from ensue.ports import DocumentTransaction, StepTransaction
from ensue.repository import TableRepository
from ensue.step import Outgoing, Step

Todo = list[tuple[Call, Entities, Any]]


class DocumentDispatcher(Dispatcher):
    """As a `Dispatcher`, one entity at a time in what takes effect. Every handler is an entity step (see `fits`)."""

    async def apply(self, transaction: StepTransaction, messages: Sequence[Message]) -> Outgoing:
        """Run the handlers; what they publish goes with the entities, so that the result holds no records."""
        outgoing = self.outgoing(transaction.now)
        documents = cast(DocumentTransaction, transaction)
        index: int | None = None
        call: Call | None = None
        run: dict[int, Entities] = {}
        work: list[tuple[Message, Any, Todo]] = []
        try:
            for index in range(len(messages)):
                call = None
                route = self.routes[messages[index].envelope.type]
                event = route.read(messages[index].data)
                todo: Todo = []
                for call in route.calls:
                    entities = run.setdefault(call.place, Entities(cast(Any, call.repository)))
                    entity_id = call.id_of(event)
                    entities.found[entity_id] = None
                    todo.append((call, entities, entity_id))
                work.append((messages[index], event, todo))
            index = None
            for entities in run.values():
                entities.found = await entities.repository.load(transaction, list(entities.found))
            for index, (message, event, todo) in enumerate(work):  # noqa: B007  # told below
                judged: dict[tuple[int, Any], bool] = {}  # before the first handler of this message, for all of them
                for call, entities, entity_id in todo:
                    place = (call.place, entity_id)
                    if place not in judged:
                        judged[place] = documents.took_effect(*_document(entities, entity_id), message)
                    if not judged[place]:
                        records = await self._one(transaction, call, entities, entity_id, message, event, outgoing)
                        if entities.found.get(entity_id) is not None:
                            table, row_id = _document(entities, entity_id)
                            documents.attach(table, row_id, message, records)
                        elif records:
                            raise UsageError(
                                f"handler {call.handler.name} of {call.handler.event.type} publishes for "
                                f"{entity_id}, which does not exist: in this database an event is part of its entity's "
                                "document, so return a new entity, or publish nothing"
                            )
            index = None
            for entities in run.values():
                await entities.repository.save(transaction, entities.changed, entities.created)
        except NOT_THE_MESSAGE:
            raise
        except BaseException as error:
            raise StepFailed(index, blamed(error), self._at_fault(messages, 0, len(messages), index, call)) from error
        return outgoing

    async def _one(
        self,
        transaction: StepTransaction,
        call: Call,
        entities: Entities,
        entity_id: Any,
        message: Message,
        event: Any,
        outgoing: Outgoing,
    ) -> list[OutboxRecord]:
        """Call one handler; return what it published."""
        envelope = message.envelope
        step = Step(transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent)
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
        records = outgoing.records[:]
        outgoing.records.clear()
        return records


def _document(entities: Entities, entity_id: Any) -> tuple[Any, Any]:
    repository = cast(TableRepository[Any], entities.repository)
    return repository.table, repository.value(repository.table.id_column, entity_id)
