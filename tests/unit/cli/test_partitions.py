"""`ensue partitions`: one that is paused is left alone by all workers, one that is released is given up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import LEDGER, LIMIT_S, Ended, applied, books_of, work_until
from tests.unit.cli.services import ledger, till

from ensue.chain import partition_of
from ensue.engine.books import Books
from ensue.engine.runtime import Runtime
from ensue.message import LeaseTable, Partition

Command = Callable[..., Ended]


async def until(books: Books, holds: Callable[[LeaseTable], bool]) -> LeaseTable:
    async with asyncio.timeout(LIMIT_S):
        while not holds(table := await books.leases()):  # noqa: ASYNC110  # a heartbeat of others tells nobody
            await asyncio.sleep(0.02)
        return table


async def heartbeat(books: Books) -> None:
    """Return when a worker has put off the end of its leases: until then it comes nearer from look to look."""
    nearest = math.inf
    async with asyncio.timeout(LIMIT_S):
        while (now := max(each.expires_in_s for each in (await books.leases()).leases)) <= nearest:
            nearest = now
            await asyncio.sleep(0.01)


def held(table: LeaseTable) -> dict[str, str]:
    return {each.name: each.owner for each in table.leases if each.name != "relay"}


def of_ann_and_bob(count: int) -> list[tuple[str, int]]:
    """In each of the two partitions as many."""
    return [(name, number) for number in range(count) for name in ("ann", "eve")]


async def offsets() -> dict[int, int]:
    async with books_of(ledger) as (_, books):
        found = await books.checkpoints()
    return {number: each.counters.applied for (_, _, number), each in found.items()}


@pytest.fixture(autouse=True)
def quick(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_LEASE_TTL_S", "0.6")


async def _work_until_applied(count: int) -> None:
    async def enough() -> bool:
        return await applied() >= count

    await work_until(enough, till, ledger)


def test_the_two_keys_are_in_two_partitions() -> None:
    assert {partition_of(name, 2) for name in ("ann", "eve")} == {0, 1}


async def test_a_running_worker_gives_up_what_is_paused_and_takes_it_back_when_it_is_resumed(
    ensue: Command, sell: Callable[..., None]
) -> None:
    async with ledger.running() as runtime, books_of(ledger) as (_, books):
        await runtime.ready()
        await until(books, lambda table: len(held(table)) == 2)
        ended = await asyncio.to_thread(ensue, "partitions", "pause", LEDGER, "sales/0", "--reason", "partner is down")
        assert "partition sales/0: paused as soon as" in ended.out
        assert "what comes waits in the log" in ended.out
        table = await until(books, lambda table: "sales/0" not in held(table))
        assert table.paused == ("sales/0",)
        assert "sales/1" in held(table)
        for _ in range(3):  # heartbeats
            await heartbeat(books)
        assert "sales/0" not in held(await books.leases()), "nobody takes it"
        [status] = (await asyncio.to_thread(ensue, "status", LEDGER, "--json")).json["services"]
        assert status["paused"] == ["sales/0"]
        assert "paused   sales/0" in (await asyncio.to_thread(ensue, "status", LEDGER)).out
        ended = await asyncio.to_thread(ensue, "partitions", "resume", LEDGER, "sales/0")
        assert ended.code == 0
        await until(books, lambda table: len(held(table)) == 2)
    found = (await asyncio.to_thread(ensue, "decisions", "list", LEDGER, "--json")).json["decisions"]
    assert [(each["action"], each["target"]) for each in found] == [
        ("partitions pause", "sales/0"),
        ("partitions resume", "sales/0"),
    ]
    assert (found[0]["before"]["paused"], found[0]["after"]["paused"]) == (False, True)
    assert found[0]["before"]["worker"]


async def test_what_comes_to_a_paused_partition_waits_also_after_a_restart_and_is_not_lost(
    ensue: Command, sell: Callable[..., None], home: Path
) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    assert (await asyncio.to_thread(ensue, "partitions", "pause", LEDGER, "sales/0")).code == 0
    await asyncio.to_thread(sell, *of_ann_and_bob(3))
    await _work_until_applied(3)
    assert (await offsets()).get(0, 0) == 0
    assert (await offsets())[1] == 3
    await asyncio.to_thread(ensue, "partitions", "resume", LEDGER, "sales/0")
    await _work_until_applied(6)
    assert await offsets() == {0: 3, 1: 3}


async def test_a_released_partition_is_given_up_and_taken_again(ensue: Command) -> None:
    async with ledger.running() as runtime, books_of(ledger) as (_, books):
        await runtime.ready()
        await until(books, lambda table: len(held(table)) == 2)
        before = _loop(runtime)
        ended = await asyncio.to_thread(ensue, "partitions", "release", LEDGER, "sales/0")
        assert "gives it up as soon as it has finished what it is at" in ended.out
        async with asyncio.timeout(LIMIT_S):
            while _loop(runtime) in (before, None):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        table = await until(books, lambda table: len(held(table)) == 2)
        assert table.released == ()


def _loop(runtime: Runtime) -> Any:
    assert runtime.worker is not None
    place = Partition("ledger", "sales", 0)
    return next((each for each in runtime.worker.loops.consumers if each.partition == place), None)


@pytest.mark.parametrize(
    ("command", "partition", "said"),
    [
        ("pause", "sales", "'sales' is no partition: expected TOPIC/N, such as orders/0"),
        ("pause", "sales/2", "ledger does not read partition sales/2; it reads sales/0 to sales/1"),
        ("pause", "orders/0", "ledger does not read partition orders/0"),
        ("resume", "sales/1", "partition sales/1 is not paused; paused: none"),
        ("release", "sales/1", "nobody has partition sales/1, so there is nothing to release"),
    ],
)
def test_what_would_be_in_vain_is_refused_and_is_no_decision(
    ensue: Command, command: str, partition: str, said: str
) -> None:
    ensue("db", "init", LEDGER)
    ended = ensue("partitions", command, LEDGER, partition)
    assert (ended.code, said in ended.err) == (1, True), ended
    decisions = ensue("decisions", "list", LEDGER, "--json").json["decisions"]
    assert [each["action"] for each in decisions] == ["db init"]
    assert ensue("partitions", "pause", LEDGER, "sales/0").code == 0
    assert "sales/0 is paused already" in ensue("partitions", "pause", LEDGER, "sales/0").err
