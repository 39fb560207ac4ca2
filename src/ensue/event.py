"""Events: what a service publishes, with topic, partition key, type name and version.

`Event` is a frozen msgspec Struct; `@as_event(...)` makes events of pydantic models and dataclasses. Either way the
class gets an `EventType`: how it is named on the wire, which of its fields is the key, how it is encoded and decoded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, dataclass_transform

import msgspec

from ensue.codec import TOPIC_CHARS_MAX, TYPE_CHARS_MAX
from ensue.errors import BadMessage, UsageError

E = TypeVar("E")
_SPEC = "__ensue_event_type__"
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

#: Every declared event by its wire type, so that two classes cannot claim one name.
_declared: dict[str, type] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class EventType(Generic[E]):
    """An event class as the wire sees it. `type` is the CloudEvents type: `<topic>.<Name>.v<version>`.

    validated: the class itself refuses values of the wrong type when an object is made (pydantic models do).
    """

    cls: type[E]
    topic: str
    key_field: str
    name: str
    version: int
    type: str
    encode: Callable[[E], bytes]
    decode: Callable[[bytes], E]
    validated: bool = False

    def key_of(self, event: E) -> str:
        """Return the value of the key field as text. Raises UsageError when it is None."""
        key = getattr(event, self.key_field)
        if key is None:
            raise UsageError(
                f"event {self.cls.__qualname__} is published with {self.key_field}=None, and that is its key: "
                "events of one key stay in order, so give it a value"
            )
        return str(key)

    def write(self, event: E) -> bytes:
        """Encode as JSON what every subscriber will be able to read; raises UsageError that names the field otherwise.

        A Struct and a dataclass take any value when they are made. The mistake has to show here, where it was made,
        and not as a dead letter of another service that no retry can mend.
        """
        try:
            data = self.encode(event)
            if not self.validated:
                self.decode(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"event {self.cls.__qualname__} cannot be published: {error}. Give its fields values of the types "
                "that it declares, and declare types that JSON can carry",
                type=self.type,
            ) from error
        return data

    def read(self, data: bytes) -> E:
        """Decode JSON data. Unknown fields are ignored; raises BadMessage that names the field that is wrong."""
        try:
            return self.decode(data)
        except (ValueError, RecursionError) as error:  # msgspec's and pydantic's errors; data nested too deeply
            raise BadMessage(
                f"{self.type}: the data does not fit {self.cls.__qualname__}: {error}. "
                "Expected what the class declares; correct the sender, or give the field a default",
                type=self.type,
            ) from error


class EventMeta(msgspec.StructMeta):
    """Takes `topic`, `key`, `name` and `version` out of the class line and leaves the rest to msgspec."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        topic: str | None = None,
        key: str | None = None,
        type_name: str | None = None,
        version: int = 1,
        **options: Any,
    ) -> EventMeta:
        # Keyword-only fields so that a later version may add one with a default anywhere.
        options = {"frozen": True, "kw_only": True, "gc": False} | options
        cls: Any = super().__new__(mcls, name, bases, namespace, **options)
        if bases and bases[0] is not msgspec.Struct:
            if topic is None and key is None:
                return cls  # type: ignore[no-any-return]  # an abstract base for the user's own events
            fields = {field.name for field in msgspec.structs.fields(cls)}
            encode = msgspec.json.Encoder().encode
            # The decoder resolves annotations, which may name classes defined later: make it on first use.
            _attach(cls, topic, key, type_name, version, fields, encode, _late_decoder(cls))
        return cls  # type: ignore[no-any-return]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta, frozen=True, kw_only=True):
    """Base of events: `class OrderCreated(Event, topic="orders", key="customer_id")`.

    topic: where it is published. key: the field whose value keeps events in order (events of one key stay in commit
    order). type_name: the name on the wire, else the class's. version: raise it when old readers could not read it.
    Raises UsageError at declaration: no topic, no key, a key that is no field, a name taken by another class.
    """


def as_event(*, topic: str, key: str, type_name: str | None = None, version: int = 1) -> Callable[[type[E]], type[E]]:
    """Make an event of a pydantic 2 model or a dataclass: `@as_event(topic="orders", key="customer_id")`."""

    def declare(cls: type[E]) -> type[E]:
        encode: Callable[[Any], bytes]
        decode: Callable[[bytes], Any]
        validated = False
        if dataclasses.is_dataclass(cls):
            fields = {field.name for field in dataclasses.fields(cls)}
            encode, decode = msgspec.json.Encoder().encode, _late_decoder(cls)
        elif hasattr(cls, "model_validate_json"):
            model = cast(Any, cls)
            fields = set(model.model_fields)

            def encode(value: Any) -> bytes:
                return cast(bytes, value.model_dump_json().encode())

            decode = model.model_validate_json
            validated = True
        else:
            raise UsageError(
                f"@as_event on {cls.__qualname__}: expected a pydantic 2 model or a dataclass; "
                "for a plain class write `class X(ensue.Event, topic=..., key=...)`"
            )
        _attach(cls, topic, key, type_name, version, fields, encode, decode, validated)
        return cls

    return declare


def event_type(cls: type[E]) -> EventType[E]:
    """Return the EventType of a declared event class; raises UsageError for anything else."""
    if not isinstance(cls, type):
        raise UsageError(f"{cls!r:.80} is no event class: name the class itself")
    spec = cls.__dict__.get(_SPEC)
    if spec is None:
        if isinstance(cls, EventMeta) and cls is not Event:
            raise UsageError(
                f"{cls.__qualname__} is no event of its own, since it has no topic: "
                f'write `class {cls.__name__}(..., topic="...", key="...")`'
            )
        raise UsageError(
            f"{cls.__qualname__} is no event: write `class {cls.__name__}(ensue.Event, topic=..., key=...)`, "
            "or put @ensue.as_event(topic=..., key=...) on a pydantic model or dataclass"
        )
    return cast(EventType[E], spec)


def is_event_class(cls: object) -> bool:
    """Whether it is meant as an event; `event_type` says whether it is one."""
    return isinstance(cls, type) and (isinstance(cls, EventMeta) or hasattr(cls, _SPEC))


def _late_decoder(cls: type) -> Callable[[bytes], Any]:
    decoder: msgspec.json.Decoder[Any] | None = None

    def decode(data: bytes) -> Any:
        nonlocal decoder
        if decoder is None:
            decoder = msgspec.json.Decoder(cls)
        return decoder.decode(data)

    return decode


def _attach(
    cls: type,
    topic: str | None,
    key: str | None,
    type_name: str | None,
    version: int,
    fields: set[str],
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    validated: bool = False,
) -> None:
    name = type_name or cls.__name__
    if not topic:
        raise UsageError(f'event {cls.__qualname__} has no topic: write topic="..." in its declaration')
    if topic.startswith("ensue."):
        raise UsageError(f"event {cls.__qualname__}: topics that begin with 'ensue.' are Ensue's own; choose another")
    if len(topic) > TOPIC_CHARS_MAX or not _TOPIC.fullmatch(topic):
        raise UsageError(
            f"event {cls.__qualname__}: topic {topic[:60]!a} of {len(topic)} characters cannot be had on every broker; "
            f"expected ASCII letters, digits, '.', '_' and '-', a letter or digit first, at most {TOPIC_CHARS_MAX}"
        )
    if not key:
        raise UsageError(
            f'event {cls.__qualname__} has no key: write key="<field>"; events of one key stay in order. '
            f"Its fields: {', '.join(sorted(fields)) or 'none'}"
        )
    if key not in fields:
        raise UsageError(
            f"event {cls.__qualname__}: key {key!r} is not one of its fields ({', '.join(sorted(fields)) or 'none'})"
        )
    wire = f"{topic}.{name}.v{version}"
    if len(wire) > TYPE_CHARS_MAX or not wire.isprintable():
        raise UsageError(
            f"event type {wire[:60]!a} has {len(wire)} characters, expected at most {TYPE_CHARS_MAX}, all printable: "
            "give it another type_name"
        )
    taken = _declared.get(wire)
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(
            f"event type {wire} is declared by {taken.__module__}.{taken.__qualname__} and again by "
            f"{cls.__module__}.{cls.__qualname__}: give one another type_name or version"
        )
    _declared[wire] = cls
    setattr(cls, _SPEC, EventType(cls, topic, key, name, version, wire, encode, decode, validated))
