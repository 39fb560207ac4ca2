"""Given these events, when this is decided, then these events follow: an aggregate in a test, with no database.

The events are folded as a load folds them, and what is recorded is checked as a step checks it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from ensue.aggregate.aggregate import Aggregate, evolve
from ensue.aggregate.kind import kind_of
from ensue.codec import decode_envelope
from ensue.engine.clock import UniqueIds
from ensue.errors import UsageError
from ensue.event import declared_as, is_event_class
from ensue.handler import Handler, id_field, read_parameters
from ensue.handling import name_of
from ensue.message import REPLY
from ensue.outgoing import Outgoing
from ensue.repository import AggregateRepository
from ensue.roundtrip import difference
from ensue.step import Step

A = TypeVar("A", bound=Aggregate)
_TIME = "2026-01-01T00:00:00Z"


class Given(Generic[A]):
    """See `ensue.testing.given`. May be used again: each `when` begins anew."""

    def __init__(self, begins: type[A] | A, events: tuple[object, ...]) -> None:
        self._cls: type[A] = begins if isinstance(begins, type) else type(begins)
        self._kind = kind_of(self._cls)
        if isinstance(begins, type):
            ids = {each for event in events if (each := getattr(event, self._kind.id_name, None)) is not None}
            if len(ids) > 1:
                raise UsageError(f"given({self._cls.__name__}, ...): events of several, {ids}: one has its own only")
            self._id = next(iter(ids), None)
        else:
            self._id = getattr(begins, self._kind.id_name)
        self._events = events

    def when(self, decide: Callable[..., Any], *arguments: Any) -> Decided[A]:
        """Have it decide: `when(Customer.reserve, order_id, total)`, a method with its arguments, which returns an
        event, several, or None; or a handler with its event or command, `when(reserve_credit, OrderCreated(...))`."""
        outgoing = Outgoing("given", UniqueIds("published"), 1, _TIME, {}, None, aggregates=(self._cls,))
        step = Step(_NoDatabase(), outgoing, None, "given")
        handler = self._handler(decide, arguments, sys._getframe(1).f_locals)
        if handler is None:
            result, error = self._decided(decide, arguments, step)
        else:
            result, error = self._handled(handler, arguments[0], step)
        published = [] if error else _published(outgoing)
        after = self._folded(published)
        live = outgoing.streams.adopted(self._kind, self._id)
        if error is None and live is not None and after is not None:
            self._check_unchanged(after, live, name_of(decide))
        return Decided(published, after, result, error)

    def _decided(
        self, decide: Callable[..., Any], arguments: tuple[Any, ...], step: Step
    ) -> tuple[Any, Exception | None]:
        aggregate = self._folded()
        if aggregate is None:
            aggregate = self._kind.new(self._named(None))
        else:
            step.outgoing.streams.adopt(self._kind, aggregate)
        before = copy.deepcopy(aggregate)
        try:
            result = decide(aggregate, *arguments)
        except UsageError:
            raise
        except Exception as error:  # that is what the test wants to know
            return None, error
        self._check_unchanged(before, aggregate, name_of(decide))
        step.record(aggregate, *_events(result))
        return result, None

    def _handled(self, handler: Handler, event: Any, step: Step) -> tuple[Any, Exception | None]:
        self._id = self._named(handler.id_of()(event))
        state = self._folded()
        if state is not None:
            step.outgoing.streams.adopt(self._kind, state)
        elif not handler.optional:
            raise UsageError(
                f"{handler.where} needs a {self._cls.__name__}, and no events are given: give some, or annotate it "
                f"{self._cls.__name__} | None"
            )
        try:
            return _finished(handler.caller()(state, event, step), handler.where), None
        except UsageError:
            raise
        except Exception as error:  # as above
            return None, error

    def _handler(self, function: Any, arguments: tuple[Any, ...], names: Mapping[str, Any]) -> Handler | None:
        """What it is where it is no method of the aggregate: its parameters say what they take."""
        if getattr(self._cls, name_of(function), None) is function or len(arguments) != 1:
            return None
        if not is_event_class(type(arguments[0])):
            return None
        where = f"handler {name_of(function)}"
        try:
            asked = read_parameters(function, where, None, names)
        except UsageError:
            return None  # a function of the aggregate and an event, say
        spec = next((each for each in asked.events if each.cls is type(arguments[0])), None)
        if spec is None or asked.entity is not self._cls:
            return None
        repository = AggregateRepository(self._cls)
        return Handler(
            name_of(function), spec, function, asked.order, asked.asynchronous, self._cls, repository,
            *id_field(spec.cls, self._cls, repository, None, where), asked.optional, keywords=asked.keywords,
        )  # fmt: skip

    def _named(self, found: Any) -> Any:
        if found is not None and self._id is not None and found != self._id:
            raise UsageError(
                f"{self._cls.__name__} {self._id} is given, and it is decided of {found}: name one of them"
            )
        entity_id = self._id if self._id is not None else found
        if entity_id is None:
            name = self._cls.__name__
            raise UsageError(f"given({name}) does not say which: write given({name}({self._kind.id_name}=...), ...)")
        return entity_id

    def _folded(self, more: Iterable[object] = ()) -> A | None:
        """None: it has no events. Those of others, which `more` may hold, are passed over."""
        own = [*self._events, *(each for each in more if self._is_own(each))]
        if not own:
            return None
        aggregate = self._kind.new(self._named(None))
        for event in own:
            spec = next((spec for spec, _ in self._kind.readers.values() if spec.cls is type(event)), None)
            evolve(aggregate, event if spec is None else spec.read(spec.write(event)))
        return aggregate

    def _is_own(self, event: object) -> bool:
        theirs = getattr(event, self._kind.id_name, self._id)
        return type(event) in self._kind.evolvers and bool(theirs == self._id)

    def _check_unchanged(self, expected: A, found: A, name: str) -> None:
        if (other := difference(found, expected)) is not None:
            raise AssertionError(
                f"{name} has changed {other.field} of {self._cls.__name__} by itself, which its events do not say: "
                f"they make {other.read!r}, it has {other.sent!r}. Change it in an @evolves"
            )


class Decided(Generic[A]):
    """What came of it.

    events: what was recorded and published, in order. state: the aggregate after them, None: it has no events. result:
    what the method or the handler returned. error: what it raised; then there are no events.
    """

    def __init__(self, events: list[Any], state: A | None, result: Any, error: Exception | None) -> None:
        self.events = events
        self.state = state
        self.result = result
        self.error = error

    def then(self, *events: object) -> Decided[A]:
        """Raise AssertionError unless these events followed, and no others; `then()`: none."""
        if self.error is not None:
            raise AssertionError(f"expected {list(events)!r}, and it raised {self.error!r}") from self.error
        if self.events != list(events):
            raise AssertionError(f"expected {list(events)!r}, found {self.events!r}")
        return self

    def raises(self, kind: type[Exception]) -> Decided[A]:
        """Raise AssertionError unless it raised an error of this class; nothing follows then."""
        if not isinstance(self.error, kind):
            raise AssertionError(
                f"expected {kind.__name__}, and it "
                + (f"published {self.events!r}" if self.error is None else f"raised {self.error!r}")
            ) from self.error
        return self


class _NoDatabase:
    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError(
            "a handler asks for the database, and given(<an aggregate>, ...) has none: write given(<its service>, ...)"
        )


def _events(result: Any) -> list[Any]:
    if result is None:
        return []
    return list(result) if isinstance(result, list | tuple) else [result]


def _published(outgoing: Outgoing) -> list[Any]:
    found = [(decode_envelope(record.envelope).type, record.data) for record in outgoing.close()]
    return [declared_as(kind).read(data) for kind, data in found if kind != REPLY]


def _finished(result: Any, where: str) -> Any:
    """What an async handler returns: it has nothing to wait for here."""
    if not hasattr(result, "send"):
        return result
    try:
        result.send(None)
    except StopIteration as done:
        return done.value
    result.close()
    raise UsageError(f"{where} waits for something, and nothing is there to come: write given(<its service>, ...)")
