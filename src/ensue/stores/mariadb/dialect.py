"""MariaDB's SQL. Statements are as MySQL takes them too, but what binds rows in bulk falls back to one by one there."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from ensue.errors import UsageError, causes
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.mariadb import failures
from ensue.stores.mariadb.rows import CATALOG, COLUMNS, Statements, chunks
from ensue.stores.mariadb.warnings import warnings
from ensue.stores.numbering import Place, number
from ensue.stores.sql.bulk import Bulk
from ensue.stores.sql.link import Link

ADD = "INSERT INTO ensue_outbox (topic, partition_no, record_key, envelope, data, written_at) VALUES "
_ADD_ROW = "(%s, %s, %s, %s, %s, %s)"
UNSTAMPED = (
    "SELECT id, topic, partition_no, record_key, envelope, data FROM ensue_outbox WHERE position IS NULL "
    "ORDER BY id LIMIT %s"
)
HEADS = "SELECT topic, partition_no, position FROM ensue_outbox_head"
COUNT = "UPDATE ensue_counter SET last_position = %s"
# Every row is there already and only changes: an UPDATE with a join would read, and wait for, what others write.
_STAMP = (
    "INSERT INTO ensue_outbox (id, topic, partition_no, record_key, envelope, data, written_at, position, previous) "
    "VALUES {rows} ON DUPLICATE KEY UPDATE position = VALUES(position), previous = VALUES(previous)"
)
_STAMP_ROW = "(%s, '', 0, '', '', '', 0, %s, %s)"
_HEADS = (
    "INSERT INTO ensue_outbox_head (topic, partition_no, position) VALUES {rows} "
    "ON DUPLICATE KEY UPDATE position = VALUES(position)"
)
_CHUNK = 500


class MariaDbDialect(Bulk[Statements, str]):
    types: Mapping[str, str] = {
        "name": "VARCHAR(191)",
        "text": "LONGTEXT",
        "bytes": "LONGBLOB",
        "int": "BIGINT",
        "float": "DOUBLE",
        "begin": "IF NOT EXISTS ",
        # Names are compared byte by byte, as everywhere else.
        "end": " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
    }
    inline_indexes = True
    outbox_tables: Sequence[str] = (
        # The index holds what has no position first, in id order.
        """CREATE TABLE {begin}ensue_outbox (
            id BIGINT AUTO_INCREMENT PRIMARY KEY,
            topic {name} NOT NULL,
            partition_no INTEGER NOT NULL,
            record_key LONGTEXT NOT NULL,
            envelope LONGBLOB NOT NULL,
            data LONGBLOB NOT NULL,
            position BIGINT,
            previous BIGINT NOT NULL DEFAULT 0,
            written_at DOUBLE NOT NULL,
            INDEX ensue_outbox_position (position)
        ){end}""",
    )
    outbox_rights: Mapping[str, str] = {"ensue_outbox": "SELECT, INSERT, UPDATE, DELETE"}
    exists = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'"
    clock = "SELECT UNIX_TIMESTAMP(SYSDATE(6))"
    read_only = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY"
    # It tells a user with few rights not whether a database is there; the place of a view's next version is one.
    no_database: frozenset[object] = frozenset({1044, 1049})
    catalog = CATALOG

    def text(self, statement: str) -> str:
        return _text(statement)

    async def prune(
        self, link: Link, table: str, key: str, time: str, before_s: float, limit: int, through: int | None = None
    ) -> int:
        """By a read without locks and then by id: a DELETE that looks for its rows waits for those of others."""
        column = "id" if table == "ensue_outbox" else key
        where, values = ("", ()) if through is None else (f"WHERE {key} <= %s AND {key} IS NOT NULL", (through,))
        text = f"SELECT {column}, {time} FROM {table} {where} ORDER BY {key} LIMIT %s"
        old = [row_id for row_id, then in await link.fetch(text, *values, limit) if then < before_s]
        count = 0
        for begin in range(0, len(old), _CHUNK):
            chunk = old[begin : begin + _CHUNK]
            wanted = ", ".join(["%s"] * len(chunk))
            count += await link.execute(f"DELETE FROM {table} WHERE {column} IN ({wanted})", *chunk)
        return count

    def refused_write(self, error: BaseException) -> UsageError | None:
        refused = any(failures.code_of(each) == failures.READ_ONLY for each in causes(error))
        return rules.writes_nothing() if refused else None

    def denied(self, error: BaseException) -> bool:
        return any(failures.code_of(each) in failures.DENIED_TABLE for each in causes(error))

    async def warnings(self, link: Link) -> Sequence[str]:
        return await warnings(link)

    # --- the outbox

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        rows = [(each.topic, each.partition, each.key, each.envelope, each.data, now) for each in records]
        for chunk in chunks(rows):
            await link.execute(ADD + ", ".join([_ADD_ROW] * len(chunk)), *[value for row in chunk for value in row])

    async def stamp(self, link: Link, last: int, limit: int) -> list[OutboxRecord]:
        """In Python, since only reads without locks wait for nobody: the rows are read, then changed by their ids."""
        rows = await link.fetch(UNSTAMPED, limit)
        if not rows:
            return []
        heads = {(str(topic), int(partition)): int(each) for topic, partition, each in await link.fetch(HEADS)}
        records = [OutboxRecord(*row[1:]) for row in rows]
        moved: dict[Place, int] = {}
        number(records, last, heads, moved)
        stamps = [
            value for row, each in zip(rows, records, strict=True) for value in (row[0], each.position, each.previous)
        ]
        for begin in range(0, len(records), _CHUNK):
            part = stamps[3 * begin : 3 * (begin + _CHUNK)]
            await link.execute(_STAMP.format(rows=", ".join([_STAMP_ROW] * (len(part) // 3))), *part)
        flat = [value for place, position in moved.items() for value in (*place, position)]
        await link.execute(_HEADS.format(rows=", ".join(["(%s, %s, %s)"] * len(moved))), *flat)
        await link.execute(COUNT, records[-1].position)
        return records

    # --- in bulk

    async def kinds(self, link: Link, table: Table) -> Mapping[str, str]:
        return {str(name): str(kind).lower() for name, kind in await link.fetch(COLUMNS, table.name)}

    def statements(self, table: Table, kinds: Sequence[str]) -> Statements:
        return Statements(table, kinds)

    async def insert_rows(self, link: Link, table: Table, rows: Sequence[Row]) -> None:
        try:
            await (await self.of(link, table)).insert(link, rows)
        except Exception as error:
            if table.own and failures.code_of(error) == failures.DUPLICATE:
                raise rules.row_exists(table.name, [row[0] for row in rows]) from error
            raise


@functools.cache
def _text(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")
