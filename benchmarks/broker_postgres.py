"""asyncpg alone: one INSERT of unnested arrays a batch, by one writer who knows the offsets; ranges read by SELECT."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from servers import PostgresServer

from benchmarks.brokers import BATCH, SOURCE, Batch


class server(PostgresServer):  # the name that benchmarks.brokers asks for
    """A server that syncs what it commits."""

    def __init__(self) -> None:
        super().__init__(durable=True)


_INSERT = """INSERT INTO ensue_log.records
    (partition_id, "offset", position, previous, appended_at, key, source, envelope, data)
    SELECT id, nth, position, previous, now(), key, $1, envelope, data
    FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[])
    AS r (id, nth, position, previous, key, envelope, data)"""
_SELECT = """SELECT "offset", position, previous, key, source, envelope, data FROM ensue_log.records
    WHERE partition_id = $1 AND "offset" > $2 ORDER BY "offset" LIMIT $3"""


class Raw:
    """See benchmarks.brokers.RawSide."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection[asyncpg.Record] = self._runner.run(asyncpg.connect(url))

    def ready(self, batches: Sequence[Batch]) -> Sequence[list[list[Any]]]:
        """Columns, with partition numbers where the ids will be."""
        made: list[list[list[Any]]] = []
        offsets: dict[int, int] = {}
        for batch in batches:
            columns: list[list[Any]] = [[] for _ in range(7)]
            for (_, number), records in batch.items():
                for record in records:
                    offsets[number] = offsets.get(number, 0) + 1
                    row = (number, offsets[number], record.position, record.previous, record.key.encode(),
                           record.envelope, record.data)  # fmt: skip
                    for column, value in zip(columns, row, strict=True):
                        column.append(value)
            made.append(columns)
        return made

    def append(self, topic: str, batches: Sequence[list[list[Any]]]) -> None:
        async def go() -> None:
            ids = await self._ids(topic)
            for numbers, *columns in batches:
                await self._connection.execute(_INSERT, SOURCE.encode(), [ids[each] for each in numbers], *columns)

        self._runner.run(go())

    def read(self, topic: str, partitions: int, records: int) -> None:
        async def go() -> None:
            found = 0
            for partition_id in (await self._ids(topic))[:partitions]:
                after = 0
                while rows := await self._connection.fetch(_SELECT, partition_id, after, BATCH):
                    after = rows[-1][0]
                    found += sum(len(row[6]) > 0 and len(row[5]) > 0 for row in rows)
            if found != records:
                raise RuntimeError(f"read {found} records of {topic}, expected {records}")

        self._runner.run(go())

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    async def _ids(self, topic: str) -> list[int]:
        rows = await self._connection.fetch(
            "SELECT id FROM ensue_log.partitions WHERE topic = $1 ORDER BY number", topic
        )
        return [row[0] for row in rows]
