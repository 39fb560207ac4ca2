"""Whether a service's declaration fits what its store can do: refused at start, with what to write instead."""

from __future__ import annotations

from ensue.errors import UsageError
from ensue.handler import Handler
from ensue.ports import Capabilities
from ensue.repository import SqlAlchemyRepository, TableRepository
from ensue.service import ServiceDefinition


def check_fits(definition: ServiceDefinition, capabilities: Capabilities) -> None:
    """Raise UsageError for the first thing that would fail with each message later."""
    name = definition.name
    if definition.publishes and not capabilities.publishes:
        events = ", ".join(cls.__name__ for cls in definition.publishes)
        raise UsageError(
            f"service {name} publishes {events}, and its database is a store for views, which has no outbox: "
            f"give {name} another one (e.g. postgresql://), or move what publishes into a service of its own"
        )
    for handlers in definition.handlers.values():
        for handler in handlers:
            where = f"service {name}, handler {handler.name} of {handler.event.type}"
            if not capabilities.sessions:
                _check_without_sessions(handler, where)
            if not capabilities.transactions and handler.entity is None:
                raise UsageError(
                    f"{where}: in this database each entity is a document of its own, and a handler takes effect once "
                    "by what the document remembers: take the entity, annotated with its class"
                )
            if not capabilities.transactions and not isinstance(handler.repository, TableRepository):
                assert handler.entity is not None
                raise UsageError(
                    f"{where}: {handler.entity.__name__} has a repository of its own; in this database each entity is "
                    "a document that Ensue keeps: declare it with TableRepository"
                )


def _check_without_sessions(handler: Handler, where: str) -> None:
    if handler.needs_session:
        raise UsageError(
            f"{where} asks for a session, which this database has not: declare an entity that is stored by a "
            "TableRepository"
        )
    if isinstance(handler.repository, SqlAlchemyRepository):
        assert handler.entity is not None
        raise UsageError(
            f"{where}: {handler.entity.__name__} is mapped by SQLAlchemy, which needs an SQL database: make it a "
            "dataclass, stored by a TableRepository"
        )
