"""The Broker suite against a real PostgreSQL, straight and behind PgBouncer."""

from __future__ import annotations

import uuid

import pytest
from servers import PgBouncer, PostgresServer

from ensue.brokers.postgres import PostgresBroker
from ensue.conformance.broker import BrokerConformance
from ensue.ports import Broker


class TestPostgresBroker(BrokerConformance):
    capabilities = PostgresBroker.capabilities

    @pytest.fixture(autouse=True)
    def _log(self, postgres_server: PostgresServer) -> None:
        self.schema = f"log_{uuid.uuid4().hex}"
        self.server = postgres_server
        self.url = f"{postgres_server.url()}?schema={self.schema}"

    async def make_broker(self) -> Broker:
        return PostgresBroker(self.url)

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        self.server.psql(
            "postgres",
            f"""WITH taken AS (
                UPDATE {self.schema}.partitions SET last_offset = last_offset + 1
                WHERE topic = '{topic}' AND number = {partition} RETURNING id, last_offset)
            INSERT INTO {self.schema}.records SELECT id, last_offset, 0, 0, now(), '\\xff', 'me', 'no envelope', 'data'
            FROM taken""",
        )


class TestPostgresBrokerBehindPgBouncer(TestPostgresBroker):
    @pytest.fixture(autouse=True)
    def _log(self, postgres_server: PostgresServer, pgbouncer_server: PgBouncer) -> None:
        self.schema = f"log_{uuid.uuid4().hex}"
        self.server = postgres_server
        self.url = f"{pgbouncer_server.url()}?schema={self.schema}&pgbouncer=1"
