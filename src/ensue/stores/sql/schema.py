"""Ensue's own tables in a service's database, and the store's identity in them.

Column names avoid the words that SQL databases reserve (`partition`, `key`, `offset`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from ensue import tables
from ensue.ports import Table
from ensue.stores import rules
from ensue.stores.identity import Identity, check_tables, new_epoch_name
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link
from ensue.stores.sql.pool import Pool
from ensue.stores.tables import creating

VERSION = tables.VERSION

#: Filled with the dialect's `types`.
_TABLES = (
    # Who this store is. outbox_mode: how positions are found.
    """CREATE TABLE {begin}ensue_meta (
        one SMALLINT PRIMARY KEY CHECK (one = 1),
        schema_version INTEGER NOT NULL,
        service {name} NOT NULL,
        outbox_mode {name} NOT NULL
    ){end}""",
    # The last position given out. Its row lock is what keeps two relays from stamping at once.
    # published_from: records at or below it belong to an earlier epoch and are never sent again.
    """CREATE TABLE {begin}ensue_counter (
        one SMALLINT PRIMARY KEY CHECK (one = 1),
        last_position BIGINT NOT NULL,
        epoch {name} NOT NULL,
        published_from BIGINT NOT NULL
    ){end}""",
    # The last position of each partition: what the next record's `previous` will be. Survives pruning.
    """CREATE TABLE {begin}ensue_outbox_head (
        topic {name} NOT NULL,
        partition_no INTEGER NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (topic, partition_no)
    ){end}""",
)


#: Each right, used on no row.
_USING = {
    "SELECT": "SELECT 1 FROM {table} WHERE 1 = 0",
    "INSERT": "INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0",
    "UPDATE": "UPDATE {table} SET {column} = {column} WHERE 1 = 0",
    "DELETE": "DELETE FROM {table} WHERE 1 = 0",
}
#: A column of those tables that have no `id`.
_COLUMNS = {"ensue_outbox_head": "topic"} | dict.fromkeys(("ensue_counter", "ensue_polled", "ensue_tail"), "one")
#: Through which position the present source's records are known to be in the log: see `ensue.tables.RELAY`.
RELAYED = (
    "(SELECT coalesce(max(r.position), 0) FROM ensue_relay r, ensue_meta m, ensue_counter c "
    "WHERE r.id = concat(m.service, '/', c.epoch))"
)


def statements(dialect: Dialect) -> Sequence[str]:
    """What creates Ensue's tables, the outbox's among them, without the first rows."""
    own = [_creating(table, dialect) for table in tables.TABLES]
    texts = [text.format_map(dialect.types) for text in (*_TABLES, *dialect.outbox_tables)]
    return [*texts, *(statement for each in own for statement in each)]


def first_rows(service: str, mode: str, epoch: str) -> Sequence[str]:
    """What fills new tables. epoch: an SQL expression."""
    name = service.replace("'", "''")
    return [
        f"INSERT INTO ensue_counter VALUES (1, 0, {epoch}, 0)",
        # Last: where tables cannot be made in a transaction, this row says that all the others are there.
        f"INSERT INTO ensue_meta VALUES (1, {VERSION}, '{name}', '{mode}')",
    ]


async def exists(link: Link, dialect: Dialect) -> bool:
    """Whether the tables are there and filled, of whatever version."""
    if not await has(link, dialect, "ensue_meta"):
        return False
    return bool(await link.fetch("SELECT 1 FROM ensue_meta"))


async def has(link: Link, dialect: Dialect, table: str) -> bool:
    """Whether one of Ensue's own tables is there."""
    [(there,)] = await link.fetch(dialect.exists.format(table=table))
    return bool(there)


async def make(link: Link, dialect: Dialect, own: Sequence[Table]) -> None:
    """Make those tables that are not there, inside what keeps other processes from doing so at once."""
    for table in own:
        if not await has(link, dialect, table.name):
            for text in _creating(table, dialect):
                await link.script(text)


def _creating(table: Table, dialect: Dialect) -> Sequence[str]:
    return creating(table, dialect.types, inline=dialect.inline_indexes)


async def create(link: Link, dialect: Dialect, service: str, mode: str) -> None:
    """Create the tables and their first rows, inside what keeps other processes from doing so at once."""
    for text in (*statements(dialect), *first_rows(service, mode, f"'{new_epoch_name()}'")):
        await link.script(text)


async def check(link: Link, service: str) -> str:
    """Return the outbox's mode. Raises StoreOutdated for tables of another version, UsageError for another's store."""
    [(found, owner, mode)] = await link.fetch("SELECT schema_version, service, outbox_mode FROM ensue_meta")
    check_tables(link.place, found, owner, service, "another database, or another schema (?schema=) in this one")
    return str(mode)


def rights(dialect: Dialect) -> Mapping[str, str]:
    """What a service needs, table by table, which does not make its tables itself."""
    return {
        "ensue_meta": "SELECT",
        "ensue_counter": "SELECT, UPDATE",
        "ensue_outbox_head": "SELECT, INSERT, UPDATE, DELETE",
        **dialect.outbox_rights,
        **dict.fromkeys((each.name for each in tables.TABLES), "SELECT, INSERT, UPDATE, DELETE"),
    }


async def lacking(pool: Pool, dialect: Dialect) -> Sequence[str]:
    """Return which of `rights` the user has not: found by using each of them on no row."""
    missing: list[str] = []
    for table, needed in rights(dialect).items():
        for right in needed.split(", "):
            text = _USING[right].format(table=table, column=_COLUMNS.get(table, "id"))
            try:
                await pool.run(partial(Link.script, text=text))
            except Exception as error:
                if dialect.denied(error):
                    missing.append(f"{right} on {table}")
                elif await pool.read(partial(has, dialect=dialect, table=table)):
                    raise
                # Else it comes with the upgrade.
                if right == "SELECT":
                    break  # without it, the others are refused whether they are there or not
    return missing


async def identity(link: Link, service: str) -> Identity:
    [(epoch, published_from)] = await link.fetch("SELECT epoch, published_from FROM ensue_counter")
    return Identity(service, str(epoch), int(published_from))


async def take_over(
    link: Link, dialect: Dialect, source: str, position: int, heads: Mapping[tuple[str, int], int]
) -> None:
    """See `Successor`; in the caller's transaction."""
    [(last,)] = await link.fetch("SELECT last_position FROM ensue_counter FOR UPDATE")
    if last or await link.fetch("SELECT 1 FROM ensue_outbox LIMIT 1"):
        raise rules.has_history(link.place)
    epoch = source.rpartition("/")[2]
    await link.execute(
        dialect.text("UPDATE ensue_counter SET epoch = ?, published_from = 0, last_position = ?"), epoch, position
    )
    insert = dialect.text("INSERT INTO ensue_outbox_head (topic, partition_no, position) VALUES (?, ?, ?)")
    for place, head in heads.items():
        await link.execute(insert, *place, head)


async def clock(link: Link, dialect: Dialect) -> float:
    """The database's clock, epoch seconds; compared with this machine's on the way."""
    asked = time.time()
    [(now,)] = await link.fetch(dialect.clock)
    link.clock_offset_s = float(now) - (asked + time.time()) / 2
    return float(now)
