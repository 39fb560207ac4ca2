"""`ensue run --http`: probes and metrics of a process that has no web app."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from tests.unit.cli.harness import LEDGER, TILL, Ended, Running
from tests.unit.cli.services import ledger, till

from ensue.cli.http import Address, probes, read_address
from ensue.engine.readiness import Detailed, ReadyLimits
from ensue.errors import StoreUnavailable, UsageError
from ensue.integrations import probes as probes_module
from ensue.integrations.probes import probes_app

Run = Callable[..., Running]


def asking(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://worker")


@asynccontextmanager
async def at_work() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        till.running() as one,
        ledger.running() as other,
        asking(probes_app([till, ledger], ReadyLimits())) as it,
    ):
        await one.ready()
        await other.ready()
        yield it


async def test_probes_answer_for_all_services_of_the_process(home: Path) -> None:
    async with at_work() as client:
        for path in ("/livez", "/healthz", "/readyz"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"}), path


async def test_before_the_services_run_the_process_lives_and_is_not_ready(home: Path) -> None:
    async with asking(probes_app([till, ledger], ReadyLimits())) as client:
        assert (await client.get("/livez")).status_code == 200
        for path, kind in (("/healthz", "unhealthy"), ("/readyz", "not-ready")):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == f"urn:ensue:problem:{kind}"
            assert answer.json()["reasons"] == [
                "till: the service does not run in this process", "ledger: the service does not run in this process",
            ]  # fmt: skip
        assert (await client.get("/metrics")).status_code == 503
    async with asking(probes_app([till], ReadyLimits())) as client:
        assert (await client.get("/readyz")).json()["reasons"] == ["the service does not run in this process"]


async def test_the_service_that_is_not_well_is_named_and_nothing_of_its_host(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reasons(*arguments: Any) -> list[str]:
        return [Detailed("db-17.internal does not answer", "the database does not answer")]

    async def away(*arguments: Any) -> Any:
        raise StoreUnavailable("db-17.internal does not answer")

    async with at_work() as client:
        monkeypatch.setattr(ledger.runtime, "unhealthy", reasons)
        monkeypatch.setattr(ledger.runtime, "readiness", reasons)
        monkeypatch.setattr(ledger.runtime.context.books, "checkpoints", away)
        for path in ("/healthz", "/readyz"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["reasons"]) == (503, ["ledger: the database does not answer"])
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["a database does not answer"])
        assert "db-17" not in answer.text
    details = asking(probes_app([till, ledger], ReadyLimits(details=True)))
    async with till.running(), ledger.running(), details as client:
        monkeypatch.setattr(ledger.runtime, "unhealthy", reasons)
        assert (await client.get("/healthz")).json()["reasons"] == ["ledger: db-17.internal does not answer"]


async def test_metrics_of_several_services_are_one_exposition(home: Path) -> None:
    async with at_work() as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert len({each.name for each in families}) == len(families)
    leases = {each.labels["service"]: each.value for family in families for each in family.samples
              if each.name == "ensue_leases_held"}  # fmt: skip
    assert leases == {"till": 1.0, "ledger": 3.0}


async def test_without_the_library_metrics_say_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensue.integrations.exposition", None)
    async with asking(probes_app([till], ReadyLimits())) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 404
    assert answer.json()["detail"] == 'metrics need: pip install "ensue[prometheus]"'


async def test_another_path_is_answered_with_those_that_there_are(home: Path) -> None:
    async with asking(probes_app([till], ReadyLimits())) as client:
        answer = await client.get("/health")
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"there are {', '.join(probes_module.PATHS)}"
        assert (await client.post("/livez")).status_code == 405
        assert (await client.head("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8081", ("", 8081)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("pod:65535", ("pod", 65535)),
    ],
)
def test_addresses_are_read_and_written(text: str, address: tuple[str, int]) -> None:
    assert read_address(text) == address
    assert str(Address(*address)) == text


@pytest.mark.parametrize("text", ["8081", "localhost", ":", ":http", ":65536", "::1:8081", ":-1", "a:8_0", "a: 80"])
def test_what_is_no_address_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--http is {text!r}, expected :PORT or HOST:PORT")):
        read_address(text)


def test_of_several_processes_the_ports_follow_each_other() -> None:
    assert [Address("a", 8081).of_process(number).port for number in (1, 2, 3)] == [8081, 8082, 8083]
    assert [Address("a", 0).of_process(number).port for number in (1, 2)] == [0, 0]
    with pytest.raises(UsageError, match="--http :65535: process 2 would get port 65536, expected at most 65535"):
        Address("", 65535).of_process(2)


async def test_a_port_that_is_taken_is_refused_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(
            UsageError, match=f"--http {address}: .*: Address already in use by another .*; 0 is any that is free"
        ):
            async with probes(address, [till]):
                raise AssertionError("it listens")


def ports(running: Running) -> list[int]:
    return [int(port) for port in re.findall(r"http on \S*:(\d+): /livez", running.seen)]


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_process_without_a_web_app_answers_probes_and_stops_in_good_order(run: Run, host: str) -> None:
    running = run(TILL, "--http", f"{host}:0")
    running.wait_for("till: ready as ")
    [port] = ports(running)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/readyz").json() == {"status": "ok"}
        assert "ensue_leases_held" in client.get("/metrics").text
        running.process.send_signal(signal.SIGTERM)  # while the connection is open
        assert running.end() == 0, running.seen
    assert "Traceback" not in running.seen


def test_while_it_waits_for_its_database_it_lives_and_is_not_healthy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_LEDGER_DATABASE", "postgresql://nobody@127.0.0.1:1/none")
    running = run(LEDGER, "--http", "127.0.0.1:0")
    running.wait_for("ledger: the database: PostgreSQL 127.0.0.1:1/none does not answer")
    [port] = ports(running)
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 503
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, running.seen


def test_each_of_several_processes_answers_at_a_port_of_its_own(run: Run) -> None:
    running = run(TILL, "--processes", 2, "--http", "127.0.0.1:0")
    running.wait_for("till: ready as ", times=2)
    answers = [httpx.get(f"http://127.0.0.1:{port}/readyz").json() for port in ports(running)]
    assert answers == [{"status": "ok"}, {"status": "ok"}]
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, running.seen


def test_an_address_that_is_none_is_one_line_and_status_1(ensue: Callable[..., Ended]) -> None:
    ended = ensue("run", TILL, "--http", "8081")
    assert ended.code == 1
    assert ended.err.startswith("ensue: --http is '8081', expected :PORT or HOST:PORT")
