"""A broker that is killed in the middle of batches and comes back: nothing lost, nothing twice, order kept.

How long it takes from the broker's answering again to the next event that takes effect is printed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import KafkaServer, RabbitMqServer
from tests.faults.server_telegraph import PATIENCE_S, ServerTelegraph

COUNT = 600


@pytest.mark.parametrize("kind", [KafkaServer, RabbitMqServer], ids=lambda kind: kind.name)
async def test_a_broker_that_is_killed_and_started_again_in_the_middle_of_batches_loses_nothing(
    tmp_path: Path,
    start: Callable[..., Any],
    kind: type[KafkaServer] | type[RabbitMqServer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = start(kind)
    telegraph = ServerTelegraph(tmp_path, server)
    async with telegraph.running(telegraph.sends, telegraph.receives) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        if isinstance(server, RabbitMqServer):
            await server.remembers_streams()
        sending = asyncio.create_task(telegraph.send(20, COUNT))
        await telegraph.until_received(world, 60)
        await asyncio.to_thread(server.kill)
        killed = time.monotonic()
        await sending  # steps commit all the while
        server.spawn()
        await server.ready()
        back = time.monotonic()
        applied = sum(map(len, (await telegraph.received()).values()))
        assert applied < COUNT, "the broker was not killed in the middle"
        await telegraph.until_received(world, applied + 1)
        now = time.monotonic()
        with capsys.disabled():
            print(
                f"\n{server.name} killed after {applied} of {COUNT} events: answering again {back - killed:.1f} s on, "
                f"the next event took effect {now - back:.1f} s after that"
            )
        assert now - back < PATIENCE_S
        await telegraph.ends_well(world, COUNT)
