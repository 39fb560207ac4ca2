"""How an entity step's entities are loaded and saved: a batch at a time, through whatever the user maps them with.

`SqlAlchemyRepository` serves mapped classes and is chosen by itself; `TableRepository` maps a dataclass to a table
with no ORM in between, which is the fast way; anything else with `load` and `save` is welcome.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import types
import typing
import uuid
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ensue.errors import UsageError
from ensue.ports import Lookup, StepTransaction
from ensue.ports import Table as PlainTable

if TYPE_CHECKING:
    from sqlalchemy import FromClause, Table

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
        self._mapper = mapper
        self.table_name: str = mapper.local_table.name
        self.id_name: str = attribute.key
        self.id_type = _python_type(keys[0].type)
        self._id_of = attrgetter(attribute.key)
        self._column = getattr(cls, attribute.key)
        columns = [column for table in mapper.tables for column in table.columns]
        #: The database or SQLAlchemy puts something into a row as it is made, or as it is changed.
        self._filled = any(each.default is not None or each.server_default is not None for each in columns)
        self._moved = mapper.version_id_col is not None or any(
            each.onupdate is not None or each.server_onupdate is not None or each.computed is not None
            for each in columns
        )
        # The entity's own row alone: PostgreSQL locks nothing on the far side of an outer join, as eager loading makes
        # them. What a plain handler has read in this session without a lock is read anew.
        locked = select(cls).order_by(self._column).with_for_update(of=_root_table(mapper))
        self._select = locked.execution_options(populate_existing=True)

    @property
    def tables(self) -> Sequence[Table]:
        """What a load reads: the tables of the class, and of what is loaded eagerly with it."""
        return list(dict.fromkeys(_tables_read(self._mapper, set())))

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        found = await transaction.session.scalars(self._select.where(self._column.in_(ids)))
        return {self._id_of(entity): entity for entity in found.unique()}

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

    def deleted(self, transaction: StepTransaction, entity: T) -> bool:
        """Whether a handler has deleted a loaded entity by the step's session, flushed or not."""
        from sqlalchemy.orm.attributes import instance_state

        return entity in transaction.session.deleted or instance_state(entity).deleted

    def unsettled(self, entity: T) -> bool:
        """Whether only the database knows what a changed or new entity holds: it must be read anew before it is used.

        Of an SQL expression, and of columns that are filled in when a row is written.
        """
        from sqlalchemy.orm.attributes import instance_state
        from sqlalchemy.sql import ClauseElement

        state = instance_state(entity)
        if self._filled and not state.has_identity:
            return True
        if not state.modified:
            return False
        values = state.dict
        return self._moved or any(isinstance(values.get(name), ClauseElement) for name in state.committed_state)


def _tables_read(mapper: Any, seen: set[Any]) -> Iterator[Table]:
    for each in (mapper, *mapper.with_polymorphic_mappers):
        if each in seen:
            continue
        seen.add(each)
        yield from each.tables
        for relationship in each.relationships:
            if relationship.lazy in _EAGER:
                if relationship.secondary is not None:
                    yield relationship.secondary
                yield from _tables_read(relationship.mapper, seen)


_EAGER = (False, "joined", "selectin", "subquery", "immediate")


def _root_table(mapper: Any) -> Any:
    """The table that each entity of a hierarchy has its one row in, so that steps on base and subclass meet there."""
    while mapper.inherits is not None and not mapper.concrete:
        mapper = mapper.inherits
    return mapper.local_table


@dataclasses.dataclass(frozen=True, slots=True)
class _Conversion:
    """Turns a field's value into what a row holds (text, a number, bytes) and back; None stays None."""

    to_row: Callable[[Any], Any]
    from_row: Callable[[Any], Any]


def _decimal(value: Any) -> decimal.Decimal:
    return decimal.Decimal(value if isinstance(value, str | int) else str(value))  # SQLite makes floats of numbers


_CONVERSIONS: dict[type, _Conversion] = {
    uuid.UUID: _Conversion(attrgetter("hex"), uuid.UUID),  # as SQLAlchemy's Uuid on a database without the type
    decimal.Decimal: _Conversion(str, _decimal),
    datetime.datetime: _Conversion(datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: _Conversion(datetime.date.isoformat, datetime.date.fromisoformat),
    bool: _Conversion(int, bool),
}
_PLAIN = (int, str, float, bytes)
#: As SQLAlchemy's DateTime writes it in SQLite, so that rows of both sort together.
_AS_SQLALCHEMY = _Conversion(lambda moment: moment.isoformat(" ", "microseconds"), datetime.datetime.fromisoformat)
#: What SQLAlchemy leaves to drivers.
_LEFT = (decimal.Decimal, datetime.date)


class TableRepository(Generic[T]):
    """Entities of a dataclass in a plain table: `TableRepository(Customer, customers)`, an `sqlalchemy.Table`.

    The table says all else: its columns are the dataclass's fields by name, its primary key (one column) is the id. In
    a store without SQL it is the description of what is kept there. A row holds plain values: UUID as 32 hex digits,
    Decimal as text, datetime and date as ISO 8601, bool and enums as their values. Where the column's type is a
    `TypeDecorator` (or an `Enum` of SQLAlchemy's), that converts; so it does for anything else, and must come to text,
    a number, bytes, or one of the types above.

    lookups: how rows are found besides by id (see `Rows`); else all that the table's indexes can answer. Those given
    are all there are, and the table gets an index for each that has none. Stores without SQL keep each lookup with
    the rows: there, name those that you ask for.
    Raises UsageError when class and table do not fit.
    """

    def __init__(self, cls: type[T], table: FromClause, *, lookups: Sequence[Lookup] | None = None) -> None:
        if not dataclasses.is_dataclass(cls):
            raise UsageError(f"TableRepository wants a dataclass, {cls.__qualname__} is none")
        self.cls: type[T] = cls
        self.source = _checked_table(cls, table)
        names = tuple(field.name for field in dataclasses.fields(cls))
        self.id_name = _key(self.source)
        hints = typing.get_type_hints(cls)
        self.id_type = class_of(hints[self.id_name])
        if lookups is None:
            found = _lookups_of(self.source, names)
        else:
            found = _checked_lookups(cls, names, self.id_name, lookups)
            _index(self.source, names, found)
        self.table = PlainTable(str(self.source.name), names, self.id_name, found)
        self._values: Callable[[Any], Any] = attrgetter(*names) if len(names) > 1 else _single(names[0])
        conversions = [_conversion(cls, name, hints[name], self.source.columns[name].type) for name in names]
        self._convert = [(index, each) for index, each in enumerate(conversions) if each is not None]
        self._conversions = dict(zip(names, conversions, strict=True))
        self._id_index = names.index(self.id_name)
        self._id = conversions[self._id_index]

    def __eq__(self, other: object) -> bool:
        """Two of one class and table are one: a batch must not hold two copies of a row."""
        return isinstance(other, TableRepository) and (self.cls, self.table) == (other.cls, other.table)

    def __hash__(self) -> int:
        return hash((self.cls, self.table))

    @property
    def table_name(self) -> str:
        return self.table.name

    @property
    def tables(self) -> Sequence[Table]:
        return (self.source,)

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
        column = self._conversions[name]
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


def _checked_table(cls: type, table: Any) -> Table:
    from sqlalchemy import Table

    where = f"TableRepository({cls.__qualname__}, ...)"
    if not isinstance(table, Table):
        raise UsageError(f"{where} wants the sqlalchemy.Table that describes its rows, got {table!r:.80}")
    if table.schema:
        raise UsageError(f"{where}: table {table.fullname} names a schema; leave it out, the database's URL says where")
    if len(table.primary_key.columns) != 1:
        raise UsageError(
            f"{where}: table {table.name} has {len(table.primary_key.columns)} columns as its primary key, expected one"
        )
    fields = {field.name for field in dataclasses.fields(cls)}
    columns = {column.name: column for column in table.columns if column.key == column.name}
    missing = sorted(fields - columns.keys())
    if missing:
        raise UsageError(f"{where}: table {table.name} has no column {', '.join(missing)}; it has {', '.join(columns)}")
    needed = [
        name
        for name, column in columns.items()
        if name not in fields and not (column.nullable or column.server_default or column.computed)
    ]
    if needed:
        raise UsageError(
            f"{where}: the class has no field {', '.join(needed)}, which table {table.name} needs in each row: "
            "add it, or make the column nullable or give it a server_default"
        )
    return table


def _key(table: Table) -> str:
    [key] = table.primary_key.columns
    return str(key.name)  # SQLAlchemy's names are more than text


def _lookups_of(table: Table, fields: Container[str]) -> tuple[Lookup, ...]:
    """All that its keys and indexes can answer: rows with the same first columns, in order of the others."""
    from sqlalchemy import UniqueConstraint

    key = _key(table)
    found = {Lookup((), (key,)): None}
    indexes: list[list[Any]] = [
        [getattr(column, "name", None) for column in index.expressions]
        for index in sorted(table.indexes, key=lambda each: str(each.name))
        if not any(option.endswith("_where") for option in index.dialect_kwargs)  # it has a part of the rows only
    ]
    unique = [
        [column.name for column in each.columns] for each in table.constraints if isinstance(each, UniqueConstraint)
    ]
    for columns in indexes + sorted(unique):
        names = [str(name) for name in columns if name in fields]
        if len(names) < len(columns):
            continue  # an index on an expression finds no rows by their values
        names = names[: names.index(key)] if key in names else names  # no two rows have one id
        found |= {Lookup(tuple(names[:at]), (*names[at:], key)): None for at in range(len(names) + 1)}
    return tuple(found)


def _checked_lookups(cls: type, names: Sequence[str], id: str, lookups: Sequence[Lookup]) -> tuple[Lookup, ...]:
    for lookup in lookups:
        unknown = [name for name in (*lookup.equal, *lookup.order) if name not in names]
        if unknown:
            raise UsageError(f"{cls.__qualname__} has no field {', '.join(unknown)} for {lookup}")
        if lookup.order[-1:] != (id,):
            raise UsageError(
                f"{lookup} of {cls.__qualname__}: its order must end with the id ({id}): no two rows may share a place"
            )
    return tuple(lookups)


def _index(table: Table, fields: Container[str], lookups: Sequence[Lookup]) -> None:
    """Give the table an index for each lookup that none of its own answers."""
    from sqlalchemy import Index

    for lookup in lookups:
        known = _lookups_of(table, fields)
        if all(set(lookup.equal) != set(each.equal) or lookup.order != each.order for each in known):
            names = [*lookup.equal, *lookup.order]
            name = f"ix_{table.name}_{'_'.join(names)}"
            if len(name) > _NAME_MAX:
                name = f"{name[: _NAME_MAX - 9]}_{zlib.crc32(name.encode()):08x}"
            Index(name, *(table.columns[each] for each in names))


#: Of an index, in characters: PostgreSQL takes 63.
_NAME_MAX = 63


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


def _conversion(cls: type, name: str, hint: Any, column_type: Any) -> _Conversion | None:
    from sqlalchemy import DateTime, Enum
    from sqlalchemy.types import TypeDecorator

    if isinstance(column_type, TypeDecorator):
        return _of_sqlalchemy(column_type, _python_type(column_type.load_dialect_impl(_plain_dialect())))
    kind = class_of(hint)
    if kind is not None:
        if issubclass(kind, enum.Enum):
            return (
                _of_sqlalchemy(column_type) if isinstance(column_type, Enum) else _Conversion(attrgetter("value"), kind)
            )
        if issubclass(kind, datetime.datetime) and isinstance(column_type, DateTime):
            return _AS_SQLALCHEMY
        for base, conversion in _CONVERSIONS.items():
            if issubclass(kind, base):
                return conversion
        if issubclass(kind, _PLAIN):
            return None
    raise UsageError(
        f"TableRepository does not know how to store {cls.__qualname__}.{name}: {hint!r}; give its column a type that "
        "does: class X(sqlalchemy.types.TypeDecorator), whose impl is String, BigInteger or the like"
    )


@functools.cache
def _plain_dialect() -> Any:
    """Of a database that has texts, numbers and bytes alone; an exact number stays one."""
    from sqlalchemy.engine.default import DefaultDialect

    dialect = DefaultDialect()
    dialect.supports_native_decimal = True
    return dialect


def _of_sqlalchemy(column_type: Any, left: type | None = None) -> _Conversion:
    """As the type itself converts. left: what it hands to a driver, where it is not plain yet."""
    bind = column_type.bind_processor(_plain_dialect()) or _same
    result = column_type.result_processor(_plain_dialect(), None) or _same
    rest = _AS_SQLALCHEMY if left is datetime.datetime else _CONVERSIONS.get(left) if left in _LEFT else None
    if rest is None:
        return _Conversion(bind, result)
    return _Conversion(lambda value: rest.to_row(bind(value)), lambda value: result(rest.from_row(value)))


def _same(value: Any) -> Any:
    return value
