"""Which repository each entity class of a service has: one for all its handlers, or a batch would hold two copies."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from ensue.aggregate.aggregate import Aggregate, is_aggregate
from ensue.aggregate.kind import kind_of
from ensue.errors import UsageError
from ensue.event import event_type
from ensue.mapped import SqlAlchemyRepository, is_mapped
from ensue.repository import AggregateRepository, Repository


def aggregates_of(known: Mapping[type, Repository[Any]]) -> list[type[Aggregate]]:
    return [each.cls for each in known.values() if isinstance(each, AggregateRepository)]


def declare_aggregate(
    known: dict[type, Repository[Any]], cls: type[Aggregate], where: str, service: str, prunes: Set[str]
) -> AggregateRepository:
    """Its repository. Raises UsageError for what is none, and where its events would not be kept for good."""
    if cls in known:
        raise UsageError(
            f"{where}: {cls.__qualname__} is declared twice, or has a repository of its own: leave that out"
        )
    repository, kind = AggregateRepository(cls), kind_of(cls)
    for other in aggregates_of(known):
        if other.__ensue_stream__ == kind.stream:
            raise UsageError(
                f"{where}: {cls.__qualname__} and {other.__qualname__} have one stream, {kind.stream!r}: give one "
                "another name, stream="
            )
    pruned = sorted({event_type(each).topic for each in kind.evolvers} & prunes)
    if pruned:
        raise UsageError(
            f"{where}: {cls.__qualname__} is made of events of topic {pruned[0]!r}, which service {service} "
            "prunes: what carries a stream is never pruned, so leave it out of prunes="
        )
    known[cls] = repository
    return repository


def _check_no_session(entity: type, where: str, parameter: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    for session, instead in (
        (Session, "sqlalchemy.orm.Session"),
        (AsyncSession, "sqlalchemy.ext.asyncio.AsyncSession"),
    ):
        if issubclass(entity, session):
            raise UsageError(
                f"{where}: parameter {parameter!r} is annotated {entity.__module__}.{entity.__qualname__}, and a "
                f"step's session is none: it is SQLAlchemy's, annotate {instead}. What that has it has too: "
                "session.scalars(select(...)) says what SQLModel's session.exec(select(...)) does"
            )


def repository_for(
    repositories: dict[type, Repository[Any]],
    entity: type,
    given: Repository[Any] | None,
    where: str,
    parameter: str,
    service: str,
    prunes: Set[str],
) -> Repository[Any]:
    """The repository of an entity that a handler takes, known from now on. Raises UsageError where it has none."""
    known = repositories.get(entity)
    if given is not None:
        if known is not None and known != given:
            raise UsageError(
                f"{where}: {entity.__name__} has another repository already, and a batch must not hold two copies "
                "of one row: use one for all handlers, best in Service(..., repositories=[...])"
            )
        known = repositories[entity] = known or given
    elif known is None and is_aggregate(entity):
        known = declare_aggregate(repositories, entity, where, service, prunes)
    elif known is None:
        if not is_mapped(entity):
            if hasattr(entity, "metadata"):
                raise UsageError(
                    f"{where}: parameter {parameter!r} is annotated {entity.__name__}, which has no table of its "
                    "own (it is abstract, or a base of others): annotate a class that is mapped to one"
                )
            _check_no_session(entity, where, parameter)
            raise UsageError(
                f"{where}: parameter {parameter!r} is annotated {entity.__name__}, which is no declared event, nor "
                "Step, Message, AsyncSession (async def) or Session (def), nor a class mapped by SQLAlchemy. If it "
                f"is an entity, declare how it is stored: Service({service!r}, repositories=[TableRepository("
                f"{entity.__name__}, table)]), or pass repository= with load and save of your own. Anything "
                f"else is bound, {service}.on(functools.partial(function, {parameter}=...)), or the handler is a "
                "method of what has it"
            )
        known = repositories[entity] = SqlAlchemyRepository(entity)
    table = getattr(known, "table_name", None)
    for other, repository in repositories.items():
        if (
            other is not entity
            and table is not None
            and getattr(repository, "table_name", None) == table
            and getattr(repository, "root", repository) is not getattr(known, "root", known)  # of one hierarchy
        ):
            raise UsageError(
                f"{where}: {entity.__name__} and {other.__name__} are both stored in table {table}, and a batch "
                "must not hold two copies of one row: use one class for all handlers"
            )
    return known
