"""How an entity step's entities are loaded and saved: a batch at a time, through whatever the user maps them with.

`SqlAlchemyRepository` serves mapped classes and is chosen by itself; `TableRepository` maps a dataclass to a table
with no ORM in between, which is the fast way; anything else with `load` and `save` is welcome.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from ensue.errors import UsageError
from ensue.ports import Lookup, StepTransaction, Table

T = TypeVar("T")


class Repository(Protocol[T]):
    """Loads and saves entities of one class inside a step's transaction."""

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        """Return the entities that exist, by id; those that do not exist are left out."""

    async def save(self, transaction: StepTransaction, changed: Mapping[Any, T], created: Mapping[Any, T]) -> None:
        """Write back entities that were loaded (`changed`) and insert those that a handler returned (`created`)."""


class SqlAlchemyRepository(Generic[T]):
    """Entities of an SQLAlchemy mapped class: one SELECT into the identity map, one flush in bulk."""

    def __init__(self, cls: type[T]) -> None:
        from sqlalchemy import inspect, select

        mapper: Any = inspect(cls)
        keys = mapper.primary_key
        if len(keys) != 1:
            raise UsageError(
                f"entity {cls.__name__} has {len(keys)} primary key columns, an entity step wants exactly one: "
                "write a Repository of your own and pass it as repository="
            )
        attribute = mapper.get_property_by_column(keys[0])
        self.table_name: str = mapper.local_table.name
        self.id_name: str = attribute.key
        self.id_type = _python_type(keys[0].type)
        self._id_of = attrgetter(attribute.key)
        self._column = getattr(cls, attribute.key)
        self._select = select(cls).order_by(self._column).with_for_update()

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        found = await transaction.session.scalars(self._select.where(self._column.in_(ids)))
        return {self._id_of(entity): entity for entity in found}

    async def save(self, transaction: StepTransaction, changed: Mapping[Any, T], created: Mapping[Any, T]) -> None:
        session = transaction.session
        for entity in changed.values():
            if entity not in session:
                raise UsageError(
                    f"an entity step returned another {type(entity).__name__} than the one it was given, which would "
                    "not be saved: change the one that was loaded, and return nothing"
                )
        if created:
            session.add_all(created.values())
        await transaction.flush()


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """Turns a field's value into a column's and back; None stays None."""

    to_row: Callable[[Any], Any]
    from_row: Callable[[Any], Any]


_CONVERTERS: dict[type, Column] = {
    uuid.UUID: Column(attrgetter("hex"), uuid.UUID),  # as SQLAlchemy's Uuid on a database without the type
    decimal.Decimal: Column(str, decimal.Decimal),
    datetime.datetime: Column(datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: Column(datetime.date.isoformat, datetime.date.fromisoformat),
    bool: Column(int, bool),
}
_PLAIN = (int, str, float, bytes)


class TableRepository(Generic[T]):
    """Entities of a dataclass in a plain table: `TableRepository(Customer, table="customers", id="id")`.

    Columns are the dataclass's fields by name. UUID (32 hex digits), Decimal (text), datetime and date (ISO 8601),
    bool and enums are converted; give `columns={"field": Column(to_row, from_row)}` for anything else.
    The table itself is the user's own (Ensue does not create it). lookups: how its rows are found besides by id, see
    `Rows`; a store without SQL keeps them with the rows, in an SQL database they are part of the user's own table.
    """

    def __init__(
        self,
        cls: type[T],
        *,
        table: str,
        id: str = "id",
        columns: Mapping[str, Column] | None = None,
        lookups: Sequence[Lookup] = (),
    ) -> None:
        if not dataclasses.is_dataclass(cls):
            raise UsageError(f"TableRepository wants a dataclass, {cls.__qualname__} is none")
        names = tuple(field.name for field in dataclasses.fields(cls))
        if id not in names:
            raise UsageError(f"{cls.__qualname__} has no field {id!r} to be its id; fields: {', '.join(names)}")
        self.cls: type[T] = cls
        self.table = Table(table, names, id, _checked(cls, names, id, lookups))
        self._values: Callable[[Any], Any] = attrgetter(*names) if len(names) > 1 else _single(names[0])
        hints = typing.get_type_hints(cls)
        converters = [(columns or {}).get(name) or _converter(cls, name, hints[name]) for name in names]
        self._convert = [(index, column) for index, column in enumerate(converters) if column is not None]
        self._columns = dict(zip(names, converters, strict=True))
        self.id_name = id
        self.id_type = class_of(hints[id])
        self._id_index = names.index(id)
        self._id = converters[self._id_index]

    def __eq__(self, other: object) -> bool:
        """Two of one class and table are one: a batch must not hold two copies of a row."""
        return isinstance(other, TableRepository) and (self.cls, self.table) == (other.cls, other.table)

    def __hash__(self) -> int:
        return hash((self.cls, self.table))

    @property
    def table_name(self) -> str:
        return self.table.name

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        wanted = [self._id.to_row(value) for value in ids] if self._id else ids
        return self.by_id(await transaction.load_rows(self.table, wanted))

    def by_id(self, rows: Sequence[Sequence[Any]]) -> dict[Any, T]:
        """Return the entities in these rows, by id."""
        make: Any = self.cls
        index = self._id_index
        found: dict[Any, T] = {}
        for row in rows:
            if self._convert:
                values = list(row)
                for position, column in self._convert:
                    if values[position] is not None:
                        values[position] = column.from_row(values[position])
                found[values[index]] = make(*values)
            else:
                found[row[index]] = make(*row)
        return found

    async def save(self, transaction: StepTransaction, changed: Mapping[Any, T], created: Mapping[Any, T]) -> None:
        if changed:
            await transaction.update_rows(self.table, self._rows(changed))
        if created:
            await transaction.insert_rows(self.table, self._rows(created))

    def entity(self, row: Sequence[Any]) -> T:
        make: Any = self.cls
        values = list(row)
        for position, column in self._convert:
            if values[position] is not None:
                values[position] = column.from_row(values[position])
        made: T = make(*values)
        return made

    def value(self, name: str, value: Any) -> Any:
        """A field's value as its column holds it."""
        column = self._columns[name]
        return value if column is None or value is None else column.to_row(value)

    def _rows(self, entities: Mapping[Any, T]) -> list[Sequence[Any]]:
        if not self._convert:
            return [self._values(entity) for entity in entities.values()]
        rows: list[Sequence[Any]] = []
        for entity in entities.values():
            values = list(self._values(entity))
            for position, column in self._convert:
                if values[position] is not None:
                    values[position] = column.to_row(values[position])
            rows.append(values)
        return rows


def _checked(cls: type, names: Sequence[str], id: str, lookups: Sequence[Lookup]) -> tuple[Lookup, ...]:
    for lookup in lookups:
        unknown = [name for name in (*lookup.equal, *lookup.order) if name not in names]
        if unknown:
            raise UsageError(f"{cls.__qualname__} has no field {', '.join(unknown)} for {lookup}")
        if lookup.order[-1:] != (id,):
            raise UsageError(
                f"{lookup} of {cls.__qualname__}: its order must end with the id ({id}): no two rows may share a place"
            )
    return tuple(lookups)


def _python_type(column_type: Any) -> type | None:
    try:
        found: type = column_type.python_type
    except NotImplementedError:  # a type of the user's own says nothing
        return None
    return found


def _single(name: str) -> Callable[[Any], Any]:
    get = attrgetter(name)
    return lambda entity: (get(entity),)


def class_of(hint: Any) -> type | None:
    """The class of a type hint, without `| None` and NewType; None when it is no plain class."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    named = [option for option in options if option is not types.NoneType]
    kind = getattr(named[0], "__supertype__", named[0]) if len(named) == 1 else None
    return kind if isinstance(kind, type) else None


def _converter(cls: type, name: str, hint: Any) -> Column | None:
    kind = class_of(hint)
    if kind is not None:
        if issubclass(kind, enum.Enum):
            return Column(attrgetter("value"), kind)
        for base, column in _CONVERTERS.items():
            if issubclass(kind, base):
                return column
        if issubclass(kind, _PLAIN):
            return None
    raise UsageError(
        f"TableRepository does not know how to store {cls.__qualname__}.{name}: {hint!r}; "
        f"give columns={{{name!r}: Column(to_row, from_row)}}"
    )
