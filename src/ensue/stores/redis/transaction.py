"""One step: what it read is remembered, what it writes is collected, and one script at the end applies all of it.

Optimistic: nothing is locked while a step runs. The script refuses when a row, letter, claim or checkpoint is not what
the step found, and then nothing was written. See docs/adr/0020.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ensue.errors import RowConflict, StoreConflict, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.ending import unbroken
from ensue.stores.redis import records
from ensue.stores.redis.keys import Keys, row_key
from ensue.stores.redis.packing import pack
from ensue.stores.redis.scripts import COMMIT
from ensue.stores.redis.server import Server
from ensue.stores.redis.touched import Touched

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.redis.store import RedisStore

_FIELDS_MAX = 1000
Word = bytes | str


class RedisTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`."""

    def __init__(self, store: RedisStore, server: Server, keys: Keys, *, upkeep: bool) -> None:
        self._upkeep = upkeep
        self._store = store
        self._server = server
        self._keys = keys
        self._open = False
        self._doomed: Exception | None = None
        self._now = 0.0
        self._tables: dict[str, Touched] = {}

    async def __aenter__(self) -> RedisTransaction:
        self._store.begin()
        try:
            self._now = await (self._store.begin_upkeep() if self._upkeep else self._store.now())
        except BaseException:
            self._store.end()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
        finally:
            self._open = False
            self._store.end()

    async def _commit(self) -> None:
        if self._doomed is not None:
            raise rules.cannot_commit(self._doomed) from self._doomed
        checks = [(table, list(each)) for table in self._tables.values() for each in table.checks()]
        writes = [each for table in self._tables.values() for each in table.writes()]
        if not writes:
            return
        plan = pack([[check for _, check in checks], writes])
        failed = int(await unbroken(self._server.script(COMMIT, [self._keys.meta], [plan], may_repeat=False)))
        if failed:
            table = checks[failed - 1][0].table
            raise (RowConflict if table.own else StoreConflict)(
                f"{self._server.place}: another step changed a row of {table.name} first: do this one again",
                table=table.name,
            )

    # --- sessions: there are none

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        raise records.no_sessions()

    def sync_session(self) -> Session:
        raise records.no_sessions()

    async def flush(self) -> None: ...

    # --- rows

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        touched = await self._touch(table, ids)
        rows = (touched.row(row_key(each)) for each in dict.fromkeys(ids))
        return [row for row in rows if row is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        touched, ids = await self._touch_rows(table, rows)
        for row_id, row in zip(ids, rows, strict=True):
            field = row_key(row_id)
            if touched.row(field) is not None:
                if table.own:
                    self._doom(rules.row_exists(table.name, row_id))
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row_id!r} already")
            touched.changed[field] = tuple(row)

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        touched, ids = await self._touch_rows(table, rows)
        self._check_expected(touched, ids, expect)
        found = sum(touched.row(row_key(each)) is not None for each in ids)
        if found != len(rows):
            raise rules.rows_missing(table.name, table.id_column, len(rows), found)
        for row_id, row in zip(ids, rows, strict=True):
            touched.changed[row_key(row_id)] = tuple(row)

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        touched = await self._touch(table, ids)
        self._check_expected(touched, ids, expect)
        for each in ids:
            touched.changed[row_key(each)] = None

    def _check_expected(self, touched: Touched, ids: Sequence[Any], expect: Sequence[Any]) -> None:
        """What is as expected now must be so at the commit, too: see `Touched.checks`."""
        if expect:
            table = touched.table
            at = table.columns.index(table.revision)
            rows = [touched.row(row_key(each)) for each in ids]
            same = sum(row is not None and row[at] == each for row, each in zip(rows, expect, strict=True))
            if same != len(ids):
                self._doom(rules.rows_changed(table.name, ids, same))

    def _doom(self, error: RowConflict) -> NoReturn:
        self._doomed = error
        raise error

    async def _touch_rows(self, table: Table, rows: Sequence[Row]) -> tuple[Touched, list[Any]]:
        at = table.columns.index(table.id_column)
        ids = [row[at] for row in rows]
        return await self._touch(table, ids), ids

    async def _touch(self, table: Table, ids: Sequence[Any]) -> Touched:
        """Read what is not known yet."""
        self._check_open()
        await self._store.known(table)
        touched = self._tables.get(table.name)
        if touched is None:
            touched = self._tables[table.name] = Touched(table, self._keys)
        fields = dict.fromkeys(row_key(each) for each in ids)
        missing = [field for field in fields if field not in touched.found]
        for begin in range(0, len(missing), _FIELDS_MAX):
            chunk = missing[begin : begin + _FIELDS_MAX]
            raw = await self._server.command("HMGET", touched.key, *chunk)
            touched.found.update(zip(chunk, raw, strict=True))
        return touched

    # --- the outbox: there is none

    async def outbox_add(self, records_: Sequence[OutboxRecord]) -> None:
        self._check_open()
        if records_:
            self._doomed = records.no_outbox(self._store.service)
            raise self._doomed

    def _check_open(self) -> None:
        if not self._open:
            raise rules.not_open()
