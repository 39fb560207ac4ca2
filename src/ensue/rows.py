"""`Rows`: queries on a service's entities that every store can answer, SQL or not.

By id, and by the indexes that a `TableRepository` declares: `Index(equal=("status",), order=("placed_at", "order_id"))`
finds the entities of one status in the order of their time. What SQL can do beyond that, `reading()` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ensue.errors import UsageError
from ensue.ports import Index, RowReader
from ensue.repository import Repository, TableRepository

T = TypeVar("T")


class Rows:
    """Reads committed entities. Each call sees one state of the store; two calls may see two."""

    def __init__(self, reader: RowReader, repositories: Mapping[type, Repository[Any]]) -> None:
        self._reader = reader
        self._repositories = repositories

    async def get(self, entity: type[T], id: Any) -> T | None:
        """Return the entity with this id, None when there is none."""
        return (await self.get_many(entity, [id])).get(id)

    async def get_many(self, entity: type[T], ids: Sequence[Any]) -> dict[Any, T]:
        """Return the entities that exist, by id."""
        repository = self._repository(entity)
        name = repository.table.id_column
        wanted = [repository.value(name, each) for each in ids]
        return repository.by_id(await self._reader.get(repository.table, wanted))

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
        """Return up to `limit` entities whose fields are as in `by` (all of them without it), in the index's order.

        order: fields, to choose between indexes that differ in nothing else. since: the lowest value of the first
        field of the order, or a tuple for the first fields. after: the last entity of the page before, or its values
        of all fields of the order. Raises UsageError when no declared index can do it.
        """
        if limit < 1:
            raise UsageError(f"limit is {limit}, expected at least 1")
        repository = self._repository(entity)
        index, equal = _index(repository, by or {}, tuple(order))
        lowest: Sequence[Any] = since if isinstance(since, tuple | list) else () if since is None else (since,)
        if len(lowest) > len(index.order):
            raise UsageError(f"since has {len(lowest)} values, the order has {', '.join(index.order)}")
        last: Sequence[Any] = ()
        if isinstance(after, entity):
            last = [getattr(after, name) for name in index.order]
        elif after is not None:
            last = after  # type: ignore[assignment]  # no entity, so it is the values
            if not isinstance(last, tuple | list) or len(last) != len(index.order):
                raise UsageError(
                    f"after is {after!r}, expected a {entity.__name__} or a tuple of its {', '.join(index.order)}"
                )
        found = await self._reader.find(
            repository.table,
            index,
            equal,
            since=[repository.value(name, each) for name, each in zip(index.order, lowest, strict=False)],
            after=[repository.value(name, each) for name, each in zip(index.order, last, strict=False)],
            limit=limit,
        )
        return [repository.entity(row) for row in found]

    async def count(self, entity: type[T], *, by: Mapping[str, Any] | None = None) -> int:
        """Return how many entities have these values."""
        repository = self._repository(entity)
        index, equal = _index(repository, by or {}, ())
        return await self._reader.count(repository.table, index, equal)

    def _repository(self, entity: type[T]) -> TableRepository[T]:
        found = self._repositories.get(entity)
        if isinstance(found, TableRepository):
            return found
        raise UsageError(
            f"{entity.__name__} is not stored by a TableRepository: declare one with its indexes, "
            f'Service(..., repositories=[TableRepository({entity.__name__}, table="...", indexes=[...])])'
            + ("; for a mapped class there is reading()" if found is not None else "")
        )


def _index(repository: TableRepository[Any], by: Mapping[str, Any], order: tuple[str, ...]) -> tuple[Index, list[Any]]:
    for index in repository.table.indexes:
        if set(index.equal) == set(by) and order in ((), index.order):
            return index, [repository.value(name, by[name]) for name in index.equal]
    name = repository.cls.__name__
    wanted = f"Index(equal=({', '.join(map(repr, by))}), order=({', '.join(map(repr, order)) or '...'}))"
    known = ", ".join(f"{index.equal} in order of {index.order}" for index in repository.table.indexes)
    raise UsageError(
        f"no index of {name} finds its rows by {tuple(by)}: add {wanted} to the indexes of its TableRepository; "
        f"declared: {known or 'none'}"
    )
