"""A server that logs statements takes no step: connections of Ensue log rows, or the start says why not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import MariaDbServer
from sqlalchemy import text

from ensue.adapters import make_store
from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE
from ensue.errors import UsageError

GRANTED = "GRANT ALL ON logged.* TO logged"


@pytest.fixture
def server(mariadb_server: MariaDbServer) -> Iterator[MariaDbServer]:
    before = mariadb_server.sql("SELECT @@global.binlog_format")
    mariadb_server.drop("logged")
    mariadb_server.url("logged")
    mariadb_server.sql(f"CREATE OR REPLACE USER logged IDENTIFIED BY 'x'; {GRANTED}")
    mariadb_server.sql("SET GLOBAL binlog_format = 'STATEMENT'")
    yield mariadb_server
    mariadb_server.sql(f"SET GLOBAL binlog_format = '{before}'")


def url(server: MariaDbServer) -> str:
    return f"mariadb://logged:x@127.0.0.1:{server.port}/logged?pool_size=5"


async def test_who_may_change_it_for_a_connection_steps_on(server: MariaDbServer) -> None:
    server.sql("GRANT BINLOG ADMIN ON *.* TO logged")
    store = make_store(url(server), SERVICE)
    await store.open()
    try:
        await store.create_tables(METADATA)
        for number in range(3):  # what else a step sets is put back meanwhile
            async with store.transaction() as step:
                await step.insert_rows(ACCOUNTS, [(str(number), 1)])
                assert await step.session.scalar(text("SELECT @@binlog_format")) == "MIXED"
                await step.session.execute(text("SET SESSION lock_wait_timeout = 77"))
    finally:
        await store.close()


async def test_who_may_not_is_told_at_the_start(server: MariaDbServer) -> None:
    store = make_store(url(server), SERVICE)
    with pytest.raises(UsageError, match=r"binlog_format=STATEMENT.*set binlog_format=MIXED or ROW.*BINLOG ADMIN"):
        await store.open()


@pytest.mark.parametrize("how", ["MIXED", "ROW"])
async def test_a_server_that_logs_rows_needs_no_privilege(server: MariaDbServer, how: str) -> None:
    server.sql(f"SET GLOBAL binlog_format = '{how}'")
    store = make_store(url(server), SERVICE)
    await store.open()
    try:
        async with store.transaction() as step:
            assert await step.session.scalar(text("SELECT @@binlog_format")) == how
    finally:
        await store.close()
