"""Each side of the comparison with other libraries does its work for a few events; how fast, no test asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from benchmarks.peers import event_sourced, workflows
from benchmarks.peers.compare import QUICK
from benchmarks.peers.measures import measure
from benchmarks.peers.sides import EVENT_SOURCED, NAMES, WORKFLOWS, describe, missing
from servers import NatsServer, PostgresServer


@pytest.mark.parametrize("name", NAMES)
async def test_each_side_lets_every_order_take_effect_once(
    name: str, postgres_server: PostgresServer, start: Callable[..., Any]
) -> None:
    if lacking := missing([name]):
        pytest.skip(lacking)
    about = await describe(name)
    assert about.guarantee
    # A NATS of its own: the benchmark deletes all streams that it finds. `measure` makes sure that the consumer's
    # database holds what was placed, once.
    found = await measure(name, about.backlog, postgres_server, start(NatsServer), QUICK)
    assert found.drained > 0
    assert found.drain_us > 0
    assert 0 < found.p50_ms <= found.p99_ms


@pytest.mark.parametrize("name", WORKFLOWS)
async def test_each_side_does_both_steps_of_every_workflow_once(
    name: str, postgres_server: PostgresServer, start: Callable[..., Any]
) -> None:
    if lacking := missing([name]):
        pytest.skip(lacking)
    about = await describe(name)
    found = await workflows.measure(name, about.backlog, postgres_server, start(NatsServer), workflows.QUICK)
    assert found.rate > 0
    assert 0 < found.p50_ms <= found.p99_ms


@pytest.mark.parametrize("name", EVENT_SOURCED)
async def test_each_side_lets_every_event_sourced_order_take_effect_once(
    name: str, postgres_server: PostgresServer, start: Callable[..., Any]
) -> None:
    if lacking := missing([name]):
        pytest.skip(lacking)
    about = await describe(name)
    found = await event_sourced.measure(name, about.backlog, postgres_server, start(NatsServer), event_sourced.QUICK)
    assert found.batches > 0
    assert found.singles > 0
    assert 0 < found.p50_ms <= found.p99_ms
