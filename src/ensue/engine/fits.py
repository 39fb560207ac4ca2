"""Whether a service's declaration fits what its store and its topics can do: refused at start, with what to write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ensue.definition import ServiceDefinition
from ensue.errors import UsageError
from ensue.handler import Handler
from ensue.mapped import SqlAlchemyRepository
from ensue.ports import Capabilities, Store, TopicTerms
from ensue.repository import TableRepository

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table


def check_fits(definition: ServiceDefinition, capabilities: Capabilities) -> None:
    """Raise UsageError for the first thing that would fail with each message later."""
    name = definition.name
    if definition.recurring and not (capabilities.transactions and capabilities.publishes):
        raise UsageError(
            f"service {name} has recurring steps ({', '.join(definition.recurring)}), and its database cannot keep the "
            "next run together with the effects of the last: SQLite, PostgreSQL and MariaDB can. Give it another one, "
            "or move the steps into a service of their own"
        )
    if definition.publishes and not capabilities.publishes:
        events = ", ".join(cls.__name__ for cls in definition.publishes)
        raise UsageError(
            f"service {name} publishes {events}, and its database is a store for views, which has no outbox: "
            f"give {name} another one (e.g. postgresql://), or move what publishes into a service of its own"
        )
    kept = capabilities.transactions and capabilities.publishes
    if definition.sagas and not kept:
        raise UsageError(
            f"service {name} has sagas ({', '.join(dict.fromkeys(each for each, _ in definition.sagas))}), and its "
            "database cannot keep what they wait for together with everything else of a step. SQLite, PostgreSQL and "
            "MariaDB can"
        )
    if definition.aggregates and not kept:
        classes = ", ".join(each.__name__ for each in definition.aggregates)
        raise UsageError(
            f"service {name} has event-sourced aggregates ({classes}), and its database cannot append to a stream "
            "together with everything else of a step. SQLite, PostgreSQL and MariaDB can"
        )
    commands = [each[0].event.cls.__name__ for each in definition.handlers.values() if each[0].command is not None]
    if not kept and (commands or definition.calls):
        does, which = ("handles", commands) if commands else ("calls", [each.__name__ for each in definition.calls])
        raise UsageError(
            f"service {name} {does} {', '.join(which)}, and its database cannot write the answer to a command together "
            "with everything else of a step. SQLite, PostgreSQL and MariaDB can"
        )
    for topic in sorted(definition.prunes):
        if topic not in definition.subscribed_topics:
            raise UsageError(
                f"service {name} prunes the topic {topic!r}, which none of its handlers reads (they read "
                f"{', '.join(definition.subscribed_topics) or 'nothing'}): a topic is pruned by whoever publishes to "
                "it or, where only other applications do, by one who reads it"
            )
    for handlers in definition.handlers.values():
        for handler in handlers:
            where = f"service {name}, {handler.where}"
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


def check_kept(topic: str, terms: TopicTerms | None, retention_s: float) -> None:
    """Raise UsageError when the log of a topic deletes records that a subscriber may count on."""
    if terms is None:
        return
    lost = terms.drops
    if terms.keeps_s is not None and terms.keeps_s < retention_s:
        lost = f"after {terms.keeps_s:g} s, before Ensue's retention of {retention_s:g} s ends"
    if lost:
        raise UsageError(
            f"the broker deletes records of topic {topic} {lost}: a subscriber that is away meanwhile would lose them. "
            f"Set {terms.todo}",
            topic=topic,
        )


async def check_entity_tables(definition: ServiceDefinition, store: Store, known: MetaData | None) -> None:
    """Raise UsageError when the database lacks what handlers' entities are stored in: each event would fail later.

    known: tables that are there for certain. The store has sessions.
    """
    needed: dict[Table, str] = {}
    for handler in definition.all_handlers:
        if handler.entity is not None:
            where = f"{handler.where} ({handler.entity.__name__})"
            for table in getattr(handler.repository, "tables", ()):
                if known is None or table.metadata is not known:
                    needed.setdefault(table, where)
    if not needed or not (lacking := await store.create_tables(_outline(needed), dry_run=True)):
        return
    wanting = [
        where
        for table, where in needed.items()
        if any(each == f"table {table.fullname}" or each.startswith(f"column {table.fullname}.") for each in lacking)
    ]
    raise UsageError(
        f"the database of service {definition.name} lacks {', '.join(lacking)}, needed by "
        f"{', '.join(dict.fromkeys(wanting))}: run your migration (e.g. alembic), or have missing tables created at "
        f"start, Service({definition.name!r}, tables=Base.metadata); missing columns want a migration"
    )


def _outline(tables: Iterable[Table]) -> MetaData:
    """The same tables and columns with no keys to tables beyond them, which need not be there."""
    from sqlalchemy import Column, MetaData, Table

    outline = MetaData()
    for table in tables:
        columns = [Column(each.name, each.type) for each in table.columns]
        Table(table.name, outline, *columns, schema=table.schema)
    return outline
