"""What the database keeps otherwise than a handler wrote it: told at start, since it is seen much later, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ensue.definition import ServiceDefinition
from ensue.mapped import SqlAlchemyRepository
from ensue.texts import logger

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table
    from sqlalchemy.ext.asyncio import AsyncSession

    from ensue.ports import Store, TopicTerms

log = logger("ensue.runtime")

#: A float has 53 binary digits; a column of up to 24 keeps seven decimal ones.
_SINGLE_BITS = 24
_ZONE = "no zone: a TypeDecorator may keep UTC, and give it back"
#: Texts that collations take for one: they ignore case, accents, spaces at the end.
_ALIKE = (("A", "a"), ("\u00e9", "e"), ("x", "x "))
#: Of the digits that databases keep of a second.
_MICROSECONDS = 6


async def warn_of_what_is_kept_otherwise(definition: ServiceDefinition, store: Store) -> None:
    """Log the columns of entities that take two ids for one, and those that keep less than their entities have.

    The store has sessions, and the tables are there.
    """
    entities = [each.repository for each in definition.all_handlers if each.entity is not None]
    tables = {table.fullname: table for each in entities for table in getattr(each, "tables", ())}
    mapped = {table.fullname for each in entities if isinstance(each, SqlAlchemyRepository) for table in each.tables}
    if not tables:
        return
    async with store.reading() as session:
        alike = await _equal_ids(session, tables.values())
        connection = await session.connection()
        less = [
            told
            for name, table in tables.items()
            for told in await connection.run_sync(_kept_less, table, name in mapped)
        ]
    if alike:
        log.warning(
            "%s: the database takes two texts for one id in %s: where events come for both, those for the second are "
            "set aside. Give the column a collation that compares byte by byte and does not pad (MariaDB: "
            "utf8mb4_nopad_bin)",
            definition.name,
            ", ".join(alike),
        )
    if less:
        log.warning(
            "%s: the database keeps less than a handler writes in %s: the next one finds another value, and which one "
            "depends on how many messages share a transaction. Give the column a type that keeps it whole",
            definition.name,
            ", ".join(less),
        )


def warn_of_a_shorter_log(definition: ServiceDefinition, topic: str, terms: TopicTerms | None) -> None:
    """Log that the broker deletes records of a topic which carries streams, or which feeds a view: these owe, and are
    owed, all of the past."""
    streams = topic in definition.stream_topics
    if not (streams or definition.is_view) or terms is None or not (terms.drops or terms.keeps_s is not None):
        return
    log.warning(
        "%s: topic %s %s, and the broker deletes its records %s: %s. Set %s",
        definition.name, topic, "carries streams of aggregates" if streams else "feeds a view",
        terms.drops or f"after {terms.keeps_s:g} s",
        "who subscribes later, or builds a view anew, misses what is gone" if streams
        else "a version that is built later is incomplete, unless the senders' outboxes, or another version's rows, "
        "have what is gone",
        terms.todo or "its retention to none",
    )  # fmt: skip


async def _equal_ids(session: AsyncSession, tables: Any) -> list[str]:
    from sqlalchemy import Enum, String, false, func, select

    keys = [column for table in tables for column in table.primary_key]
    told: list[str] = []
    for each in keys:
        if not isinstance(each.type, String) or isinstance(each.type, Enum):
            continue
        # Of no row: whatever is in the table, this compares as its column does.
        pairs = [func.coalesce(func.min(each), one) == other for one, other in _ALIKE]
        [equal] = await session.execute(select(*pairs).where(false()))
        alike = [f"{one!r} and {other!r}" for (one, other), same in zip(_ALIKE, equal, strict=True) if same]
        if alike:
            told.append(f"{each.table.fullname}.{each.name} ({', '.join(alike)})")
    return told


def _kept_less(connection: Connection, table: Table, mapped: bool) -> list[str]:
    """What the database itself says of the columns, whatever their declaration says.

    mapped: by SQLAlchemy, which leaves zones to the database; a TableRepository does not.
    """
    from sqlalchemy import DateTime, inspect

    found = inspect(connection).get_columns(table.name, schema=table.schema)
    dialect = connection.dialect.name
    told = {each["name"]: _lost(each["type"], dialect) for each in found}
    if mapped and dialect in ("sqlite", "mysql", "mariadb"):
        zoned = [each.name for each in table.columns if isinstance(each.type, DateTime) and each.type.timezone]
        told |= {name: f"{told[name]}; {_ZONE}" if told.get(name) else _ZONE for name in zoned}
    return [f"{table.fullname}.{name} ({lost})" for name, lost in told.items() if lost and name in table.columns]


def _lost(kind: Any, dialect: str) -> str:
    """What a column of this type loses; empty: nothing."""
    from sqlalchemy import REAL, DateTime, Double, Float, Time

    if dialect == "sqlite":
        return ""  # any number has eight bytes, any moment is text
    mysql = dialect in ("mysql", "mariadb")
    if isinstance(kind, Float):
        single = isinstance(kind, REAL) or (mysql and not isinstance(kind, Double))
        wide = (getattr(kind, "precision", None) or 0) > _SINGLE_BITS
        return "seven digits: sqlalchemy.Double keeps all" if single and not wide else ""
    if isinstance(kind, DateTime | Time):
        # MariaDB says how many digits of a second it keeps, and none is none; PostgreSQL says fewer than all.
        digits = (getattr(kind, "fsp", None) or 0) if mysql else getattr(kind, "precision", None)
        if digits is not None and digits < _MICROSECONDS:
            better = f"mysql.{type(kind).__name__}(fsp=6)" if mysql else "one without a precision"
            return f"{digits or 'no'} digits of a second: {better} keeps microseconds"
    return ""
