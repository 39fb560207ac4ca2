"""Which entities of a batch would show what was true before it: mapped ones that read tables beside their own rows.

Entities are loaded together before the first handler runs, with what SQLAlchemy loads along: a collection, a parent, a
count of rows elsewhere. When a handler changes those rows, whoever has them loaded must be loaded anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from ensue.mapped import SqlAlchemyRepository
from ensue.repository import Repository


class Loaded(Protocol):
    """The entities of one repository in one run."""

    @property
    def repository(self) -> Repository[Any]: ...


class Links:
    """Of one run. It is told what handlers leave, where it matters to anybody (`watched`)."""

    def __init__(self, loaded: Iterable[Loaded]) -> None:
        mapped = [each for each in loaded if isinstance(each.repository, SqlAlchemyRepository)]
        classes = Counter(each.repository.root for each in mapped)  # type: ignore[attr-defined]  # they are all mapped
        self._related: dict[Loaded, frozenset[str]] = {}
        #: Those whose rows another class of their hierarchy may have made or deleted; and who has.
        self._hierarchy: dict[Loaded, Any] = {}
        self._made: dict[Any, set[Loaded]] = {}
        self._written: set[str] = set()
        for each in mapped:
            repository = each.repository
            assert isinstance(repository, SqlAlchemyRepository)
            if repository.related:
                self._related[each] = repository.related
            if classes[repository.root] > 1:
                self._hierarchy[each] = repository.root
        self.watched = bool(self._related or self._hierarchy)

    def stale(self, entities: Loaded) -> bool:
        """Whether these may show something that a handler of this run has changed."""
        if not self._written.isdisjoint(self._related.get(entities, ())):
            return True
        root = self._hierarchy.get(entities)
        return root is not None and not self._made.get(root, set()) <= {entities}

    def left(self, entities: Loaded, before: Any, after: Any) -> None:
        """A handler was given `before` (None: there was none) and left `after` (None: it is deleted)."""
        repository = entities.repository
        if isinstance(repository, SqlAlchemyRepository):
            if before is not after and entities in self._hierarchy:
                self._made.setdefault(repository.root, set()).add(entities)
            for each in (before, after):
                if each is not None:
                    self._written |= repository.written(each)
        elif after is not None:
            self._written.add(getattr(repository, "table_name", ""))
