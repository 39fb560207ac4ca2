"""`ensue run` as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.unit.cli.harness import LEDGER, LIMIT_S, TILL, Ended, Running, applied
from tests.unit.cli.services import flag, ledger

from ensue.adapters import make_store

Run = Callable[..., Running]
Command = Callable[..., Ended]


def until_applied(count: int) -> None:
    """Wait until the ledger, in whatever process, has applied so many; a commit of it ends each wait."""

    async def wait() -> None:
        store = make_store(ledger.settings().database, "ledger")
        await store.open()
        try:
            async with asyncio.timeout(LIMIT_S):
                while await applied() < count:
                    await store.outbox_wait(1.0)
        finally:
            await store.close()

    asyncio.run(wait())


def lease_owners(command: Command, service: str) -> set[str]:
    return {each["worker"] for each in command("status", service, "--json").json["services"][0]["leases"]}


def children_of(parent: Running) -> list[psutil.Process]:
    return psutil.Process(parent.pid).children()


def test_services_in_one_process_work_until_sigterm_and_give_their_leases_up(
    run: Run, ensue: Command, sell: Callable[..., None]
) -> None:
    running = run(TILL, LEDGER)
    running.wait_for(": ready as ", times=2)
    sell(("ann", 1), ("bob", 2))
    until_applied(2)
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert {each["name"] for each in status["leases"]} == {"relay", "sales/0", "sales/1"}
    assert f":{running.pid}:" in status["workers"][0]
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, running.seen
    for service in (TILL, LEDGER):
        [status] = ensue("status", service, "--json").json["services"]
        assert (status["workers"], status["leases"]) == ([], [])
    assert "Traceback" not in running.seen


def test_ctrl_c_stops_it_as_well(run: Run) -> None:
    running = run(TILL)
    running.wait_for("till: ready as ")
    running.process.send_signal(signal.SIGINT)
    assert running.end() == 0, running.seen


def test_started_twice_it_shares_the_work(run: Run, ensue: Command) -> None:
    first = run(LEDGER)
    first.wait_for("ledger: ready as ")
    second = run(LEDGER)
    second.wait_for("ledger: ready as ")
    assert len(ensue("status", LEDGER, "--json").json["services"][0]["workers"]) == 2
    for running in (first, second):
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.seen


def test_several_processes_share_the_work_and_end_with_their_parent(
    run: Run, ensue: Command, sell: Callable[..., None]
) -> None:
    parent = run(TILL, LEDGER, "--processes", 2)
    parent.wait_for("ledger: ready as ", times=2)
    children = children_of(parent)
    assert len(children) == 2
    sell(*[(f"customer-{number}", number) for number in range(20)])
    until_applied(20)
    workers = ensue("status", LEDGER, "--json").json["services"][0]["workers"]
    assert sorted(int(worker.split(":")[-2]) for worker in workers) == sorted(child.pid for child in children)
    parent.process.send_signal(signal.SIGTERM)
    assert parent.end() == 0, parent.seen
    assert lease_owners(ensue, LEDGER) == set()
    assert not any(child.is_running() for child in children)


def test_children_stop_in_good_order_when_their_parent_is_killed(run: Run, ensue: Command) -> None:
    parent = run(LEDGER, "--processes", 2)
    parent.wait_for("ledger: ready as ", times=2)
    children = children_of(parent)
    parent.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert (len(gone), alive) == (2, [])
    assert parent.end() == -signal.SIGKILL
    assert ensue("status", LEDGER, "--json").json["services"][0]["workers"] == []


def test_a_killed_child_is_started_again_and_takes_its_share_back(
    run: Run, ensue: Command, sell: Callable[..., None]
) -> None:
    parent = run(TILL, LEDGER, "--processes", 2)
    parent.wait_for("ledger: ready as ", times=2)
    victim, survivor = children_of(parent)
    victim.kill()
    parent.wait_for(f"(pid {victim.pid}) ended with signal 9; another one starts in 1 s (failure 1 in a row)")
    sell(*[(f"customer-{number}", number) for number in range(20)])
    until_applied(20)  # the survivor takes everything over meanwhile
    parent.wait_for("ledger: ready as ", times=3)
    workers = ensue("status", LEDGER, "--json").json["services"][0]["workers"]
    assert len(workers) == 2
    children = children_of(parent)
    assert survivor in children
    assert len(children) == 2
    parent.process.send_signal(signal.SIGTERM)
    assert parent.end() == 0, parent.seen
    assert not any(child.is_running() for child in children)


def test_a_service_that_still_waits_for_its_database_stops_when_it_is_told_to(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_LEDGER_DATABASE", "postgresql://nobody@127.0.0.1:1/none")
    running = run(LEDGER)
    running.wait_for("ledger: the database: PostgreSQL 127.0.0.1:1/none does not answer")
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, running.seen
    assert "ledger: stopped before it had started" in running.seen


@pytest.fixture
def stuck(run: Run, home: Path, sell: Callable[..., None]) -> Running:
    """A process whose event loop a handler blocks for good."""
    sell(("stuck", 1))
    os.mkfifo(flag("is-stuck"))
    running = run(TILL, LEDGER)
    assert flag("is-stuck").read_text() == "yes"  # waits until the handler has written it
    return running


def test_a_handler_that_never_returns_cannot_hold_the_process(stuck: Running) -> None:
    stuck.process.send_signal(signal.SIGTERM)
    assert stuck.end() == 1
    assert "not stopped within 5 s, a handler does not return: ended by force" in stuck.seen
    assert asyncio.run(applied()) == 0


def test_a_second_signal_ends_it_at_once(stuck: Running) -> None:
    while stuck.process.poll() is None:
        stuck.process.send_signal(signal.SIGTERM)  # again and again: two that come too fast are one
        with contextlib.suppress(subprocess.TimeoutExpired):
            stuck.process.wait(0.1)
    assert stuck.end() == 128 + signal.SIGTERM


def test_what_the_operator_did_wrong_is_one_line_and_status_1(run: Run, home: Path) -> None:
    for arguments, says in (
        (("tests.unit.cli.services:nobody",), "nobody in "),
        ((LEDGER, LEDGER), "service ledger is named twice"),
        ((LEDGER, "--processes", "2", "--log-level", "loud"), "--log-level is 'loud', expected one of debug"),
    ):
        running = run(*arguments)
        assert running.end() == 1
        assert running.seen.startswith("ensue: ")
        assert says in running.seen
        assert running.seen.count("\n") == 1, running.seen


def test_a_service_that_cannot_start_stops_the_others_and_says_why(
    run: Run, ensue: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensue("db", "init", TILL)
    monkeypatch.setenv("ENSUE_LEDGER_DATABASE", f"sqlite:///{flag('till.db')}")
    running = run(TILL, LEDGER)
    assert running.end() == 1
    assert "till.db is the database of service 'till', not of 'ledger'" in running.seen
    assert "Traceback" not in running.seen
    assert ensue("status", TILL, "--json").json["services"][0]["workers"] == []


@pytest.mark.parametrize(
    ("application", "shown"),
    [
        ("", ("", "WARNING")),
        ("logging.basicConfig(stream=sys.stdout, format='app: %(message)s')", ("app: told once\n", "")),
        (
            "logging.getLogger('ensue').addHandler(logging.StreamHandler(sys.stdout))",
            ("told once\n", ""),
        ),
    ],
    ids=["none", "all of it", "ours only"],
)
def test_logging_is_set_up_where_the_application_has_not(application: str, shown: tuple[str, str]) -> None:
    """The application does it when its modules are imported."""
    program = f"""if True:
        import logging, sys
        from ensue.cli import run
        def load_services(names):
            {application or "pass"}
            return []
        async def serve(services, stop):
            logging.getLogger("ensue.run").warning("told once")
            return 0
        run.load_services, run.serve = load_services, serve
        run.run(["x"])
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.stdout == shown[0]
    assert ended.stderr.count("told once") == (0 if shown[0] else 1)
    assert shown[1] in ended.stderr
