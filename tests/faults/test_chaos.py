"""Whole processes killed and stopped at random under load: whatever the moment, every promise holds in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.faults.ring_checks import broken_promises, counts, query
from tests.faults.ring_child import Orders, start

from ensue.engine.leases import Held

LIMIT_S = 60.0


class Crew:
    """Named processes of one ring."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.orders: dict[str, Orders] = {}
        self.processes: dict[str, BaseProcess] = {}

    def start(self, name: str, *services: str, total: int = 0, **more: Any) -> BaseProcess:
        self.orders[name] = Orders(
            directory=self.directory, services=services, total=total, serve=True, log=f"{name}.log", **more
        )
        return self.again(name)

    def again(self, name: str) -> BaseProcess:
        self.processes[name] = start(self.orders[name])
        return self.processes[name]

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.kill()
        process.join()

    def pause(self, name: str, seconds: float) -> None:
        """Stop a process, let the others go on, wake it, and give it a moment to believe that it is still in charge."""
        pid = self.processes[name].pid or 0
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def end(self) -> None:
        """SIGTERM to all, once all are up: each must end by itself within seconds."""
        for name, process in self.processes.items():
            [service, *_] = self.orders[name].services
            until(lambda s=service, p=process: p.pid in workers(self.directory, s), f"{name} is up")  # type: ignore[misc]
        for process in self.processes.values():
            process.terminate()
        for name, process in self.processes.items():
            process.join(10.0)
            assert process.exitcode == 0, f"{name} ended with {process.exitcode}:\n{self.log(name)[-3000:]}"


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    made = Crew(tmp_path)
    yield made
    for process in made.processes.values():
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, signal.SIGCONT)
            process.kill()
            process.join()


def until(condition: Callable[[], bool], why: str) -> None:
    """Look again and again: other processes cannot be awaited."""
    give_up_at = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(sqlite3.OperationalError):  # not there yet
            if condition():
                return
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {LIMIT_S} s: {why}")
        time.sleep(0.02)


def all_is(directory: Path, total: int) -> Callable[[], bool]:
    return lambda: set(counts(directory).values()) == {total}


@pytest.mark.slow
@pytest.mark.parametrize("also", ["", "records get lost", "the log is deleted"])
@pytest.mark.parametrize("seed", [1, 2])
def test_processes_killed_at_random_under_load_lose_nothing_and_repeat_nothing(
    crew: Crew, seed: int, also: str
) -> None:
    total = 1500
    random = Random(seed)
    delete_at = random.randint(3, 10) if also == "the log is deleted" else -1
    crew.start("alpha", "alpha", total=total, lose=13 if also == "records get lost" else 0)
    crew.start("beta-1", "beta", batch=random.choice([5, 50]))
    crew.start("beta-2", "beta")
    crew.start("gamma", "gamma", batch=random.choice([5, 100]))
    until(lambda: counts(crew.directory)["seen of beta"] > 0, "a first event through all")
    kills = 0
    while kills < 15 or (kills < 50 and counts(crew.directory)["placed"] < total):
        time.sleep(random.uniform(0.01, 0.25))
        victims = random.sample(list(crew.processes), 2 if random.random() < 0.3 else 1)
        if random.random() < 0.05:
            crew.pause(victims[0], 1.2)  # past its lease, then on as if nothing had been
        for victim in victims:
            crew.kill(victim)
            kills += 1
        if delete_at in (kills, kills - 1):
            delete_at = -1
            for path in sorted(crew.directory.glob("broker.db*"), reverse=True):  # the file itself last
                path.unlink()
        for victim in victims:
            crew.again(victim)
    try:
        until(all_is(crew.directory, total), "everything takes effect")
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {kills} kills: {counts(crew.directory)}") from error
    crew.end()
    found = broken_promises(crew.directory, log_was_deleted=also == "the log is deleted")
    assert found == [], f"seed {seed}, {kills} kills"


def is_stopped(process: BaseProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def workers(directory: Path, service: str) -> set[int]:
    """Processes that have a worker of this service."""
    return {int(name.split(":")[1]) for held in _held(directory, service) for name in held.workers}


def holders(directory: Path) -> set[int]:
    """Processes that hold a partition of beta."""
    return {int(owner.split(":")[1]) for held in _held(directory, "beta") for owner, _ in held.leases.values()}


def _held(directory: Path, service: str) -> list[Held]:
    """What is stored of workers and leases, once there is anything."""
    found = query(directory / f"{service}.db", "SELECT state FROM ensue_lease")
    return [msgspec.json.decode(state, type=Held) for (state,) in found]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that a process is stopped")
@pytest.mark.parametrize("point", ["consumer.read:3", "consumer.committed:2", "relay.read:2", "relay.appended:2"])
def test_a_worker_that_was_stopped_past_its_lease_changes_nothing_when_it_wakes(crew: Crew, point: str) -> None:
    total = 300
    zombie = crew.start("beta-1", "beta", stop_at=point)
    until(lambda: holders(crew.directory) == {zombie.pid}, "beta-1 holds everything")
    crew.start("others", "alpha", "gamma", total=total)
    until(lambda: is_stopped(zombie), f"beta-1 stops at {point}")
    heir = crew.start("beta-2", "beta")
    until(lambda: holders(crew.directory) == {heir.pid}, "beta-2 takes over")
    until(all_is(crew.directory, total), "beta-2 does the rest")
    assert broken_promises(crew.directory) == []

    os.kill(zombie.pid or 0, signal.SIGCONT)
    until(lambda: holders(crew.directory) == {zombie.pid, heir.pid}, "beta-1 is awake and has its share again")
    if point.startswith("consumer.read"):
        until(lambda: "not of revision" in crew.log("beta-1"), "beta-1 finds its batch done")
    crew.end()
    assert broken_promises(crew.directory) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see that a process is stopped")
def test_a_worker_stopped_inside_its_transaction_commits_it_or_nobody_does(crew: Crew) -> None:
    """It holds SQLite's lock: nobody can take over before it wakes, and then its batch counts once."""
    total = 100
    zombie = crew.start("beta-1", "beta", stop_at="consumer.checkpoint_written:3")
    until(lambda: holders(crew.directory) == {zombie.pid}, "beta-1 holds everything")
    crew.start("others", "alpha", "gamma", total=total)
    until(lambda: is_stopped(zombie), "beta-1 stops")
    crew.start("beta-2", "beta")
    until(lambda: counts(crew.directory)["placed"] == total, "alpha does not notice")
    with (
        closing(sqlite3.connect(crew.directory / "beta.db", timeout=0.1)) as other,
        pytest.raises(sqlite3.OperationalError),
    ):
        other.execute("BEGIN IMMEDIATE")
    time.sleep(1.5)  # past the lease, and past some of the retries of beta-2
    os.kill(zombie.pid or 0, signal.SIGCONT)
    until(all_is(crew.directory, total), "all goes on")
    crew.end()
    assert broken_promises(crew.directory) == []


@pytest.mark.slow
def test_no_wake_up_between_processes_is_lost(crew: Crew) -> None:
    """Nobody polls and no source ticks: one lost wake-up anywhere, and the next number is never placed."""
    total = 150
    crew.start("beta", "beta", in_turn=True)
    crew.start("gamma", "gamma", in_turn=True)
    until(lambda: bool(workers(crew.directory, "beta") and workers(crew.directory, "gamma")), "beta and gamma are up")
    crew.start("alpha", "alpha", total=total, in_turn=True)
    until(all_is(crew.directory, total), f"{total} numbers come round")
    crew.end()
    assert broken_promises(crew.directory) == []
