"""What the database holds of an aggregate: names of rows, events, snapshots. Pure rules; see `ensue.tables`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import typing
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from ensue.aggregate.aggregate import Aggregate, Evolver, is_aggregate, set_version
from ensue.errors import EventMismatch, UsageError
from ensue.event import EventType, Shape, event_type
from ensue.formats import of_msgspec
from ensue.kinds import class_of, fitting

A = TypeVar("A", bound=Aggregate)

#: Of an id as text: with the stream before it and the version behind it, it has to fit into a name (`Kind.NAME`).
ID_CHARS_MAX = 120
#: Digits of a version in the id of an event's row, so that they sort as their numbers do.
VERSION_DIGITS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot(Shape[A]):
    """The state of an aggregate, as it is kept."""

    noun: ClassVar = "snapshot"

    def write(self, state: A) -> bytes:
        """As `Shape.write`; what equals itself when it is read again needs no look at each field."""
        form = self.format
        try:
            data = form.encode(state)
            if form.sure(state) or form.decode(data) == state:
                return data
        except Exception as error:  # whatever it is, the way that names the field says it
            return self._looked_at(state, error)
        return self._looked_at(state, None)

    def _looked_at(self, state: A, cause: Exception | None) -> bytes:
        try:
            return Shape.write(self, state)
        except EventMismatch as error:
            field = f", its field {error.field}: it is {error.found}" if error.field else ""
            raise UsageError(
                f"{self.type}: its state cannot be kept as a snapshot{field}, and would not be read as it is. Give the "
                "field values that JSON can carry, of the type that it declares, or write snapshot_every=0"
            ) from (cause or error)


class AggregateKind(Generic[A]):
    """One class of aggregates. cls, stream, id_name: see `Aggregate`. every: events from snapshot to snapshot; 0: none.

    Raises UsageError when the class cannot be kept as it is declared.
    """

    def __init__(self, cls: type[A]) -> None:
        if not is_aggregate(cls):
            shown = cls.__qualname__ if isinstance(cls, type) else repr(cls)[:60]
            raise UsageError(
                f"{shown} is no event-sourced aggregate: declare it, `class {getattr(cls, '__name__', 'Customer')}"
                '(ensue.Aggregate, stream="...")`'
            )
        self.cls = cls
        self.stream = cls.__ensue_stream__
        self.id_name = cls.__ensue_id__
        self.every = cls.__ensue_snapshot_every__
        self.evolvers = cls.__ensue_evolvers__
        where = f"aggregate {cls.__qualname__}"
        try:
            hints = typing.get_type_hints(cls)
        except NameError as error:
            raise UsageError(
                f"{where}: a field's type cannot be resolved ({error}): declare it above the class"
            ) from error
        id_type = class_of(hints[self.id_name])
        if id_type not in (uuid.UUID, str, int):
            raise UsageError(f"{where}: its id {self.id_name} is {hints[self.id_name]!r}, expected UUID, str or int")
        self.id_type: Any = id_type
        self._snapshot = Snapshot(cls, f"aggregate {cls.__qualname__}", of_msgspec(cls))
        if self.every:
            try:
                self._snapshot.format.check()
            except UsageError as error:
                raise UsageError(
                    f"{where}: its state cannot be kept as a snapshot: {error}. Give the field another type, or write "
                    "snapshot_every=0 in the class line"
                ) from error

    @functools.cached_property
    def shape(self) -> str:
        """Tells whether a snapshot fits the class: a digest of its fields, and the number that its user raises."""
        if not self.every:
            return ""
        schema = msgspec.json.encode(msgspec.json.schema(self.cls), order="sorted")
        digest = hashlib.sha256(b"%d:%s" % (self.cls.__ensue_shape__, schema)).hexdigest()
        return digest[:16]

    @functools.cached_property
    def readers(self) -> Mapping[str, tuple[EventType[Any], Evolver]]:
        """By wire type: what reads the data of an event in the stream, and what it changes."""
        found: dict[str, tuple[EventType[Any], Evolver]] = {}
        for cls, evolver in self.evolvers.items():
            spec: EventType[Any] = event_type(cls)
            found[spec.type] = spec, evolver
            found = {each.type: (each, evolver) for each in spec.older} | found  # a class of that version comes first
        return found

    def own_id(self, value: Any) -> Any:
        """An id as the aggregates have it. Raises UsageError for what cannot be one."""
        return fitting(value, self.id_type, f"{self.id_name} of {self.cls.__qualname__}")

    def key(self, value: Any) -> str:
        """What names its stream: the id of its head. Raises UsageError for an id that no row can have."""
        text = str(value)
        if value is None or not 0 < len(text) <= ID_CHARS_MAX or not text.isascii() or not text.isprintable():
            raise UsageError(
                f"{self.cls.__qualname__} {text[:60]!a}: the id of an aggregate is at most {ID_CHARS_MAX} printable "
                "ASCII characters"
            )
        return f"{self.stream}:{text}"

    def id_in(self, key: str) -> Any:
        """The id in what names a stream."""
        text = key.removeprefix(f"{self.stream}:")
        return text if self.id_type is str else self.id_type(text)

    def key_of(self, aggregate: Aggregate) -> str:
        return self.key(getattr(aggregate, self.id_name))

    def new(self, value: Any) -> A:
        """One that has no event yet."""
        return self.cls(**{self.id_name: value})

    def write_state(self, aggregate: A) -> bytes:
        """Raises UsageError, which names the field, for a state that could not be read as it is."""
        return self._snapshot.write(aggregate)

    def read_state(self, data: bytes, version: int) -> A:
        aggregate = self._snapshot.read(data)
        set_version(aggregate, version)
        return aggregate


_KIND = "__ensue_kind__"


def kind_of(cls: type[A]) -> AggregateKind[A]:
    """See `AggregateKind`; one for each class."""
    found: AggregateKind[A] | None = cls.__dict__.get(_KIND)
    if found is None:
        found = AggregateKind(cls)
        setattr(cls, _KIND, found)
    return found


def row_id(key: str, version: int) -> str:
    """Of an event's row, by the key of its stream.

    >>> row_id("customer:7", 42)
    'customer:7:0000000042'
    """
    return f"{key}:{version:0{VERSION_DIGITS}}"


def rows_between(key: str, after: int, through: int) -> list[str]:
    """Of the events with versions in (after, through].

    >>> rows_between("customer:7", 2, 4)
    ['customer:7:0000000003', 'customer:7:0000000004']
    """
    return [row_id(key, version) for version in range(after + 1, through + 1)]
