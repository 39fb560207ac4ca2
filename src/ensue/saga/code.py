"""What `@service.saga` declares: an `async def`, its name and version, and what it may ask for."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from types import NoneType
from typing import Any, Final

import msgspec

from ensue.command import CommandMeta, CommandType
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType, Shape, event_type, is_event_class, shape_of
from ensue.failure import Failure
from ensue.handler import parameters_of, shown
from ensue.handling import check_callable, is_async, options_of, resolved
from ensue.reply import reply_with
from ensue.saga.named import Named
from ensue.saga.wake import Answers, Ordered, Wake, checked_words, key_of, write_wake

#: A thousand years: what is due then is still a date.
_DEADLINE_MAX: Final = datetime.timedelta(days=365_000)


@dataclasses.dataclass(frozen=True, slots=True)
class SagaCode:
    """service: that owns it. calls: the commands that it may call. named: local steps and outside functions, by
    function. request: what it begins with. result: the type of what it returns; None: nothing. handles: the command
    that starts it, and is answered with its end. deadline_s: 0: none."""

    service: str
    name: str
    version: int
    function: Callable[..., Any]
    request: Shape[Any]
    result: Any
    deadline_s: float
    calls: Collection[type]
    named: Mapping[Any, Named]
    handles: CommandType[Any] | None = None

    @property
    def where(self) -> str:
        return f"saga {self.name} (version {self.version})"

    def starts(self, request: object, saga_id: object) -> tuple[str, bytes]:
        """Key and data of the record that starts one. Raises UsageError for what is no request of it."""
        if type(request) is not self.request.cls:
            raise UsageError(
                f"{self.where} is started with a {type(request).__qualname__}, expected a "
                f"{self.request.cls.__qualname__}"
            )
        data = msgspec.Raw(self.request.write(request))
        wake = Wake("start", version=self.version, deadline_s=self.deadline_s, data=data)
        return key_of(self.name, saga_id), write_wake(wake)

    def begins(self, command: bytes, answers: Answers, saga_id: str) -> tuple[str, bytes]:
        """As `starts`, with the data of the command that it handles: each has a saga of its own."""
        data = msgspec.Raw(command)
        wake = Wake("start", version=self.version, deadline_s=self.deadline_s, data=data, answers=answers)
        return key_of(self.name, saga_id), write_wake(wake)

    def tells(self, event: object, saga_id: object) -> tuple[str, bytes]:
        """Key and data of the record that tells one of an event. Raises UsageError for what is none."""
        spec: EventType[Any] = event_type(type(event))
        if isinstance(spec, CommandType):
            raise UsageError(f"{self.where} is told a {spec.cls.__qualname__}, which is a command: tell it an event")
        return key_of(self.name, saga_id), write_wake(Wake("told", type=spec.type, data=msgspec.Raw(spec.write(event))))

    def ordered(self, what: Ordered, saga_id: object, who: str = "", why: str = "") -> tuple[str, bytes]:
        """Key and data of the record by which somebody intervenes."""
        who, why = checked_words(who, why)
        return key_of(self.name, saga_id), write_wake(Wake(what, who=who, why=why))

    def write_result(self, value: Any) -> bytes:
        """Raises UsageError for what it is not annotated to return."""
        if self.handles is not None:
            if isinstance(value, Failure):
                raise UsageError(f"{self.where} returned a failure: raise it, and what the saga has done is undone")
            return bytes(reply_with(self.handles, "of no interest", value).data)
        if self.result is None:
            if value is not None:
                raise UsageError(f"{self.where} returned a {type(value).__qualname__}: annotate what it returns")
            return b"null"
        data = msgspec.json.encode(value)
        try:
            msgspec.json.decode(data, type=self.result)
        except ValueError as error:
            raise UsageError(
                f"{self.where} returned a {type(value).__qualname__}, expected a {shown(self.result)}: {error}"
            ) from error
        return data

    def read_result(self, data: bytes) -> Any:
        if self.handles is not None and self.handles.reply is not None:
            return self.handles.reply.read(data)
        if self.result is None:
            return None
        try:
            return msgspec.json.decode(data, type=self.result)
        except ValueError as error:
            raise BadMessage(f"{self.where} has ended, but its result is no {shown(self.result)}: {error}") from error


def saga_code(
    function: Callable[..., Any],
    service: str,
    called: str,
    version: int,
    deadline: datetime.timedelta | None,
    *,
    saga_class: type,
    calls: Collection[type],
    named: Mapping[Any, Named],
    handles: CommandType[Any] | None,
    local_names: Mapping[str, Any],
) -> SagaCode:
    """Raises UsageError when the declaration cannot work; its text says what to write instead."""
    where = f"saga {service}.{called}"
    check_callable(function, where)
    if not is_async(function):
        raise UsageError(f"{where} is a plain def: write `async def {called}(saga: Saga, request: ...)`")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(f"{where}: version={version!r:.60}, expected a whole number from 1")
    if deadline is not None and not datetime.timedelta() < deadline <= _DEADLINE_MAX:
        raise UsageError(
            f"{where}: deadline={deadline}, expected a time from its start on, of at most {_DEADLINE_MAX.days:,} "
            "days, or None"
        )
    kinds = [
        resolved(function, f"of parameter {each.name!r}", each.annotation, where, local_names)
        for each in parameters_of(function, where)
    ]
    if len(kinds) != 2 or kinds[0] is not saga_class or not isinstance(kinds[1], type):
        raise UsageError(
            f"{where} takes ({', '.join(map(shown, kinds))}), expected the saga and its request, of one class: "
            f"`async def {called}(saga: Saga, request: PlaceOrder)`"
        )
    if handles is not None and handles.cls is not kinds[1]:
        raise UsageError(f"{where} handles {shown(handles.cls)} and begins with {shown(kinds[1])}: take the command")
    if handles is None and is_event_class(kinds[1]) and isinstance(event_type(kinds[1]), CommandType):
        raise UsageError(
            f"{where} begins with {shown(kinds[1])}, which is a command: if that is to start it, and to be answered "
            f"with its end, write saga(handles={kinds[1].__name__}); else its request is any other class"
        )
    for each in commands_of(function):
        if each not in calls:
            raise UsageError(
                f"{where} names the command {each.__qualname__}, which the service does not declare, so that its "
                f"workers read no answer: write Service({service!r}, calls=[{each.__name__}])"
            )
    seconds = 0.0 if deadline is None else deadline.total_seconds()
    request: Shape[Any] = shape_of(kinds[1], f"the request of {called}")
    result = _result(function, where, local_names, handles)
    return SagaCode(service, called, version, function, request, result, seconds, calls, named, handles)


def _result(
    function: Callable[..., Any], where: str, local_names: Mapping[str, Any], handles: CommandType[Any] | None
) -> Any:
    said = inspect.signature(function).return_annotation
    if said is inspect.Signature.empty:
        return None
    kind = NoneType if said is None else resolved(function, "of its return", said, where, local_names)
    if handles is not None:
        expected = NoneType if handles.reply is None else handles.reply.cls
        if kind is not expected:
            raise UsageError(
                f"{where} is annotated to return {shown(kind)}, expected {shown(expected)}: the reply that "
                f"{handles.type} declares. A failure is raised"
            )
    if kind is NoneType:
        return None
    if any(isinstance(each, type) and issubclass(each, Failure) for each in options_of(kind)):
        raise UsageError(f"{where} returns a failure: raise it, and what the saga has done is undone")
    if handles is not None:
        return kind
    try:
        msgspec.json.Decoder(kind)
    except TypeError as error:
        raise UsageError(f"{where}: what it returns, {shown(kind)}, cannot be kept: {error}") from error
    return kind


def commands_of(function: Callable[..., Any]) -> Iterator[type]:
    """The commands that the function's code names, as far as they are known now."""
    names = getattr(function, "__globals__", {})
    left: list[types.CodeType] = [function.__code__] if isinstance(function, types.FunctionType) else []
    while left:
        code = left.pop()
        left += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for name in code.co_names:
            found = names.get(name)
            if isinstance(found, CommandMeta) and isinstance(found.__dict__.get("__ensue_event_type__"), CommandType):
                yield found


def declared_code(function: object) -> SagaCode:
    """What `@service.saga` made of a function. Raises UsageError for one that is no saga."""
    found = getattr(function, "__ensue_saga__", None)
    if not isinstance(found, SagaCode):
        shown_as = getattr(function, "__qualname__", repr(function)[:60])
        raise UsageError(f"{shown_as} is no saga: write @service.saga() above its `async def`")
    return found
