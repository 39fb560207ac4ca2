"""Events: what a service publishes, with topic, partition key, type name and version.

`Event` is a frozen msgspec Struct; `@as_event(...)` makes events of pydantic models and dataclasses. Either way the
class gets an `EventType`: how it is named on the wire, which of its fields is the key, how it is encoded and decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast, dataclass_transform

import msgspec

from ensue.codec import TOPIC_CHARS_MAX, TYPE_CHARS_MAX
from ensue.errors import BadMessage, UsageError
from ensue.formats import Format, of_msgspec
from ensue.refusals import cannot_encode, no_reader, would_change
from ensue.roundtrip import difference, fields_of
from ensue.texts import said_by

E = TypeVar("E")
#: Where a declared class keeps its EventType.
SPEC = "__ensue_event_type__"
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

#: Makes of an event's decoded data, of one version, that of the next.
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

#: Every declared event by its wire type, so that two classes cannot claim one name.
_declared: dict[str, type] = {}
#: By the wire type of an older version, the class that upcasters make of it.
_older: dict[str, type] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Shape(Generic[E]):
    """A class whose objects travel. type: its name on the wire."""

    noun: ClassVar = "answer"

    cls: type[E]
    type: str
    format: Format[E]

    def write(self, event: E) -> bytes:
        """Encode as JSON what every subscriber will read as it is here; raises EventMismatch that names the field else.

        Objects take values that do not fit, when they are made or later. The mistake has to show here, where it was
        made, and not as a dead letter of another service that no retry can mend.
        """
        form = self.format
        try:
            data = form.encode(event)
            if form.sure(event):
                return data
        except Exception as error:  # code of the user's own may be at work in it
            raise cannot_encode(self.noun, self.type, event, form.encode_field, error) from error
        try:
            found = difference(event, form.decode(data))
        except Exception as error:
            raise no_reader(self.noun, self.type, event, error) from error
        if found is not None:
            raise would_change(self.noun, self.type, event, found)
        return data

    def read(self, data: bytes) -> E:
        """Decode JSON data. Unknown fields are ignored; raises BadMessage that names the field that is wrong."""
        try:
            return self.format.decode(data)
        except (ValueError, RecursionError) as error:  # msgspec's and pydantic's errors; data nested too deeply
            raise BadMessage(
                f"{self.type}: the data does not fit {self.cls.__qualname__}: {said_by(error)}. "
                "Expected what the class declares; correct the sender, or give the field a default",
                type=self.type,
            ) from error


@dataclasses.dataclass(frozen=True, slots=True)
class EventType(Shape[E]):
    """An event class as the wire sees it. `type` is the CloudEvents type: `<topic>.<Name>.v<version>`."""

    noun: ClassVar = "event"

    topic: str
    key_field: str
    name: str
    version: int
    upcasters: dict[int, Upcaster] = dataclasses.field(default_factory=dict, compare=False, repr=False, kw_only=True)
    """By the version whose data they take; that which they return is of the next."""

    @property
    def older(self) -> Sequence[EventType[E]]:
        """Its versions before this one that can still be read, as objects of this one. Raises UsageError for a chain of
        upcasters that does not come to this one."""
        if not self.upcasters:
            return ()
        versions = range(min(self.upcasters), self.version)
        missing = [str(each) for each in versions if each not in self.upcasters]
        if missing:
            raise UsageError(
                f"{self.noun} {self.cls.__qualname__} of version {self.version} has no upcaster from "
                f"{', '.join(missing)}, and one from {versions[0]}: each makes the next version of its own, so write "
                f"@{self.cls.__name__}.upcast(from_version={missing[0]}) too"
            )
        return [self.as_older(each) for each in versions]

    def as_older(self, version: int) -> EventType[E]:
        """How one of an older version is read: as what its upcasters make of it."""

        def decode(data: bytes) -> E:
            return self.format.decode(self.upcast(version, data))

        form = dataclasses.replace(self.format, decoder=lambda: decode)
        return dataclasses.replace(self, type=_wire(self.topic, self.name, version), version=version, format=form)

    def upcast(self, version: int, data: bytes) -> bytes:
        """The data of an older version as of this one."""
        value = json.loads(data)
        for each in range(version, self.version):
            try:
                value = self.upcasters[each](value)
            except Exception as error:  # code of the user's own
                raise self._upcast_failed(each, f"raised {error!r:.200}") from error
            if not isinstance(value, dict):
                raise self._upcast_failed(each, f"returned {value!r:.100}, expected the dict of the next version")
        return msgspec.json.encode(value)

    def _upcast_failed(self, version: int, what: str) -> UsageError:
        return UsageError(
            f"the upcaster of {self.cls.__qualname__} from version {version} {what}. Correct it; what it is applied to "
            "stays as it was published"
        )

    def key_of(self, event: E) -> str:
        """Return the value of the key field as text. Raises UsageError when it is None."""
        key = getattr(event, self.key_field)
        if key is None:
            raise UsageError(
                f"{self.noun} {self.cls.__qualname__} is published with {self.key_field}=None, and that is its key: "
                "events of one key stay in order, so give it a value"
            )
        return str(key)


#: What msgspec takes in the line of a class.
_OPTIONS = frozenset(
    {
        "array_like", "cache_hash", "dict", "eq", "forbid_unknown_fields", "frozen", "gc", "kw_only", "omit_defaults",
        "order", "rename", "repr_omit_defaults", "tag", "tag_field", "weakref",
    }
)  # fmt: skip


def _wire(topic: str, name: str, version: int) -> str:
    return f"{topic}.{name}.v{version}"


class EventMeta(msgspec.StructMeta):
    """Takes `topic`, `key`, `type_name` and `version` out of the class line and leaves the rest to msgspec."""

    #: What the class is, and what its line says of that.
    noun: ClassVar = "event"
    ours: ClassVar[tuple[str, ...]] = ("topic", "key", "type_name", "version")

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        topic: str | None = None,
        key: str | None = None,
        type_name: str | None = None,
        version: int = 1,
        **options: Any,
    ) -> EventMeta:
        if unknown := options.keys() - _OPTIONS:
            raise UsageError(
                f"{mcls.noun} {name}: {', '.join(sorted(unknown))} in its class line; expected {', '.join(mcls.ours)}, "
                f"or what msgspec takes ({', '.join(sorted(_OPTIONS))})"
            )
        # Keyword-only fields so that a later version may add one with a default anywhere.
        options = {"frozen": True, "kw_only": True, "gc": False} | options
        cls: Any = super().__new__(mcls, name, bases, namespace, **options)
        if bases and bases[0] is not msgspec.Struct:
            if topic is None and key is None:
                return cls  # type: ignore[no-any-return]  # an abstract base for the user's own events
            attach(declared(cls, topic, key, type_name, version, of_msgspec(cls)))
        return cls  # type: ignore[no-any-return]

    def upcast(cls, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Declare how the data of an older version becomes that of the next: `@CustomerCreated.upcast(from_version=1)`
        above `def _(data: dict[str, Any]) -> dict[str, Any]`. See `ensue.upcast`."""
        return upcast(cls, from_version=from_version)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta, frozen=True, kw_only=True):
    """Base of events: `class OrderCreated(Event, topic="orders", key="customer_id")`.

    topic: where it is published. key: the field whose value keeps events in order (events of one key stay in commit
    order). type_name: the name on the wire, else the class's. version: raise it when old readers could not read it.
    Raises UsageError at declaration: no topic, no key, a key that is no field, a name taken by another class.
    """


def as_event(
    *misplaced: Any, topic: str | None = None, key: str | None = None, type_name: str | None = None, version: int = 1
) -> Callable[[type[E]], type[E]]:
    """Make an event of a pydantic 2 model or a dataclass: `@as_event(topic="orders", key="customer_id")`.

    A model is written by its aliases and without its computed fields, as its own validation reads it.
    Raises UsageError at declaration, as for `Event`, and for a class whose objects could not be read back.
    """
    if misplaced:
        shown = ", ".join(each.__qualname__ if isinstance(each, type) else repr(each)[:60] for each in misplaced)
        raise UsageError(
            f'@as_event({shown}): its arguments have names; write @as_event(topic="...", key="<field>") above the class'
        )

    def declare(cls: type[E]) -> type[E]:
        attach(declared(cls, topic, key, type_name, version, _format_of(cls)))
        return cls

    return declare


def upcast(cls: type, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
    """Declare how the data of an older version of an event, or a command, becomes that of the next one:
    `@upcast(CustomerCreated, from_version=1)`; of a class of `Event` also `@CustomerCreated.upcast(from_version=1)`.

    The function takes the data as JSON has it, a dict, and returns it as the next version has it; one from each version
    leads to the class as it is. They are used wherever an event is read: from the log, from streams, dead letters that
    are tried again, what was published for later, what a saga was told. Nothing that was written is changed.
    Raises UsageError at declaration: no older version, a second one from it.
    """
    spec: EventType[Any] = event_type(cls)
    where = f"@{cls.__name__}.upcast(from_version={from_version!r:.60})"
    if type(from_version) is not int or not 1 <= from_version < spec.version:
        raise UsageError(
            f"{where}: {spec.noun} {cls.__qualname__} is of version {spec.version}, expected an older one: raise "
            "version= in its declaration when its data changes, and say here what becomes of the old"
        )
    if getattr(getattr(cls, "__struct_config__", None), "array_like", False):
        raise UsageError(f"{where}: its data is an array, and no dict: leave array_like out of its declaration")
    wire = _wire(spec.topic, spec.name, from_version)
    taken = _older.get(wire)
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(f"{where}: {wire} is read as {taken.__module__}.{taken.__qualname__} already: leave one out")

    def declare(function: Upcaster) -> Upcaster:
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise UsageError(f"{where} belongs above a plain function, `def _(data: dict[str, Any]) -> dict[str, Any]`")
        if from_version in spec.upcasters:
            raise UsageError(f"{where}: there is one from version {from_version} already")
        spec.upcasters[from_version] = function
        _older[wire] = cls
        return function

    return declare


def is_older(kind: str) -> bool:
    """Whether upcasters alone read this wire type in this process."""
    return kind in _older and kind not in _declared


def now_of(kind: str) -> EventType[Any]:
    """What upcasters make of an older wire type."""
    return event_type(_older[kind])


def as_now(kind: str, data: bytes) -> tuple[str, bytes]:
    """Wire type and data of an event as the class of today has them; as they are where no upcaster is needed."""
    if not is_older(kind):
        return kind, data
    spec = now_of(kind)
    return spec.type, spec.upcast(_version_in(kind), data)


def _version_in(kind: str) -> int:
    return int(kind.rpartition(".v")[2])


def shape_of(cls: type[E], called: str) -> Shape[E]:
    """Return how objects of a class travel as a part of something else: of an event's, a Struct's, a dataclass's or a
    pydantic model's. called: its name in errors. Raises UsageError for one whose objects could not be read back."""
    spec = cls.__dict__.get(SPEC)
    form: Format[E] | None = None
    if parameters := getattr(cls, "__parameters__", ()):
        raise UsageError(
            f"{cls.__qualname__} is generic, and who reads it would not know its {', '.join(map(str, parameters))}: "
            f"declare a class for each, `class X({cls.__name__}[int])`"
        )
    if spec is not None:
        form = spec.format
    elif isinstance(cls, msgspec.StructMeta):
        form = None if cls in (msgspec.Struct, Event) else of_msgspec(cls)
    elif cls.__bases__ != (object,) or hasattr(cls, "__dataclass_fields__"):  # else pydantic's base, perhaps
        form = _known_format(cls)
    if form is None:
        raise UsageError(
            f"{cls.__qualname__} has no fields by name: declare a dataclass, a Struct, a pydantic model or an event"
        )
    with contextlib.suppress(NameError):  # as in `attach`
        form.check()
    return Shape(cls, called, form)


def _format_of(cls: Any) -> Format[Any]:
    if isinstance(cls, type):
        if isinstance(cls, EventMeta):
            raise UsageError(
                f"@as_event on {cls.__qualname__}, which is an ensue.Event: write topic= and key= in its class line, "
                f'`class {cls.__name__}(ensue.Event, topic="...", key="...")`, without @as_event'
            )
        if "__mapper__" in vars(cls):
            raise UsageError(
                f"@as_event on {cls.__qualname__}, which is mapped to a table: what is on the wire would change with "
                "its columns, and SQLModel does not validate such a one. Declare a class of its own for the event (a "
                "pydantic model, an SQLModel without table=True, a dataclass), and make it of the row where you publish"
            )
        form = _known_format(cls)
        if form is not None:
            return form
    raise UsageError(
        f"@as_event on {getattr(cls, '__qualname__', repr(cls))}: expected a pydantic 2 model or a dataclass (with "
        "@as_event above @dataclass); for a plain class write `class X(ensue.Event, topic=..., key=...)`"
    )


def _known_format(cls: Any) -> Format[Any] | None:
    if hasattr(cls, "__dataclass_fields__"):
        return of_msgspec(cls)
    if hasattr(cls, "model_validate_json"):
        from ensue.models import of_pydantic

        return of_pydantic(cls)
    return None


def event_type(cls: type[E]) -> EventType[E]:
    """Return the EventType of a declared event class; raises UsageError for anything else."""
    if not isinstance(cls, type):
        raise UsageError(f"{cls!r:.80} is no event class: name the class itself")
    spec = cls.__dict__.get(SPEC)
    if spec is None:
        if isinstance(cls, EventMeta) and cls.__bases__[0] is not msgspec.Struct:
            where, *_ = type(cls).ours
            raise UsageError(
                f"{cls.__qualname__} is no {type(cls).noun} of its own, since it has no {where}: "
                f'write `class {cls.__name__}(..., {where}="...", key="...")`'
            )
        raise UsageError(
            f"{cls.__qualname__} is no event: write `class {cls.__name__}(ensue.Event, topic=..., key=...)`, "
            "or put @ensue.as_event(topic=..., key=...) on a pydantic model or dataclass"
        )
    return cast(EventType[E], spec)


def declared_as(kind: str) -> EventType[Any]:
    """The event or command of this type, which was declared in this process."""
    if kind in _declared:
        return event_type(_declared[kind])
    return now_of(kind).as_older(_version_in(kind))


def declared_types() -> list[EventType[Any]]:
    """Every event and command that is declared in this process, but for Ensue's own."""
    return [event_type(cls) for cls in _declared.values() if not cls.__module__.startswith("ensue.")]


def is_event_class(cls: object) -> bool:
    """Whether it is meant as an event; `event_type` says whether it is one."""
    return isinstance(cls, type) and (isinstance(cls, EventMeta) or hasattr(cls, SPEC))


def declared(
    cls: type,
    topic: str | None,
    key: str | None,
    type_name: str | None,
    version: int,
    form: Format[Any],
    noun: str = "event",
) -> EventType[Any]:
    """Return how the class is named on the wire; raises UsageError when that cannot be. noun: what it is."""
    fields = fields_of(cls)
    if parameters := getattr(cls, "__parameters__", ()):
        where, *_ = getattr(type(cls), "ours", EventMeta.ours)
        raise UsageError(
            f"{noun} {cls.__qualname__} is generic, and who reads it would not know its "
            f"{', '.join(map(str, parameters))}: leave {where} and key out of it, and declare one for each, "
            f"`class X({cls.__name__}[int], {where}=..., key=...)`"
        )
    for option, value in (("topic", topic), ("key", key), ("type_name", type_name)):
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{noun} {cls.__qualname__}: {option}={value!r:.60}, expected a str")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(f"{noun} {cls.__qualname__}: version={version!r:.60}, expected a whole number from 1")
    name = type_name or cls.__name__
    if not topic:
        raise UsageError(f'{noun} {cls.__qualname__} has no topic: write topic="..." in its declaration')
    if topic.startswith("ensue."):
        raise UsageError(f"{noun} {cls.__qualname__}: topics that begin with 'ensue.' are Ensue's own; choose another")
    if len(topic) > TOPIC_CHARS_MAX or not _TOPIC.fullmatch(topic):
        raise UsageError(
            f"{noun} {cls.__qualname__}: topic {topic[:60]!a} of {len(topic)} characters cannot be had on every "
            "broker; expected ASCII letters, digits, '.', '_' and '-', a letter or digit first, at most "
            f"{TOPIC_CHARS_MAX}"
        )
    if not key:
        raise UsageError(
            f'{noun} {cls.__qualname__} has no key: write key="<field>"; what has one key stays in order. '
            f"Its fields: {', '.join(sorted(fields)) or 'none'}"
        )
    if key not in fields:
        raise UsageError(
            f"{noun} {cls.__qualname__}: key {key!r} is not one of its fields ({', '.join(sorted(fields)) or 'none'})"
        )
    wire = _wire(topic, name, version)
    if len(wire) > TYPE_CHARS_MAX or not wire.isprintable():
        raise UsageError(
            f"{noun} type {wire[:60]!a} has {len(wire)} characters, expected at most {TYPE_CHARS_MAX}, all printable: "
            "give it another type_name"
        )
    return EventType(cls, wire, form, topic, key, name, version)


def attach(spec: EventType[Any]) -> None:
    """Make its class known by its type; raises UsageError when that is another class's, or could not be read back."""
    cls, wire = spec.cls, spec.type
    taken = _declared.get(wire)
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise UsageError(
            f"event type {wire} is declared by {taken.__module__}.{taken.__qualname__} and again by "
            f"{cls.__module__}.{cls.__qualname__}: give one another type_name or version"
        )
    # A field may name a class that is defined further down, or the class itself: looked at again on first use.
    with contextlib.suppress(NameError):
        spec.format.check()
    _declared[wire] = cls
    setattr(cls, SPEC, spec)
