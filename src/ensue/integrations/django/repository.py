"""`DjangoRepository`: entities of entity steps that are Django models."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from django.db import models

from ensue.errors import UsageError
from ensue.integrations.django.lending import lent
from ensue.ports import StepTransaction

T = TypeVar("T")

#: By what Django calls a field's kind: the type of its values.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("AutoField", "BigAutoField", "SmallAutoField", "IntegerField", "BigIntegerField"), int),
    **dict.fromkeys(("PositiveIntegerField", "PositiveBigIntegerField", "SmallIntegerField"), int),
    **dict.fromkeys(("CharField", "TextField", "SlugField"), str),
    "UUIDField": uuid.UUID,
}


class DjangoRepository(Generic[T]):
    """Loads the entities of a batch by one SELECT ... FOR UPDATE in the order of their keys (SQLite's transaction has
    the lock for writing as it is), and saves them by `bulk_update` and `bulk_create`.

    These send no signals and call no `save()`; `auto_now` fields keep what they have. An entity that a handler was
    given is saved with all its columns; it is not deleted. A model with a parent model has two tables: refused, as is
    one with a composite key, whose parts no event names in one field.
    """

    def __init__(self, model: type[T]) -> None:
        meta: Any = getattr(model, "_meta", None)
        if meta is None or not issubclass(model, models.Model):
            raise UsageError(f"DjangoRepository({model!r:.80}): expected a Django model")
        if meta.abstract or meta.proxy or meta.parents:
            raise UsageError(
                f"DjangoRepository({model.__name__}): it is abstract, a proxy, or has a parent model, so that it is "
                "not one table: take the model that has the columns"
            )
        if meta.pk.get_internal_type() == "CompositePrimaryKey":
            raise UsageError(
                f"DjangoRepository({model.__name__}): its primary key is a composite one, and an event names an entity "
                "by one field: handle the event without the entity, and use the ORM"
            )
        self.cls = model
        self._model: Any = model
        self._using: str | None = None
        self.id_name: str = meta.pk.attname
        self.id_type = _TYPES.get(meta.pk.get_internal_type())
        self.table_name: str = meta.db_table
        self._fields = [
            each.name for each in meta.concrete_fields if not each.primary_key and not getattr(each, "generated", False)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DjangoRepository) and self.cls is other.cls

    def __hash__(self) -> int:
        return hash(self.cls)

    def bind(self, using: str) -> None:
        """Its service's database."""
        if self._using not in (None, using):
            raise UsageError(f"{self.cls.__name__} is an entity of two databases, {self._using!r} and {using!r}")
        self._using = using

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, T]:
        def found() -> dict[Any, T]:
            with lent(self._alias, transaction.sync_session()):
                return self.load_now(ids)

        return await asyncio.to_thread(found)

    async def save(self, transaction: StepTransaction, changed: Mapping[Any, T], created: Mapping[Any, T]) -> None:
        def write() -> None:
            with lent(self._alias, transaction.sync_session()):
                self.save_now(changed, created)

        if changed or created:
            await asyncio.to_thread(write)

    @property
    def _alias(self) -> str:
        if self._using is None:
            raise UsageError(f"DjangoRepository({self.cls.__name__}) belongs to no DjangoService")
        return self._using

    @property
    def _manager(self) -> Any:
        return self._model._base_manager.using(self._alias)

    def unsettled(self, entity: Any) -> bool:
        """Whether it holds an expression, `F("count") + 1` say, or a column whose default the database makes: two
        messages that both set one would else be saved as the second alone."""
        return any(hasattr(each, "resolve_expression") for each in vars(entity).values())

    def load_now(self, ids: Sequence[Any]) -> dict[Any, T]:
        """In the transaction that Django's connection has in this thread. Returns those that exist, by the ids that
        were asked for."""
        own = {self._model._meta.pk.to_python(each): each for each in ids if each is not None}
        rows = self._manager.select_for_update().filter(pk__in=list(own)).order_by("pk")
        return {own[each.pk]: each for each in rows}

    def save_now(self, changed: Mapping[Any, T], created: Mapping[Any, T]) -> None:
        """As `load_now`. Raises UsageError when a handler has given an entity another key: its row would stay as it
        was, and another entity's be overwritten."""
        each: Any
        for known, each in changed.items():
            if each.pk != self._model._meta.pk.to_python(known):
                raise UsageError(
                    f"a handler has set the primary key of {self.cls.__name__} {known} to {each.pk!r}: an entity keeps "
                    "its own; return a new one in a step of its own, or use the ORM",
                    entity_id=known,
                )
        if changed and self._fields:
            self._manager.bulk_update([changed[each] for each in sorted(changed, key=str)], self._fields)
        if created:
            self._manager.bulk_create(list(created.values()))
