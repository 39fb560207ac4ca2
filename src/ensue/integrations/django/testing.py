"""For tests of a project, inside Django's TestCase, which rolls everything back: no broker, no worker, no other thread.

class OrderTest(TestCase):
    def test_an_order_is_opened(self) -> None:
        with captured_events() as captured:
            deliver(CreditReserved(order_id=1))
        self.assertEqual(captured.events, [OrderOpened(order_id=1)])
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction

from ensue.codec import decode_envelope
from ensue.command import Command
from ensue.engine.answering import answer_in
from ensue.engine.clock import rfc3339
from ensue.errors import EntityMissing, UsageError
from ensue.event import EventType, event_type
from ensue.failure import Failure
from ensue.handler import ENTITY, EVENT, MESSAGE, STEP, Handler
from ensue.handling import by_place
from ensue.integrations.django import project
from ensue.integrations.django.lending import check_not_broken, no_statements
from ensue.integrations.django.publishing import published_types
from ensue.integrations.django.repository import DjangoRepository
from ensue.integrations.django.service import DjangoService, as_declared, of_thread
from ensue.message import SAGA, Envelope, Message
from ensue.reply import reply_with
from ensue.step import Step

__all__ = ["Captured", "captured_events", "deliver"]


class Captured:
    """What was published and sent in the block, in order, as it is read elsewhere; while it lasts, until now.

    events: what goes out with its transaction, commands too. later: what was published with `after` or `at`. The start
    of a saga is neither.
    """

    def __init__(self, service: DjangoService) -> None:
        self._service = service
        connection: Any = connections[service.using]
        self._key = "position" if connection.vendor == "sqlite" else "id"
        self._last = self._read(f"SELECT coalesce(max({self._key}), 0) FROM ensue_outbox")[0][0]
        self._timers = {name for (name,) in self._read("SELECT id FROM ensue_timer")}
        self._frozen: tuple[list[Any], list[Any]] | None = None

    @property
    def events(self) -> list[Any]:
        return (self._frozen or self._look())[0]

    @property
    def later(self) -> list[Any]:
        return (self._frozen or self._look())[1]

    def freeze(self) -> None:
        self._frozen = self._look()

    def _look(self) -> tuple[list[Any], list[Any]]:
        sent = self._read(
            f"SELECT envelope, data FROM ensue_outbox WHERE {self._key} > %s ORDER BY {self._key}", self._last
        )
        timers = self._read("SELECT id, envelope, data FROM ensue_timer ORDER BY due_at, ordinal, id")
        waiting = [(envelope, data) for name, envelope, data in timers if name not in self._timers]
        return _known(sent), _known(waiting)

    def _read(self, statement: str, *values: object) -> list[Any]:
        with connections[self._service.using].cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall())


def _known(rows: Sequence[tuple[Any, Any]]) -> list[Any]:
    """All but what Ensue tells itself."""
    found: list[Any] = []
    for envelope, data in rows:
        cls = published_types.get(decode_envelope(bytes(envelope)).type)
        if cls is not None:
            found.append(event_type(cls).read(bytes(data)))
    return found


@contextmanager
def captured_events(service: DjangoService | None = None) -> Iterator[Captured]:
    """Collect what is published in this block and not rolled back in it: `captured.events`.

    It reads Ensue's outbox by Django's connection, so a savepoint that is rolled back takes its events away here too.
    service: the project's, unless said.
    """
    captured = Captured(service or project.service())
    yield captured
    captured.freeze()


def deliver(event: object, service: DjangoService | None = None) -> Any:
    """Have this project's handlers of an event, or its handler of a command, run now, as a worker has them run: all of
    them in one transaction, which is a savepoint in a TestCase. What a handler raises comes out, and nothing of them is
    kept then.

    The event is encoded and decoded on the way. Returns a command's answer; a Failure that its handler returned is
    raised, and what the handler did is kept. service: the project's, unless said.
    Raises UsageError when no handler takes it, and for a command that starts a saga.
    """
    definition = service or project.service()
    spec: EventType[Any] = event_type(type(event))
    handlers = definition.handlers.get(spec.type, ())
    if not handlers:
        raise UsageError(
            f"deliver({type(event).__qualname__}): service {definition.name} has no handler of it. Is it declared in "
            "a module events.py or handlers.py of an app in INSTALLED_APPS, with @on or @handles above it?",
            found=sorted(definition.handlers),
        )
    if handlers[0].starts is not None:
        raise UsageError(
            f"deliver({type(event).__qualname__}): it starts the saga {handlers[0].name}, of which nothing runs in a "
            "TestCase. Call its local steps in the test: they are plain functions"
        )
    data = spec.write(event)
    answer: Any = None
    with transaction.atomic(using=definition.using):
        step = _DeliveredStep(definition, _message(spec, event, data))
        before, of_thread.step = of_thread.step, step
        try:
            for handler in handlers:
                answer = _call(handler, spec.read(data), step, definition)
        finally:
            of_thread.step = before
        check_not_broken(connections[definition.using])  # else it is rolled back here, and nobody is told
    if isinstance(answer, Failure):
        raise answer
    return answer


def _message(spec: EventType[Any], event: object, data: bytes) -> Message:
    key = spec.key_of(event)
    envelope = Envelope(id="of-a-test", type=spec.type, time=rfc3339(time.time()), correlation_id="of-a-test")
    return Message(spec.topic, 0, 1, key, "test/0", 1, 0, envelope, data)


class _DeliveredStep(Step):
    """Publishes at once, in Django's transaction."""

    __slots__ = ("_service",)

    def __init__(self, service: DjangoService, message: Message) -> None:
        transaction_: Any = None
        super().__init__(transaction_, service.outlet.outgoing(), message, message.envelope.correlation_id)
        self._service = service

    def publish(
        self,
        event: object,
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        self._service.outlet.publish([event], extensions, after, at)
        return ""

    def send(
        self,
        command: Command[Any],
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        self._service.outlet.send(command, extensions, after, at)
        return ""

    def wake(self, key: str, data: bytes, kind: str = SAGA) -> None:
        self._service.outlet.say([lambda step: step.wake(key, data, kind)], "a saga is woken")


def _call(handler: Handler, event: Any, step: Step, service: DjangoService) -> Any:
    """As the engine does, in this thread and on Django's own connection. Returns the answer to a command."""
    declared = as_declared(handler)
    function, order = by_place(declared.function, declared.keywords), declared.order
    values: dict[int, Any] = {EVENT: event, STEP: step, MESSAGE: step.message}
    repository: Any = handler.repository
    entity_id: Any = None
    if repository is not None:
        if not isinstance(repository, DjangoRepository):
            raise UsageError(f"deliver(...): {handler.where} has an entity that is no Django model")
        entity_id = handler.id_of()(event)
        values[ENTITY] = entity = repository.load_now([entity_id]).get(entity_id)
        if entity is None and not handler.optional:
            name = repository.cls.__name__
            raise EntityMissing(
                f"{name} {entity_id} does not exist, and {handler.where} needs it", entity=name, entity_id=entity_id
            )
    missing = [place for place in order if place not in values]
    if missing:
        raise UsageError(f"deliver(...): {handler.where} takes an SQLAlchemy session, which is not Django's connection")
    with contextlib.nullcontext() if repository is None else no_statements(service.using):
        result = function(*[values[place] for place in order])
    answer: Any = None
    if handler.command is not None:
        result, answer = answer_in(handler, result)
        reply_with(handler.command, "of-a-test", answer)  # refuses what could not travel
    if repository is not None:
        entity = values[ENTITY]
        if entity is not None:
            repository.save_now({entity_id: entity if result is None else result}, {})
        elif result is not None:
            repository.save_now({}, {entity_id: result})
    return answer
