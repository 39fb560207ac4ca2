"""Outside effects of sagas: functions with a name that run in no transaction, at least once, under a key that stays.

A mail, a payment, a call of somebody else's service: none of them can be rolled back, and whoever waits for one inside
of a transaction holds its locks meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from ensue.errors import UsageError
from ensue.handler import ENTITY, EVENT, parameters_of, place_of
from ensue.handling import check_callable, is_async, options_of, resolved, wraps_async
from ensue.saga.named import Named, arguments_of, value_of

#: What `saga.outside` itself takes by name.
_TAKEN: Final = ("attempts", "limit", "undo")


class EffectKey(str):
    """A parameter that is annotated with this is given the key of the effect: the same at each attempt, and no other
    effect's. Hand it to whoever is called, who does by it what was asked for once: `Idempotency-Key`, say."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class OutsideFunction(Named):
    """key: the name of the parameter that is given the key; empty: it has none."""

    function: Callable[..., Any]
    key: str

    async def call(self, data: bytes, key: str) -> Any:
        """data: the arguments as JSON. Raises what the function does."""
        found = self.arguments.read(data)
        values = {name: getattr(found, name) for name in self.names}
        if self.key:
            values[self.key] = EffectKey(key)
        return await self.function(**values)


class Outside(msgspec.Struct, gc=False, omit_defaults=True):
    """An effect that has not come to anything yet. key: `<saga>:<number>`. attempt: the one at hand, or the last one.
    attempts: how many it has before a person is asked, `last`: which is the last of them."""

    name: str
    data: msgspec.Raw
    key: str
    limit_s: float
    attempts: int
    last: int
    attempt: int = 0
    state: Literal["", "begun", "failed", "waits"] = ""
    """Empty: to be begun."""
    reason: str = ""
    """Why the last attempt failed."""
    overdue: bool = False
    """begun: its timer has gone off once."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutsideRun:
    """One attempt that a process is to make, once what asks for it is committed. since: when the transaction began that
    has set its timer, monotonic; None: nobody knows."""

    saga: str
    number: int
    attempt: int
    function: OutsideFunction
    data: bytes
    key: str
    limit_s: float
    correlation_id: str
    traceparent: str
    since: float | None = None

    @property
    def name(self) -> tuple[str, int, int]:
        return self.saga, self.number, self.attempt


def outside_function(
    function: Callable[..., Any], service: str, called: str, local_names: Mapping[str, Any]
) -> OutsideFunction:
    """Raises UsageError that says what to write."""
    where = f"outside function {service}.{called}"
    check_callable(function, where)
    if not (is_async(function) or wraps_async(function)):
        raise UsageError(
            f"{where} is a plain def, which would hold up everything else in its process: write `async def {called}`, "
            "and in it `await asyncio.to_thread(...)` for what blocks"
        )
    key = ""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for each in parameters_of(function, where):
        if each.name in _TAKEN:
            raise UsageError(f"{where}: saga.outside itself takes {each.name}=: name the parameter otherwise")
        if each.kind is each.POSITIONAL_ONLY:
            raise UsageError(f"{where}: parameter {each.name!r} can be given by place only: take the / away")
        kind = resolved(function, f"of parameter {each.name!r}", each.annotation, where, local_names)
        if place_of(options_of(kind)) not in (ENTITY, EVENT):
            raise UsageError(
                f"{where}: parameter {each.name!r} is annotated {kind.__qualname__}, which belongs to a "
                "transaction, and it runs in none: take what it needs as arguments; rows belong to local steps"
            )
        if kind is not EffectKey:
            fields.append((each.name, kind) if each.default is each.empty else (each.name, kind, each.default))
        elif key:
            raise UsageError(f"{where}: parameters {key!r} and {each.name!r} are both given the key: leave one out")
        else:
            key = each.name
    arguments = arguments_of(f"ensue.outside.{service}", called, fields, where)
    names = tuple(each[0] for each in fields)
    return OutsideFunction(called, where, arguments, names, value_of(function, None, where, local_names), function, key)
