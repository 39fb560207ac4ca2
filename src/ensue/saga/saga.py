"""`Saga`: what the function of a saga is given. Between what it asks for here it is a pure function."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from random import Random
from types import EllipsisType
from typing import Any, Final, NoReturn, TypeVar, cast, overload
from uuid import UUID, uuid5

import msgspec

from ensue.carried import checked_key
from ensue.command import Command, CommandMeta, CommandType, R_co, command_type
from ensue.errors import UsageError
from ensue.event import EventType, event_type
from ensue.saga.code import SagaCode
from ensue.saga.local import LocalStep
from ensue.saga.named import Named
from ensue.saga.outside import OutsideFunction
from ensue.saga.replaying import Gathered, Operation, Replaying, Restarted, here
from ensue.saga.undo import Undo

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
E = TypeVar("E")
N = TypeVar("N", bound=Named)

#: How long an attempt at an outside effect may take, unless it is said.
_LIMIT_S: Final = 30.0
#: What each is called, and how it is declared.
_KINDS: Final[dict[type[Named], tuple[str, str]]] = {
    LocalStep: ("local step", "local"),
    OutsideFunction: ("outside function", "outside"),
}

#: Of all ids that sagas make.
_NAMESPACE = UUID("9d0b6f9a-3a56-5d0c-9d0a-6f1f6a0b7c51")


class Saga:
    """What a saga's function does: each of these is an operation to be awaited, or handed to `gather`.

    `local`, `call` and `outside` take an undo until the pivot: `undo=None` says aloud that there is none.
    """

    def __init__(self, run: Replaying, code: SagaCode) -> None:
        self._run = run
        self._code = code
        self._uuids = 0
        self._random: Random | None = None

    def local(self, function: Callable[..., Any], *args: Any, undo: Any = ..., **keywords: Any) -> Operation[Any]:
        """Run a local step of this service, one under `@service.local`; its result is what it returns.

        args, keywords: for those of its parameters that are neither its entity nor Step or a session. undo: another
        local step, or an outside function, which gets the same arguments; with others:
        `undo=saga.local(reject_order, order_id)`; or a command.
        """
        step = self._named(function, LocalStep)
        self._run.check_open()
        try:
            arguments = step.bind(args, keywords)
            key = step.entity_key(arguments)
        except UsageError as error:
            raise self._mistaken(error) from error
        return Operation(
            self._run,
            ("local", step.name, key),
            write=lambda: self._checked(step.arguments.write, arguments),
            back=self._undo(undo, args, keywords, _LIMIT_S),
            read=step.read_value,
        )

    def outside(
        self,
        function: Callable[..., Any],
        *args: Any,
        undo: Any = ...,
        attempts: int = 5,
        limit: datetime.timedelta = datetime.timedelta(seconds=_LIMIT_S),
        **keywords: Any,
    ) -> Operation[Any]:
        """Run an outside function of this service, one under `@service.outside`, in no transaction: at least once, with
        the same `EffectKey` each time. Its result is what it returns; a Failure that it raises is raised here.

        attempts: so often it is called when it raises anything else, takes longer than `limit`, or its process dies;
        then the saga is parked. undo: a command, a local step or an outside function; the latter two get the same
        arguments, with others: `undo=saga.outside(refund, order_id)`. It waits for an attempt that is at work.
        """
        found = self._named(function, OutsideFunction)
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise self._run.parks(f"attempts={attempts!r:.60}{here()}: give a whole number from 1")
        limit_s = self._seconds(limit, "limit")
        if not limit_s:
            raise self._run.parks(f"outside {found.name} with limit=None{here()}: each attempt has one, a timedelta")
        return Operation(
            self._run,
            ("outside", found.name, ""),
            write=lambda: self._written(found, args, keywords),
            back=self._undo(undo, args, keywords, limit_s),
            limit_s=limit_s,
            attempts=attempts,
            read=found.read_value,
        )

    def call(
        self,
        command: Command[R_co],
        *,
        undo: Command[Any] | EllipsisType | None = ...,
        limit: datetime.timedelta | None = None,
    ) -> Operation[R_co]:
        """Send a command and wait for its answer: returns the reply, raises the Failure.

        undo: a command of the same service and key, so that it lies behind this one. limit: for the answer; then
        TimeLimitExceeded is raised, and the undo is sent at once, since the command may be done all the same.
        """
        spec, key = self._command(command)

        def back(undo: Command[Any]) -> Undo:
            other, other_key = self._command(undo)
            if (other.service, other_key) != (spec.service, key):
                raise self._run.parks(
                    f"undo {other.name} goes to service {other.service} with key {other_key}, and what it undoes, "
                    f"{spec.name}, to {spec.service} with key {key}, so that it might overtake it{here()}: give it the "
                    "same service and key"
                )
            return self._sent(other, undo, other_key)

        return Operation(
            self._run,
            ("call", spec.type, key),
            write=lambda: self._checked(spec.write, command),
            topic=spec.topic,
            back=undo if undo is None or isinstance(undo, EllipsisType) else lambda: back(undo),
            limit_s=self._seconds(limit, "limit"),
            read=_nothing if spec.reply is None else spec.reply.read,
        )

    @overload
    def gather(self, one: Operation[A], two: Operation[B], /) -> Awaitable[tuple[A, B]]: ...

    @overload
    def gather(self, one: Operation[A], two: Operation[B], three: Operation[C], /) -> Awaitable[tuple[A, B, C]]: ...

    @overload
    def gather(self, *operations: Operation[T]) -> Awaitable[list[T]]: ...

    def gather(self, *operations: Operation[Any]) -> Awaitable[Any]:
        """Wait for several operations at once. They begin in the order in which they are written; when all have ended
        this returns their results, or raises the failure of the first of them that failed."""
        for each in operations:
            if not isinstance(each, Operation) or each.run is not self._run:
                raise self._run.parks(
                    f"gather takes a {type(each).__qualname__}{here()}: hand it operations of this saga, "
                    "`saga.gather(saga.call(...), saga.local(...))`"
                )
        return Gathered(self._run, operations)

    def sleep(self, time: datetime.timedelta) -> Operation[None]:
        """Wait, by the database's clock, however often processes come and go meanwhile."""
        return Operation(self._run, ("sleep", "", ""), limit_s=self._seconds(time, "time"), read=_nothing)

    def receive(self, event: type[E], *, limit: datetime.timedelta | None = None) -> Operation[E]:
        """Wait for an event of this class that `step.tell` tells this saga; those told before are kept.

        limit: raises TimeLimitExceeded after that.
        """
        spec: EventType[E] = self._checked(event_type, event)
        return Operation(self._run, ("receive", spec.type, ""), limit_s=self._seconds(limit, "limit"), read=spec.read)

    def pivot(self) -> None:
        """From here on the saga goes forward only: what it has done is not undone any more, whatever happens. A failure
        that it does not catch parks it."""
        self._run.issue(("pivot", "", ""), None)
        self._run.pivoted = True

    def now(self) -> datetime.datetime:
        """When what woke the function happened: the same at each replay."""
        self._run.check_open()
        return datetime.datetime.fromtimestamp(self._run.now, datetime.UTC)

    def uuid(self) -> UUID:
        """An id made of this saga's and of how many it has made: the same at each replay."""
        self._run.check_open()
        self._uuids += 1
        return uuid5(_NAMESPACE, f"{self._run.key}/{self._run.generation}/{self._uuids}")

    def random(self) -> Random:
        """Chance that comes out alike at each replay: seeded by this saga's id."""
        self._run.check_open()
        if self._random is None:
            self._random = Random(f"{self._run.key}/{self._run.generation}")
        return self._random

    def restart(self, request: Any) -> NoReturn:
        """Begin the function anew with this request and an empty journal. Its undo stack, what was told, and its
        deadline stay. For a saga that goes on for long: each wait replays its journal."""
        self._run.check_open()
        shape = self._code.request
        if type(request) is not shape.cls:
            raise self._run.parks(
                f"restart with a {type(request).__qualname__}{here()}, expected a {shape.cls.__qualname__}"
            )
        raise Restarted(self._checked(shape.write, request))

    # ------------------------------------------------------------------------------------------------------- checks

    def _named(self, function: Callable[..., Any], kind: type[N]) -> N:
        found = self._code.named.get(function)
        if isinstance(found, kind):
            return found
        shown = getattr(function, "__qualname__", repr(function)[:60])
        what, decorator = _KINDS[kind]
        raise self._run.parks(
            f"{shown} is no {what} of service {self._code.service}{here()}: write "
            f"@{self._code.service}.{decorator} above it"
        )

    def _undo(self, undo: Any, args: Any, keywords: Any, limit_s: float) -> Callable[[], Undo] | EllipsisType | None:
        """Of a local step or an outside effect. limit_s: of an outside function that is given by itself."""
        if undo is ...:
            return ...
        if undo is None:
            return None
        if isinstance(undo, Operation) and undo.asks[0] in ("local", "outside") and undo in self._run.made:
            del self._run.made[undo]  # nobody is to await it
            kind, name, _ = undo.asks
            return lambda: Undo(0, cast(Any, kind), name, msgspec.Raw(undo.write()), limit_s=undo.limit_s)
        return lambda: self._back(undo, args, keywords, limit_s)

    def _back(self, undo: Any, args: Any, keywords: Any, limit_s: float) -> Undo:
        if isinstance(type(undo), CommandMeta):
            spec, key = self._command(undo)
            return self._sent(spec, undo, key)
        outside = isinstance(self._code.named.get(undo), OutsideFunction)
        found = self._named(undo, OutsideFunction if outside else LocalStep)
        data = msgspec.Raw(self._written(found, args, keywords))
        return Undo(0, "outside" if outside else "local", found.name, data, limit_s=limit_s if outside else 0.0)

    def _written(self, found: Named, args: Any, keywords: Any) -> bytes:
        arguments = self._checked(found.bind, args, keywords)
        return self._checked(found.arguments.write, arguments)

    def _sent(self, spec: CommandType[Any], command: Command[Any], key: str) -> Undo:
        data = msgspec.Raw(self._checked(spec.write, command))
        self._checked(checked_key, spec.type, key)
        undo = Undo(0, "call", spec.type, data, topic=spec.topic, key=key)
        self._run.check_room(undo)
        return undo

    def _command(self, command: Command[Any]) -> tuple[CommandType[Any], str]:
        """What it is, and its key."""
        spec = self._checked(command_type, command)
        if spec.cls not in self._code.calls:
            service = self._code.service
            raise self._run.parks(
                f"call {spec.name}: service {service} does not declare it, so that its workers read no answer"
                f"{here()}: write Service({service!r}, calls=[{spec.cls.__name__}])"
            )
        return spec, self._checked(spec.key_of, command)

    def _seconds(self, time: datetime.timedelta | None, what: str) -> float:
        if time is None:
            return 0.0
        if not isinstance(time, datetime.timedelta) or time <= datetime.timedelta():
            raise self._run.parks(f"{what}={time!r:.60}{here()}: give a timedelta from now on")
        return time.total_seconds()

    def _checked(self, function: Callable[..., T], *args: Any) -> T:
        """A mistake in what the function asks for is the same at each replay: nobody tries it again."""
        self._run.check_open()
        try:
            return function(*args)
        except UsageError as error:
            raise self._mistaken(error) from error

    def _mistaken(self, error: UsageError) -> BaseException:
        return self._run.parks(f"{error}{here()}")


def _nothing(data: bytes) -> Any:
    return cast(Any, None)
