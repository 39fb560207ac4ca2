"""The suite rejects the obvious orders in which a concurrent outbox must not be read, by the test that is meant to."""

from __future__ import annotations

from typing import cast

import pytest
from servers import PostgresServer
from tests.conformance_mutants import concurrent as broken
from tests.conformance_mutants.running import run
from tests.conformance_mutants.stores import WrappedStore

from ensue.conformance.store import SERVICE
from ensue.conformance.store_concurrent import Concurrent
from ensue.ports import Capabilities, Store
from ensue.stores.postgres import PostgresStore

REJECTED_BY: dict[type[WrappedStore], str] = {
    broken.ReadsBySequence: "test_a_late_commit_is_read_after_what_was_read_before_it",
    broken.WaitsForHoles: "test_what_was_undone_leaves_no_hole_that_anybody_waits_for",
    broken.ReadsByTransaction: "test_events_of_one_entity_are_in_commit_order_whoever_began_first",
    broken.WaitsForOpenTransactions: "test_a_transaction_that_is_held_open_delays_nobody",
}
DATABASE = "rejects"
EMPTY = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"


class Suite(Concurrent):
    capabilities = Capabilities(concurrent_writers=True)

    def __init__(self, fault: type[WrappedStore], url: str) -> None:
        self.fault = fault
        self.url = url

    async def make_store(self) -> Store:
        return cast(Store, self.fault(PostgresStore(self.url, SERVICE)))


@pytest.mark.parametrize("fault", REJECTED_BY, ids=lambda fault: fault.__name__)
async def test_a_broken_order_is_rejected_and_a_healthy_one_accepted(
    fault: type[WrappedStore], postgres_server: PostgresServer
) -> None:
    name = REJECTED_BY[fault]
    url = postgres_server.url(DATABASE)
    postgres_server.psql(DATABASE, EMPTY)
    await run(Suite(WrappedStore, url), name)
    postgres_server.psql(DATABASE, EMPTY)
    with pytest.raises(AssertionError):
        await run(Suite(fault, url), name)
