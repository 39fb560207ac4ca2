"""Given these entities, when this event comes, then these events follow: one handler in a test of its own.

The dispatch is the real one, in a real transaction over a throw-away SQLite database; broker, relay and retries stay
out of it. `ensue.testing.run` is for services together.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, overload

from sqlalchemy import MetaData

from ensue.aggregate.aggregate import Aggregate, is_aggregate
from ensue.aggregate.kind import kind_of
from ensue.app import Service
from ensue.codec import decode_envelope
from ensue.command import CommandType
from ensue.engine.blame import blamed
from ensue.engine.clock import UniqueIds, rfc3339
from ensue.engine.dispatch import Dispatcher
from ensue.engine.failed import StepFailed
from ensue.engine.timers import put
from ensue.errors import RetryableError, UsageError
from ensue.event import EventType, declared_as, event_type, is_event_class
from ensue.failure import Failure
from ensue.handling import finished, name_of
from ensue.message import REPLY, REPLY_TO, SAGA, TOLD, Envelope, Message, OutboxRecord
from ensue.outgoing import Outgoing
from ensue.ports import StepTransaction
from ensue.reply import outcome, read_reply, replies_of
from ensue.repository import Repository, TableRepository
from ensue.step import SessionAsked, Step
from ensue.stores.sqlite import SqliteStore
from ensue.testing.decision import Given

T = TypeVar("T")
A = TypeVar("A", bound=Aggregate)

#: The sender of the events under test.
SOURCE = "given/test"
#: What commands under test bear, so that they are answered.
_ASKED = {REPLY_TO: replies_of("given")}
#: What is no event of the user's: answers, and what wakes sagas.
_OWN = (REPLY, SAGA, TOLD)


@overload
def given(service: Service, *entities: object, tables: MetaData | None = None) -> Scenario: ...


@overload
def given(service: type[A] | A, *entities: object) -> Given[A]: ...


def given(service: Any, *entities: object, tables: MetaData | None = None) -> Any:
    """Begin a scenario: `await given(orders, Order(...)).when(CreditReserved(...))`; of an event-sourced
    aggregate alone, with no database: `given(Customer, CustomerCreated(...)).when(Customer.reserve, order_id, total)`.

    entities: what the database holds before: objects of mapped classes and of dataclasses that the service stores
    through a TableRepository, events of its aggregates, or a function `(step)`, plain or async, that puts there what
    it likes. Of an aggregate: its events. One that has none yet: `given(Customer(customer_id=...))`.
    tables: besides the service's `tables=` and those of its TableRepositories.
    """
    if is_aggregate(service) or isinstance(service, Aggregate):
        return Given(service, entities)
    return Scenario(service, entities, tables)


class Result:
    """What a step did.

    published: the events, and commands, in order, read back from what would be sent. envelopes: their headers.
    answers: of the handlers of commands that start no saga, in order: replies, None where a command has none, and
    failures that they returned; one that is raised is the error.
    error: what the handler (or the commit) raised; then nothing was published and nothing changed. Else None.
    """

    def __init__(
        self,
        published: list[Any],
        envelopes: list[Envelope],
        answers: list[Any],
        error: BaseException | None,
        read: Callable[[type, Any], Coroutine[Any, Any, Any]],
    ) -> None:
        self.published = published
        self.envelopes = envelopes
        self.answers = answers
        self.error = error
        self._read = read

    def entity(self, cls: type[T], id: Any) -> T:
        """Return the entity as the step left it in the database. Raises AssertionError when it is not there."""
        found = self.find(cls, id)
        if found is None:
            raise AssertionError(f"there is no {cls.__name__} {id} after the step: {self!r}")
        return found

    def find(self, cls: type[T], id: Any) -> T | None:
        """As `entity`, or None. A mapped object comes detached: what it loads lazily is not there."""
        # A thread has no event loop yet, so that an assertion needs no await.
        with ThreadPoolExecutor(1) as thread:
            found: T | None = thread.submit(lambda: asyncio.run(self._read(cls, id))).result()
        return found

    def __repr__(self) -> str:
        return f"Result(published={self.published!r}, error={self.error!r})"


class Scenario:
    """See `given`. May be used again: each `when` begins with a new database."""

    def __init__(self, service: Service, entities: Sequence[object], tables: MetaData | None) -> None:
        self._service = service
        self._entities = entities
        repositories = [each for each in service.repositories.values() if isinstance(each, TableRepository)]
        declared = [tables, service.tables, *(each.source.metadata for each in repositories)]
        self._tables = {id(each): each for each in declared if each is not None}.values()
        self._handlers = [each for handlers in service.handlers.values() for each in handlers]

    async def when(self, *events: object) -> Result:
        """Let the service handle the events, in one step, as it would from the log; return what came of it."""
        specs = [self._spec(event) for event in events]
        if not events:
            raise UsageError("when() wants an event")
        directory = tempfile.mkdtemp(prefix="ensue-")
        try:
            result = await self._run(f"sqlite:///{directory}/{self._service.name}.db?synchronous=OFF", events, specs)
        except BaseException:
            shutil.rmtree(directory)
            raise
        weakref.finalize(result, shutil.rmtree, directory, ignore_errors=True)
        return result

    async def _run(self, url: str, events: Sequence[Any], specs: Sequence[EventType[Any]]) -> Result:
        store = SqliteStore(url, self._service.name)
        dispatcher = Dispatcher(self._service, UniqueIds("published"), 1)
        records: list[OutboxRecord] = []
        error: BaseException | None = None
        await store.open()
        try:
            for tables in self._tables:
                await store.create_tables(tables)
            async with store.transaction() as transaction:
                await self._arrange(transaction, dispatcher)
            try:
                outgoing = await _step(store, dispatcher, _messages(events, specs))
                records = outgoing.records
            except StepFailed as failure:
                kind = "" if failure.index is None else specs[failure.index].type
                error = dispatcher.declined(kind, failure) or failure.error
            except RetryableError:
                raise  # of the database, not of the handler
            except BaseException as raised:  # e.g. a constraint that the database checks at commit
                error = blamed(raised)
        finally:
            await store.close()

        sent = [(decode_envelope(record.envelope), record.data) for record in records]
        envelopes = [envelope for envelope, _ in sent if envelope.type not in _OWN]
        published = [declared_as(envelope.type).read(data) for envelope, data in sent if envelope.type not in _OWN]
        commands = [each for each in specs if isinstance(each, CommandType) and not self._starts(each)]
        replies = [data for envelope, data in sent if envelope.type == REPLY]
        answers = [_answer(spec, data) for spec, data in zip(commands, replies, strict=error is None)]
        return Result(published, envelopes, answers, error, lambda cls, id: self._read(url, cls, id))

    def _starts(self, spec: CommandType[Any]) -> bool:
        """Whether a saga answers it, when that has ended."""
        return self._service.handlers[spec.type][0].starts is not None

    def _spec(self, event: Any) -> EventType[Any]:
        spec: EventType[Any] = event_type(type(event))
        if spec.type not in self._service.handlers:
            known = ", ".join(sorted(self._service.handlers.keys() - {REPLY})) or "nothing"
            raise UsageError(f"service {self._service.name} has no handler of {spec.type}; it handles {known}")
        return spec

    async def _arrange(self, transaction: StepTransaction, dispatcher: Dispatcher) -> None:
        step = dispatcher.outside_step(transaction, "", "", "")
        for entity in self._entities:
            cls = type(entity)
            if inspect.isroutine(entity):
                await finished(name_of(entity), entity(step))
            elif is_event_class(cls):
                await self._append(step, entity)
            elif hasattr(cls, "__mapper__"):
                await transaction.session.merge(entity)  # a copy: the test's own object stays the test's
            else:
                repository = self._repository(cls)
                if not isinstance(repository, TableRepository):
                    raise UsageError(
                        f"given({self._service.name}, {cls.__name__}(...)): it is neither a mapped class nor stored "
                        f"through a TableRepository of {self._service.name}; give a function (step) that stores it"
                    )
                await repository.save(transaction, {}, {getattr(entity, repository.id_name): entity})
        await transaction.flush()
        await step.outgoing.streams.save(transaction)

    async def _append(self, step: Step, event: Any) -> None:
        """Record an event of the one aggregate that has an @evolves for it."""
        found = [cls for cls in self._service.aggregates if type(event) in cls.__ensue_evolvers__]
        name = type(event).__qualname__
        if len(found) != 1 or not hasattr(event, kind_of(found[0]).id_name):
            raise UsageError(
                f"given({self._service.name}, {name}(...)): it is no event of one aggregate of the service, by a field "
                "with its id; give a function (step) that records it"
            )
        kind = kind_of(found[0])
        entity_id = getattr(event, kind.id_name)
        step.record(await step.load(kind.cls, entity_id) or kind.new(entity_id), event)

    async def _read(self, url: str, cls: Any, id: Any) -> Any:
        store = SqliteStore(url, self._service.name)
        await store.open()
        try:
            if hasattr(cls, "__mapper__"):
                async with store.reading() as session:
                    found = await session.get(cls, id)
                    if found is not None:
                        session.expunge(found)  # so that it keeps its values
                    return found
            repository = self._repository(cls)
            if repository is None:
                raise UsageError(f"service {self._service.name} has no handler that takes {cls.__name__}")
            async with store.transaction() as transaction:
                return (await repository.load(transaction, [id])).get(id)
        finally:
            await store.close()

    def _repository(self, cls: type) -> Repository[Any] | None:
        for handler in self._handlers:
            if handler.entity is cls:
                return handler.repository
        return self._service.repositories.get(cls)


async def _step(store: SqliteStore, dispatcher: Dispatcher, messages: Sequence[Message]) -> Outgoing:
    while True:
        try:
            async with store.transaction() as transaction:
                outgoing = dispatcher.outgoing(transaction)
                await dispatcher.apply(transaction, messages, outgoing)
                await transaction.flush()
                await put(transaction, outgoing.records)
            return outgoing
        except SessionAsked:
            continue  # as the engine does


def _answer(spec: CommandType[Any], data: bytes) -> Any:
    try:
        return outcome(spec, read_reply(data))
    except Failure as failure:
        return failure


def _messages(events: Sequence[Any], specs: Sequence[EventType[Any]]) -> list[Message]:
    ids, now = UniqueIds("given"), rfc3339(time.time())
    return [
        Message(
            spec.topic, 0, position, spec.key_of(event), SOURCE, position, position - 1,
            Envelope(ids.next(), spec.type, now, extensions=_ASKED if isinstance(spec, CommandType) else None),
            spec.write(event),
        )
        for position, (event, spec) in enumerate(zip(events, specs, strict=True), 1)
    ]  # fmt: skip
