"""A system moves from the embedded log to a server's while records are unread: they come from the outbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.server_telegraph import PATIENCE_S, TOTAL, ServerTelegraph

from ensue.adapters import make_broker
from ensue.ports import Broker

UNREAD = 40
SERVERS = ("nats_server", "redis_server", "rabbitmq_server", "kafka_server")


class Moving(ServerTelegraph):
    """On the embedded log, until `moved`."""

    moved = False

    def log_broker(self) -> Broker:
        if self.moved:
            return super().log_broker()
        return make_broker(f"sqlite:///{self.directory}/log.db?synchronous=OFF")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("server", SERVERS)
async def test_unread_records_come_along(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    telegraph = Moving(tmp_path, request.getfixturevalue(server))
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, TOTAL - UNREAD)
        await telegraph.until_received(world, TOTAL - UNREAD)
        await world.settle(PATIENCE_S)
    async with telegraph.running(telegraph.sends) as world:
        await telegraph.send(TOTAL - UNREAD, TOTAL)
        await world.settle(PATIENCE_S)
    telegraph.moved = True
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.ends_well(world)
