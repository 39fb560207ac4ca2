"""`Rows`: queries on a service's entities that every store can answer, SQL or not.

By id, and by the lookups that a `TableRepository` has: `Lookup(equal=("status",), order=("placed_at", "id"))`
finds the entities of one status in the order of their time. What SQL can do beyond that, `query()` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ensue.errors import UsageError
from ensue.kinds import as_asked
from ensue.ports import Lookup, RowReader
from ensue.repository import Repository, TableRepository

T = TypeVar("T")


class Rows:
    """Reads committed entities. Each call sees one state of the store; two calls may see two."""

    def __init__(self, reader: RowReader, repositories: Mapping[type, Repository[Any]]) -> None:
        self._reader = reader
        self._repositories = repositories

    async def get(self, entity: type[T], id: Any) -> T | None:
        """Return the entity with this id, None when there is none."""
        return next(iter((await self.get_many(entity, [id])).values()), None)

    async def get_many(self, entity: type[T], ids: Sequence[Any]) -> dict[Any, T]:
        """Return the entities that exist, by id. A UUID may be given as its text and the reverse, as in an event."""
        repository = self._repository(entity)
        name = repository.table.id_column
        own = [repository.own_id(each) for each in ids]
        found = await self._reader.get(repository.table, [repository.value(name, each) for each in own])
        return as_asked(own, repository.by_id(found), repository.table_name, name)

    async def find(
        self,
        entity: type[T],
        *,
        by: Mapping[str, Any] | None = None,
        order: Sequence[str] = (),
        since: Any = None,
        after: T | Sequence[Any] | None = None,
        limit: int = 100,
    ) -> list[T]:
        """Return up to `limit` entities whose fields are as in `by` (all of them without it), in the lookup's order.

        order: fields, needed where rows can be found in several orders. since: the lowest value of the first
        field of the order, or a tuple for the first fields. after: the last entity of the page before, or its values
        of all fields of the order. Raises UsageError when no declared lookup can do it.
        """
        if limit < 1:
            raise UsageError(f"limit is {limit}, expected at least 1")
        repository = self._repository(entity)
        lookup, equal = _lookup(repository, by or {}, tuple(order))
        lowest: Sequence[Any] = since if isinstance(since, tuple | list) else () if since is None else (since,)
        if len(lowest) > len(lookup.order):
            raise UsageError(f"since has {len(lowest)} values, the order has {', '.join(lookup.order)}")
        last: Sequence[Any] = ()
        if isinstance(after, entity):
            last = [getattr(after, name) for name in lookup.order]
        elif after is not None:
            last = after  # type: ignore[assignment]  # no entity, so it is the values
            if not isinstance(last, tuple | list) or len(last) != len(lookup.order):
                raise UsageError(
                    f"after is {after!r}, expected a {entity.__name__} or a tuple of its {', '.join(lookup.order)}"
                )
        found = await self._reader.find(
            repository.table,
            lookup,
            equal,
            since=[repository.value(name, each) for name, each in zip(lookup.order, lowest, strict=False)],
            after=[repository.value(name, each) for name, each in zip(lookup.order, last, strict=False)],
            limit=limit,
        )
        return [repository.entity(row) for row in found]

    async def count(self, entity: type[T], *, by: Mapping[str, Any] | None = None) -> int:
        """Return how many entities have these values."""
        repository = self._repository(entity)
        lookup, equal = _lookup(repository, by or {}, (), any_order=True)
        return await self._reader.count(repository.table, lookup, equal)

    def _repository(self, entity: type[T]) -> TableRepository[T]:
        found = self._repositories.get(entity)
        if isinstance(found, TableRepository):
            return found
        raise UsageError(
            f"{entity.__name__} is not stored by a TableRepository: declare one, "
            f"Service(..., repositories=[TableRepository({entity.__name__}, table)])"
            + ("; for a mapped class there is query()" if found is not None else "")
        )


def _lookup(
    repository: TableRepository[Any], by: Mapping[str, Any], order: tuple[str, ...], any_order: bool = False
) -> tuple[Lookup, list[Any]]:
    fitting = [each for each in repository.table.lookups if set(each.equal) == set(by) and order in ((), each.order)]
    if not fitting:
        wanted = f"Lookup({tuple(by)}, {order or '(..., ' + repr(repository.id_name) + ')'})"
        known = ", ".join(f"{each.equal} in order of {each.order}" for each in repository.table.lookups)
        raise UsageError(
            f"no lookup of {repository.cls.__name__} finds its rows by {tuple(by)}: add {wanted} to the lookups= of "
            f"its TableRepository, or an index to its table; there are: {known or 'none'}"
        )
    if len(fitting) > 1 and not any_order:
        raise UsageError(
            f"{repository.cls.__name__} by {tuple(by)} can be found in several orders: say which, order="
            + " or order=".join(str(each.order) for each in fitting)
        )
    return fitting[0], [repository.value(name, by[name]) for name in fitting[0].equal]
