"""How objects of an event class become JSON and objects again, and which classes cannot be read back at all."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ensue.errors import UsageError
from ensue.roundtrip import fields_of, never, surely

E = TypeVar("E")


@dataclasses.dataclass(frozen=True)
class Format(Generic[E]):
    """encode, decode: to JSON and back. encode_field: one field alone, to find out which one cannot be encoded.

    sure: whether an object is sure to come back as it is, so that nobody need look; see `ensue.roundtrip.surely`.
    check: raises UsageError when the class's declaration shows that its objects cannot be read back, and NameError
    while it names a class that is not there yet; so `decode` and `sure` are made when they are first needed.
    """

    encode: Callable[[E], bytes]
    decoder: Callable[[], Callable[[bytes], E]]
    encode_field: Callable[[E, str], object]
    judge: Callable[[], Callable[[E], bool]]
    check: Callable[[], None]

    @functools.cached_property
    def decode(self) -> Callable[[bytes], E]:
        return self.decoder()

    @functools.cached_property
    def sure(self) -> Callable[[E], bool]:
        return self.judge()


def of_msgspec(cls: type[E]) -> Format[E]:
    """The format of a Struct or a dataclass."""
    encode = msgspec.json.Encoder().encode

    def decoder() -> Callable[[bytes], E]:
        check()
        return msgspec.json.Decoder(cls).decode

    def check() -> None:
        _check(cls)

    return Format(encode, decoder, lambda event, name: encode(getattr(event, name)), lambda: _sure(cls), check)


def unreadable(cls: type, where: str, why: str, write: str) -> UsageError:
    return UsageError(f"event {cls.__qualname__}: {where} {why}, so no subscriber could read it; {write}")


def _check(cls: type) -> None:
    try:
        msgspec.json.Decoder(cls)
        declared = msgspec.inspect.type_info(cls)
    except TypeError as error:
        raise UsageError(
            f"event {cls.__qualname__} cannot be read back from JSON: {error}. "
            "Declare types that can be told apart there"
        ) from error
    for where, kind in _customs(declared, cls.__qualname__):
        model = "; or declare the event as a pydantic model too" if hasattr(kind, "model_fields") else ""
        raise unreadable(
            cls,
            where,
            f"is a {kind.__qualname__}, which JSON cannot carry",
            "declare it with types like str, int, Decimal, UUID, datetime, lists and dicts of them, an Enum, a Struct "
            f"or a dataclass{model}",
        )


def _customs(declared: Any, where: str) -> Iterator[tuple[str, type]]:
    """The classes in a declaration that msgspec knows nothing of, and where they are."""
    seen: set[int] = set()
    left: list[tuple[str, Any]] = [(where, declared)]
    while left:
        where, node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            if node.cls is not msgspec.UnsetType and not _may_be_json(node.cls):
                yield where, node.cls
            continue
        for name in node.__struct_fields__:
            value = getattr(node, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, msgspec.inspect.Field):
                    left.append((f"{node.cls.__qualname__}.{each.name}", each.type))
                elif isinstance(each, msgspec.inspect.Type):
                    left.append((where, each))


#: One value of each kind that JSON has, but for null.
_JSON: tuple[object, ...] = ("", 0, 0.0, True, [], {})


def _may_be_json(cls: type) -> bool:
    """Whether what JSON itself gives can be an object of it, as of `object`."""
    try:
        return any(isinstance(each, cls) for each in _JSON)
    except TypeError:  # a protocol that says nothing at runtime
        return False


def _sure(cls: type) -> Callable[[Any], bool]:
    own: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
    if hasattr(cls, "__post_init__") or not all(field.init for field in own.values()):
        return never
    hints = typing.get_type_hints(cls, include_extras=True)
    return surely({name: hints[name] for name in fields_of(cls)})
