"""Whether what a command's handler is annotated to return is what its command declares. No I/O here."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Coroutine, Mapping
from types import NoneType
from typing import Any

from ensue.command import CommandType
from ensue.errors import UsageError
from ensue.failure import Failure
from ensue.handler import Handler, shown
from ensue.handling import options_of, resolved


def check_returns(handler: Handler, where: str, local_names: Mapping[str, Any]) -> None:
    """Raise UsageError for a return type that does not fit. What is not annotated shows when it is returned."""
    function, command = handler.function, handler.command
    assert command is not None
    said = inspect.signature(function).return_annotation
    if said is inspect.Signature.empty:
        return
    kind = NoneType if said is None else resolved(function, "of its return", said, where, local_names)
    if typing.get_origin(kind) in (Awaitable, Coroutine):  # a plain def that returns what an async one made
        kind = typing.get_args(kind)[-1]
    for each in options_of(kind):
        if not _fits(handler, command, each):
            raise UsageError(f"{where} is annotated to return {shown(kind)}; expected {expected_of(handler)}")


def _fits(handler: Handler, command: CommandType[Any], kind: Any) -> bool:
    entity = handler.entity
    if typing.get_origin(kind) is tuple and entity is not None:
        new, *answers = typing.get_args(kind)
        return new is entity and len(answers) == 1 and all(_is_answer(command, each) for each in options_of(answers[0]))
    return _is_answer(command, kind) or (command.reply is None and entity is not None and kind is entity)


def _is_answer(command: CommandType[Any], kind: Any) -> bool:
    if kind in (Any, typing.NoReturn, typing.Never) or (isinstance(kind, type) and issubclass(kind, Failure)):
        return True
    return kind is (NoneType if command.reply is None else command.reply.cls)


def expected_of(handler: Handler) -> str:
    """What a command's handler may return, as an error says it."""
    command, entity = handler.command, handler.entity
    assert command is not None
    new = "" if entity is None else entity.__name__
    if command.reply is None:
        return f"None{f', the {new},' if new else ''} or a Failure: {command.type} has no reply"
    reply = command.reply.cls.__qualname__
    pair = f", tuple[{new}, {reply}] where it returns the {new} too," if new else ""
    return f"{reply}{pair} or a Failure: the reply that {command.type} declares"
