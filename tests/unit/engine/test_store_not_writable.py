"""A database that this user may read and not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensue import Service, UsageError
from ensue.stores.sqlite import SqliteStore


async def test_a_service_whose_store_cannot_be_written_does_not_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("bank", database=f"sqlite:///{tmp_path}/bank.db", broker=f"sqlite:///{tmp_path}/log.db")
    runtime = service.make_runtime()
    store = runtime.store
    assert isinstance(store, SqliteStore)
    await store.open()
    assert store._opened is not None
    # SQLite's own answer to a file without the right to write; the rights themselves would not keep root out
    store._opened.writer.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(UsageError, match=r"bank\.db cannot be opened or written .*Check the path, the owner"):
        async with service.running(runtime):
            pytest.fail("it started")
    assert [record for record in caplog.records if record.exc_info] == []
