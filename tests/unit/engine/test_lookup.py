"""Looking something up in the log brings all between two offsets, and never much of it into memory at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ensue.brokers.memory import MemoryBroker, MemoryReader
from ensue.engine.lookup import each_between
from ensue.message import Garbage, Message, OutboxRecord


async def test_what_is_looked_up_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = MemoryReader.read

    async def noting(self: MemoryReader, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        asked.append(limit)
        return await read(self, limit, wait_s)

    monkeypatch.setattr(MemoryReader, "read", noting)
    broker = MemoryBroker()
    await broker.open()
    await broker.ensure_topic("orders", 1)
    records = [OutboxRecord("orders", 0, "a", b'{"id":"a","type":"t"}', b"", n, n - 1) for n in range(1, 1_301)]
    await broker.append("orders", 0, "s/e", records)
    found = [each.offset async for each in each_between(broker, "orders", 0, 10, 1_250)]
    assert found == list(range(11, 1_251))
    assert max(asked) <= 500
    await broker.close()
