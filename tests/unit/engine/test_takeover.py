"""After a kill the next process of the service goes on at once, not when the dead one's leases have run out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, config, store_of

from ensue import Event, Service, Settings
from ensue.brokers.memory import MemoryBroker
from ensue.engine import worker
from ensue.engine.books import Books
from ensue.engine.loops import RELAY
from ensue.engine.runtime import Runtime
from ensue.engine.worker import is_gone, worker_name


class Parcel(Event, topic="parcels", key="street"):
    street: str


def post() -> Service:
    service = Service("post")

    @service.on
    def deliver(event: Parcel) -> None: ...

    return service


def name_of_a_dead_worker() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    machine, _, random = worker_name().split(":")
    return f"{machine}:{process.pid}:{random}"


def test_a_machine_of_the_same_name_does_not_bury_the_workers_of_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of_a_dead_worker()
    assert is_gone(name)
    (tmp_path / "boot_id").write_text("7a5f0c1e-0000-4000-8000-000000000000\n")
    monkeypatch.setattr(worker, "_BOOT_ID", tmp_path / "boot_id")
    assert not is_gone(name)
    assert is_gone(name_of_a_dead_worker())


async def test_a_new_worker_takes_over_from_killed_ones_before_it_says_that_it_is_ready(tmp_path: Path) -> None:
    store = store_of(tmp_path, "post")
    await store.open()
    books, names = Books(store, "post"), ["parcels/0", "parcels/1"]
    await books.heartbeat(name_of_a_dead_worker(), 3600.0, [*names, RELAY])
    await books.heartbeat(name_of_a_dead_worker(), 3600.0, [])  # killed before it got anything: it has no share
    await store.close()
    # The next heartbeat is twenty minutes away: what is not taken over now is not taken over in this test.
    settings = Settings(database="", broker="", partitions=2, engine=config(lease_ttl_s=3600.0))
    runtime = Runtime(post(), store_of(tmp_path, "post"), MemoryBroker(), settings)
    await runtime.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            await runtime.ready()
        assert runtime.worker is not None
        assert sorted(runtime.worker.loops.names) == sorted([*names, RELAY])
    finally:
        await runtime.stop()


async def test_a_lease_of_another_machine_is_taken_when_it_ends_and_not_with_the_next_heartbeat(tmp_path: Path) -> None:
    store = store_of(tmp_path, "post")
    await store.open()
    books, names = Books(store, "post"), ["parcels/0", "parcels/1"]
    await books.heartbeat("elsewhere:1:0", 0.5, [*names, RELAY])
    await store.close()
    settings = Settings(database="", broker="", partitions=2, engine=config(lease_ttl_s=3600.0))
    runtime = Runtime(post(), store_of(tmp_path, "post"), MemoryBroker(), settings)
    await runtime.start()
    try:
        async with asyncio.timeout(LIMIT_S):  # the next heartbeat is twenty minutes away
            await runtime.ready()
            assert runtime.worker is not None
            while sorted(runtime.worker.loops.names) != sorted([*names, RELAY]):  # noqa: ASYNC110  # leases have no event
                await asyncio.sleep(0.01)
    finally:
        await runtime.stop()
