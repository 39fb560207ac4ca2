"""Entities that SQLAlchemy maps: loaded and saved a batch at a time, and what one of them reads of other tables."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ensue.columns import python_type
from ensue.errors import UsageError
from ensue.kinds import as_asked, class_of
from ensue.ports import StepTransaction

if TYPE_CHECKING:
    from sqlalchemy import Table

T = TypeVar("T")


def is_mapped(cls: type) -> bool:
    """Whether the class itself is mapped, and not one above it only."""
    return "__mapper__" in vars(cls)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """How entities are read; known once all classes are declared.

    related: tables that an entity shows besides its own row, by relationships and SQL expressions. filled: the database
    or SQLAlchemy puts something into a row as it is made; moved: as it is changed. in_place: attributes whose values
    may be changed without SQLAlchemy noticing it, by mapper, of the entities and of what may be loaded along with them.
    """

    select: Any
    column: Any
    related: frozenset[str]
    filled: bool
    moved: bool
    in_place: Mapping[Any, Sequence[str]]


class SqlAlchemyRepository(Generic[T]):
    """Entities of an SQLAlchemy mapped class: one SELECT into the identity map, one flush in bulk.

    Of a hierarchy an entity comes as what it is, with the columns of its class. A class with several primary key
    columns is refused, and one that is mapped to a join.
    """

    def __init__(self, cls: type[T]) -> None:
        from sqlalchemy import Table
        from sqlalchemy.orm import class_mapper

        # Not configured here: its relationships may name classes that are declared further down.
        mapper: Any = class_mapper(cls, configure=False)
        keys = mapper.primary_key
        if len(keys) != 1:
            raise UsageError(
                f"entity {cls.__name__} has {len(keys)} primary key columns, an entity step wants exactly one: "
                "give it a key of one column and make those a UniqueConstraint, or write a Repository of your own and "
                "pass it as repository="
            )
        if not isinstance(mapper.local_table, Table):
            raise UsageError(
                f"entity {cls.__name__} is mapped to a {type(mapper.local_table).__name__}, whose rows cannot be "
                "locked: map it to a table, or write a Repository of your own and pass it as repository="
            )
        attribute = mapper.get_property_by_column(keys[0])
        self.cls = cls
        self.table_name: str = mapper.local_table.fullname
        self.id_name: str = attribute.key
        self.id_type = _declared(cls, attribute.key) or _python_type(keys[0].type)
        self._id_of = attrgetter(attribute.key)
        self._mapper = mapper
        #: Of its hierarchy: where each entity has its one row, so that steps on base and subclass meet there.
        self.root: Any = mapper
        while self.root.inherits is not None and not self.root.concrete:
            self.root = self.root.inherits

    @functools.cached_property
    def _reading(self) -> _Reading:
        from sqlalchemy import Column, select
        from sqlalchemy import inspect as mapping
        from sqlalchemy.orm import with_polymorphic

        mapper: Any = mapping(self.cls)  # configured now
        mappers = list(mapper.self_and_descendants)
        columns = [column for each in mappers for table in each.tables for column in table.columns]
        expressions = [
            column
            for each in mappers
            for attribute in each.column_attrs
            for column in attribute.columns
            if not isinstance(column, Column)
        ]
        whole = len(mappers) > 1 and mapper.with_polymorphic is None and not any(each.concrete for each in mappers)
        cls: Any = with_polymorphic(self.cls, "*") if whole else self.cls
        column = getattr(cls, self.id_name)
        # The entity's own row alone: PostgreSQL locks nothing on the far side of an outer join, as eager loading makes
        # them. What a plain handler has read in this session without a lock is read anew.
        locked = select(cls).order_by(column).with_for_update(of=self.root.local_table)
        return _Reading(
            locked.execution_options(populate_existing=True),
            column,
            frozenset(_beyond(mappers)) | frozenset(_tables_in(expressions)),
            any(each.default is not None or each.server_default is not None for each in columns),
            mapper.version_id_col is not None
            or bool(expressions)
            or any(
                each.onupdate is not None or each.server_onupdate is not None or each.computed is not None
                for each in columns
            ),
            {each: names for each in _reached(mappers) if (names := _changed_in_place(each))},
        )

    @property
    def related(self) -> frozenset[str]:
        """Names of the tables that an entity shows besides its own row."""
        return self._reading.related

    @property
    def tables(self) -> Sequence[Table]:
        """What a load reads: the tables of the class, and of what is loaded eagerly with it."""
        return list(dict.fromkeys(_tables_read(self._mapper, set())))

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        reading = self._reading
        rows = await transaction.session.scalars(reading.select.where(reading.column.in_(ids)))
        found = {self._id_of(entity): entity for entity in rows.unique()}
        if reading.in_place:
            for entity in found.values():
                self._remember(entity)
        return as_asked(ids, found, self.table_name, self.id_name)

    def _remember(self, entity: T) -> None:
        for state in _states(entity):
            values = {name: state.dict.get(name) for name in self._reading.in_place.get(state.mapper, ())}
            state.info[_AS_LOADED] = {
                name: copy.deepcopy(value) for name, value in values.items() if isinstance(value, dict | list | set)
            }

    def notice(self, entity: T) -> None:
        """Have saved what a handler changed inside of a value, which SQLAlchemy by itself does not see."""
        if not self._reading.in_place:
            return
        from sqlalchemy.orm.attributes import flag_modified

        for state in _states(entity):
            for name, was in state.info.get(_AS_LOADED, {}).items():
                if name in state.dict and name not in state.committed_state and state.dict[name] != was:
                    flag_modified(state.obj(), name)

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
        return entity in transaction.session.deleted or _state(entity).deleted

    def check_id(self, entity: T, entity_id: Any) -> None:
        """Raise UsageError when a handler has given its entity another id."""
        found = _state(entity).dict.get(self.id_name, entity_id)
        if found != entity_id:
            raise UsageError(
                f"an entity step has changed {self.id_name} of {type(entity).__name__} {entity_id!r} to {found!r}, so "
                "that the next event would not find it: leave its id alone; to rename it, delete it and return a new "
                "one in the step of an event that names that",
                entity_id=entity_id,
            )

    def unsettled(self, entity: T) -> bool:
        """Whether only the database knows what a changed or new entity holds: it must be read anew before it is used.

        Of an SQL expression, and of columns that are filled in when a row is written.
        """
        from sqlalchemy.sql import ClauseElement

        state = _state(entity)
        if self._reading.filled and not state.has_identity:
            return True
        if not state.modified:
            return False
        values = state.dict
        return self._reading.moved or any(isinstance(values.get(name), ClauseElement) for name in state.committed_state)

    def written(self, entity: T) -> set[str]:
        """Names of the tables in which something changes when this entity is saved, as far as that is known."""
        found: set[str] = set()
        for each in _states(entity):
            if each.modified or each.key is None or each.deleted:
                found.update(table.fullname for table in each.mapper.tables)
                relations = each.mapper.relationships
                found.update(_of_relations([relations[name] for name in each.committed_state if name in relations]))
        return found


def _tables_read(mapper: Any, seen: set[Any]) -> Iterator[Table]:
    for each in mapper.self_and_descendants:
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
#: Where an entity's state keeps copies of the values that may be changed in place.
_AS_LOADED = "ensue as loaded"


def _state(entity: Any) -> Any:
    from sqlalchemy.orm.attributes import instance_state

    return instance_state(entity)


def _states(entity: Any) -> Sequence[Any]:
    """Of the entity, and of all that it holds on to by relationships that are loaded."""
    state = _state(entity)
    return [state, *(each for _, _, each, _ in state.mapper.cascade_iterator("save-update", state))]


def _reached(mappers: Sequence[Any]) -> set[Any]:
    """These, and what relationships lead to, and so on."""
    known = set(mappers)
    ahead = list(mappers)
    while ahead:
        new = {each for relation in ahead.pop().relationships for each in relation.mapper.self_and_descendants} - known
        known |= new
        ahead += new
    return known


def _beyond(mappers: Sequence[Any]) -> set[str]:
    """The tables that relationships lead to, and those of what is there, and so on."""
    return {name for each in _reached(mappers) for name in _of_relations(list(each.relationships))}


def _changed_in_place(mapper: Any) -> list[str]:
    """Attributes whose values may be dictionaries, lists or sets."""
    from sqlalchemy import Column, PickleType
    from sqlalchemy.types import TypeDecorator

    return [
        each.key
        for each in mapper.column_attrs
        for column in each.columns
        if isinstance(column, Column)
        and not isinstance(column.type, PickleType)
        and (isinstance(column.type, TypeDecorator) or not column.type.hashable)
    ]


def _of_relations(relations: Sequence[Any]) -> set[str]:
    tables = [table for each in relations for below in each.mapper.self_and_descendants for table in below.tables]
    return {each.fullname for each in tables} | {
        each.secondary.fullname for each in relations if getattr(each.secondary, "fullname", "")
    }


def _tables_in(expressions: Sequence[Any]) -> Iterator[str]:
    from sqlalchemy import Table
    from sqlalchemy.sql import visitors

    for expression in expressions:
        for element in visitors.iterate(expression):  # a column of its own row leads to no table
            if isinstance(element, Table):
                yield element.fullname


def _declared(cls: type, name: str) -> type | None:
    """The class in the annotation of an attribute, `Mapped[UUID]`; None where it cannot be told."""
    for base in cls.__mro__:
        annotation = inspect.get_annotations(base).get(name)
        if annotation is None:
            continue

        def one() -> None: ...

        one.__annotations__ = {name: annotation}
        names = getattr(sys.modules.get(base.__module__), "__dict__", {})
        try:
            hint = typing.get_type_hints(one, names)[name]
        except Exception:  # annotations are expressions and can fail in any way: the column's type has to do
            return None
        return class_of(next(iter(typing.get_args(hint)), hint))
    return None


def _python_type(column_type: Any) -> type | None:
    from sqlalchemy.types import TypeDecorator

    # What is below a decorator says nothing of what it is made into.
    return None if isinstance(column_type, TypeDecorator) else python_type(column_type)
