"""The bare side's log in PostgreSQL itself: a table on the same server, by asyncpg, read by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks.engines.wire import Read, Sent

_TABLE = (
    "CREATE TABLE IF NOT EXISTS {name} (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, record_key TEXT NOT NULL, "
    "body BYTEA NOT NULL, appended_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())"
)
_APPEND = "INSERT INTO {name} (record_key, body) SELECT * FROM unnest($1::text[], $2::bytea[])"
_READ = "SELECT id, body FROM transfers WHERE id > $1 ORDER BY id LIMIT $2"
_CHUNK = 1000


class BareTable:
    """Ids are in the order of the commits, since there is one writer."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._after = 0

    @classmethod
    async def open(cls, url: str) -> BareTable:
        log = cls(await asyncpg.connect(url), await asyncpg.connect(url))
        for name in ("transfers", "accounts"):
            await log._writer.execute(_TABLE.format(name=name))
        return log

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def fill(self, records: Sequence[Sent]) -> None:
        for at in range(0, len(records), _CHUNK):
            await self._add("transfers", records[at : at + _CHUNK])

    async def begin(self) -> None:
        self._after = 0

    async def read(self, limit: int) -> Sequence[Read]:
        rows = await self._reader.fetch(_READ, self._after, limit)
        self._after = rows[-1][0]
        return [(row[0], row[1]) for row in rows]

    async def append(self, records: Sequence[Sent]) -> None:
        await self._add("accounts", records)

    async def _add(self, name: str, records: Sequence[Sent]) -> None:
        await self._writer.execute(
            _APPEND.format(name=name), [key for key, _ in records], [body for _, body in records]
        )
