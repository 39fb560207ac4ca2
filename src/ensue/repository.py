"""How an entity step's entities are loaded and saved: a batch at a time, through whatever the user maps them with.

`SqlAlchemyRepository` (`mapped.py`) serves mapped classes and is chosen by itself; `TableRepository` maps a dataclass
to a table with no ORM in between, which is the fast way; anything else with `load` and `save` is welcome.
"""

from __future__ import annotations

import dataclasses
import decimal
import typing
import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.kind import kind_of
from ensue.aggregate.streams import Streams
from ensue.columns import field_of
from ensue.errors import UsageError
from ensue.kinds import as_asked, class_of, same
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


@runtime_checkable
class Settling(Protocol):
    """A repository whose entities may hold what only the database can work out, an SQL expression say."""

    def unsettled(self, entity: Any) -> bool:
        """Whether a changed or new entity must be saved and loaded anew before another handler has it."""


class TableRepository(Generic[T]):
    """Entities of a dataclass in a plain table: `TableRepository(Customer, customers)`, an `sqlalchemy.Table`.

    The table says all else: its columns are the dataclass's fields by name, its primary key (one column) is the id. In
    a store without SQL it is the description of what is kept there. A row holds plain values: UUID as 32 hex digits,
    Decimal as text, datetime (in UTC, if it has a zone) and date as ISO 8601, bool and enums as their values. Where the
    column's type is a `TypeDecorator` (or an `Enum` of SQLAlchemy's), that converts; so it does for anything else, and
    must come to text, a number, bytes, or one of the types above.

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
        if self.id_type is not None and issubclass(self.id_type, decimal.Decimal | float):
            raise UsageError(
                f"TableRepository({cls.__qualname__}, ...): its id {self.id_name} is a {self.id_type.__name__}, which "
                "has several texts for one number: make it an int, a str or a UUID"
            )
        self._fields = {
            name: field_of(f"{cls.__qualname__}.{name}", hints[name], self.source.columns[name].type) for name in names
        }
        unsorted = [name for name, field in self._fields.items() if not field.sorted]
        if lookups is None:
            found = tuple(
                each for each in _lookups_of(self.source, names) if not any(name in each.order for name in unsorted)
            )
        else:
            found = _checked_lookups(cls, names, self.id_name, lookups)
            _check_sorted(cls, found, unsorted)
            _index(self.source, names, found)
        placed = tuple(name for name, field in self._fields.items() if field.placed)
        self.table = PlainTable(str(self.source.name), names, self.id_name, found, placed=placed)
        self._make = _maker(cls)
        self._values: Callable[[Any], Any] = attrgetter(*names) if len(names) > 1 else _single(names[0])
        conversions = [field.conversion for field in self._fields.values()]
        turned = [(index, each) for index, each in enumerate(conversions) if each is not None]
        self._to_row = [(index, each.to_row) for index, each in turned if each.to_row is not same]
        self._from_row = [(index, each.from_row) for index, each in turned if each.from_row is not same]
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
        return as_asked(ids, self.by_id(await transaction.load_rows(self.table, wanted)), self.table.name, self.id_name)

    def by_id(self, rows: Sequence[Sequence[Any]]) -> dict[Any, T]:
        """Return the entities in these rows, by id."""
        make = self._make
        index = self._id_index
        found: dict[Any, T] = {}
        for row in rows:
            if self._from_row:
                values = list(row)
                for position, turn in self._from_row:
                    if values[position] is not None:
                        values[position] = turn(values[position])
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
        [found] = self.by_id([row]).values()
        return found

    def own_id(self, value: Any) -> Any:
        """An id as the entities have it. Raises UsageError for what cannot be one."""
        return self._fields[self.id_name].own(value)

    def value(self, name: str, value: Any) -> Any:
        """A field's value as its column holds it. Raises UsageError for one of another type."""
        return self._fields[name].value(value)

    def _rows(self, entities: Mapping[Any, T]) -> list[Sequence[Any]]:
        if not self._to_row:
            return [self._values(entity) for entity in entities.values()]
        rows: list[Sequence[Any]] = []
        for entity in entities.values():
            values = list(self._values(entity))
            for position, turn in self._to_row:
                if values[position] is not None:
                    values[position] = turn(values[position])
            rows.append(values)
        return rows


class AggregateRepository:
    """Event-sourced aggregates. What steps record of them is appended by the engine, with what they publish."""

    def __init__(self, cls: type[Aggregate]) -> None:
        self.cls = cls
        self.kind = kind_of(cls)
        self.id_name = self.kind.id_name
        self.id_type = self.kind.id_type

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, Any]:
        """As they are in the database, for who looks."""
        found = await Streams([]).load(transaction, self.kind, ids)
        return {entity_id: each for entity_id, each in found.items() if each is not None}

    async def save(self, transaction: StepTransaction, changed: Mapping[Any, Any], created: Mapping[Any, Any]) -> None:
        raise UsageError(f"{self.cls.__qualname__} is saved by its events: step.record(...)")


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
    extra = [
        name
        for name, kind in typing.get_type_hints(cls).items()
        if kind is dataclasses.InitVar or isinstance(kind, dataclasses.InitVar)
    ]
    if extra:
        raise UsageError(
            f"{where}: {', '.join(extra)} is an InitVar, which an entity does not keep, so that no row could make it "
            "again: make it a field"
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
            # PostgreSQL would have NULLs last, and lookups have nothing before anything.
            first = {each: "NULLS FIRST" for each in lookup.order if table.columns[each].nullable}
            Index(name, *(table.columns[each] for each in names), postgresql_ops=first)


#: Of an index, in characters: PostgreSQL takes 63.
_NAME_MAX = 63


def _single(name: str) -> Callable[[Any], Any]:
    get = attrgetter(name)
    return lambda entity: (get(entity),)


def _check_sorted(cls: type, lookups: Sequence[Lookup], unsorted: Sequence[str]) -> None:
    for lookup in lookups:
        for name in lookup.order:
            if name in unsorted:
                raise UsageError(
                    f"{lookup} of {cls.__qualname__}: {name} is a Decimal in a column of text, where 10 comes before "
                    "9: give the column the type Numeric"
                )


def _maker(cls: type[T]) -> Callable[..., T]:
    """Return what makes an entity of its fields' values, in their order."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # it is a dataclass
    late = [field.name for field in fields if not field.init]
    if not late and not any(field.kw_only for field in fields):
        return cls
    names = [field.name for field in fields]

    def make(*values: Any) -> T:
        given = dict(zip(names, values, strict=True))
        set_later = {name: given.pop(name) for name in late}
        entity = cls(**given)
        for name, value in set_later.items():
            object.__setattr__(entity, name, value)  # it may be frozen
        return entity

    return make
