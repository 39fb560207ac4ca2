"""The demo as a newcomer runs it: three real processes, real orders, also killed at will, also stopped half way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shop.demo.services import PAID, PROVIDER, SERVICES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: A run of these sizes takes seconds; this much only on a machine that does a dozen other things.
LIMIT_S = 110
STOP_S = 5.0


def command(directory: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "shop.demo", "--directory", str(directory), *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "src", ROOT / "examples")))}


def run(directory: Path, *options: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *options), env=environment(), capture_output=True, text=True, timeout=limit_s
    )


def report_of(run: subprocess.CompletedProcess[str]) -> Any:
    broken = [each for each in report["invariants"] if not each["holds"]] if (report := _read(run)) else run.stdout
    assert run.returncode == 0, f"status {run.returncode}\n{broken}\n{run.stderr}"
    return report


def _read(run: subprocess.CompletedProcess[str]) -> Any:
    """The report, None where the run ended before it had one."""
    try:
        return json.loads(run.stdout)
    except json.JSONDecodeError:
        return None


def in_the_background() -> None:
    """Called in the child before it begins: a shell starts a job with `&` so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_the_foreground() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(
    directory: Path, *options: str, prepare: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process of its own; whatever happens, it and its children are gone at the end."""
    process = subprocess.Popen(
        command(directory, *options), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=prepare,
    )  # fmt: skip
    try:
        yield process
    finally:
        children = children_of(process)
        process.kill()
        process.communicate()
        for child in children:
            if child.is_running():
                child.kill()


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for_progress(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Read what the demo says until requests are being answered; return its services' processes."""
    assert process.stderr is not None
    for line in process.stderr:
        if "replaying: " in line and "replaying: 0/" not in line:
            return children_of(process)
    pytest.fail("the demo ended before it replayed anything")


def test_demo_replays_real_orders_and_every_invariant_holds(tmp_path: Path) -> None:
    report = report_of(run(tmp_path / "data", "--orders", "150", "--json"))
    assert report["ok"]
    assert report["plan"]["orders"] == sum(report["orders"].values()) == 150
    assert report["orders"] == {"NEW": 0, "OPEN": 130, "REJECTED": 18, "CANCELLED": 2}
    assert len(report["invariants"]) >= 28
    assert {each["seen_through"] for each in report["invariants"]} == {"HTTP", "databases"}
    assert all(each["holds"] and each["compared"] > 0 for each in report["invariants"])
    events = report["events"]
    assert events["duplicates_skipped"] == events["gaps_seen"] == events["retries"] == 0
    assert events["applied_total"] > events["published_total"] > 3 * 150
    assert report["chaos"] is None
    latency = report["latency_post_to_open"]
    assert latency["samples"] > 0
    assert 0 < latency["p50_s"] <= latency["p99_s"] <= latency["max_s"]
    assert set(report["memory_peak_bytes"]) == set(report["cpu_s"]) == {*SERVICES, "driver"}
    assert all(10_000_000 < peak < 150 * 1024 * 1024 for peak in report["memory_peak_bytes"].values())


def test_demo_ends_with_the_same_orders_when_its_services_are_killed_at_will(tmp_path: Path) -> None:
    # With a rate, so that there is time for kills however fast the machine is.
    report = report_of(run(tmp_path / "data", "--orders", "200", "--rate", "40", "--seed", "3", "--chaos", "--json"))
    assert report["ok"]
    assert report["orders"] == report["expected_orders"] | {"NEW": 0}
    assert report["chaos"]["kills_total"] >= 2
    assert sum(report["chaos"]["kills"].values()) == report["chaos"]["kills_total"]
    assert report["requests"]["resent_total"] > 0


def test_orders_placed_by_sagas_end_alike_and_are_paid_once_when_payments_and_provider_are_killed_too(
    tmp_path: Path,
) -> None:
    options = ("--placement", "orchestration", "--orders", "24", "--rate", "6", "--seed", "5", "--chaos", "--json")
    report = report_of(run(tmp_path / "data", *options))
    assert report["ok"]
    assert report["orders"] == report["expected_orders"] | {"NEW": 0}
    assert report["chaos"]["kills_total"] >= 1
    assert set(report["cpu_s"]) == {*PAID, PROVIDER, "driver"}
    done = report["provider"]
    assert done["captures"] == report["orders"]["OPEN"] + report["orders"]["CANCELLED"]
    assert done["refunds"] == report["orders"]["CANCELLED"]
    checked = {each["name"] for each in report["invariants"]}
    assert {"OPEN is captured, CANCELLED is refunded", "the provider's book = ours", "each saga has ended"} <= checked


def test_kept_data_are_gone_on_with_and_what_was_done_takes_no_effect_again(tmp_path: Path) -> None:
    first = report_of(run(tmp_path / "data", "--orders", "60", "--json"))
    second = report_of(run(tmp_path / "data", "--orders", "60", "--json", "--keep"))
    assert second["orders"] == first["orders"]
    assert second["events"]["published"] == first["events"]["published"]
    assert second["requests"]["found_done_by_an_earlier_try"] == first["plan"]["orders"] + first["plan"]["customers"]


def test_the_view_of_what_was_replayed_is_built_again_and_is_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    report_of(run(directory, "--orders", "60", "--json"))

    def ensue(*words: str, version: int) -> str:
        settings = {"ENSUE_HOME": str(directory), "SHOP_HISTORY_VERSION": str(version)}
        done = subprocess.run(
            [sys.executable, "-m", "ensue", *words], env=environment() | settings, capture_output=True, text=True,
            timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    view = "shop.order_history:order_history"
    assert "version 2 is ready" in ensue("views", "rebuild", view, version=2)
    assert "version 2 is asked" in ensue("views", "swap", view, version=2)
    assert "all rows follow from the events" in ensue("views", "check", view, version=2)
    shown = []
    for version in (1, 2):
        with closing(sqlite3.connect(directory / f"order_history_v{version}.db")) as database:
            shown.append([
                database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                for table in ("history_orders", "history_customers")
            ])  # fmt: skip
    assert shown[0] == shown[1]
    assert len(shown[0][0]) == 60


def test_a_penny_that_is_wrong_in_one_database_fails_the_run_and_is_named(tmp_path: Path) -> None:
    report_of(run(tmp_path / "data", "--orders", "30", "--json"))
    with closing(sqlite3.connect(tmp_path / "data" / "order_history_v1.db")) as database, database:
        database.execute(
            "UPDATE history_orders SET total = total + 1 WHERE order_id = (SELECT max(order_id) FROM history_orders)"
        )
    again = run(tmp_path / "data", "--orders", "30", "--keep")
    assert again.returncode == 1
    assert "of 28 invariants do NOT hold." in again.stdout
    assert "the view's orders = those of orders (databases): " in again.stdout
    assert "the view's orders = those of orders (HTTP): " in again.stdout


@pytest.mark.parametrize("begun", [in_the_foreground, in_the_background])
def test_demo_stops_with_ctrl_c_within_five_seconds_and_leaves_no_process(
    begun: Callable[[], None], tmp_path: Path
) -> None:
    with started(tmp_path / "data", "--rate", "200", "--orders", "10000", prepare=begun) as process:
        children = wait_for_progress(process)
        assert len(children) == len(SERVICES)
        asked_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
        took = time.monotonic() - asked_at
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert took <= STOP_S
    assert [child for child in children if child.is_running()] == []


def test_services_end_when_the_demo_itself_is_killed(tmp_path: Path) -> None:
    with started(tmp_path / "data", "--rate", "200", "--orders", "10000") as process:
        children = wait_for_progress(process)
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=LIMIT_S / 2)
    assert alive == []


async def test_services_stay_up_when_asked_to_with_the_console_from_the_start(tmp_path: Path) -> None:
    import aiohttp

    with started(tmp_path / "data", "--orders", "20", "--stay", "--chaos") as process:
        assert process.stderr is not None
        urls: list[str] = []
        link = ""
        while not link:
            line = await asyncio.to_thread(process.stderr.readline)
            assert line, "the demo ended"
            link = next((word for word in line.split() if "/enter?token=" in word), "")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            async with client.get(link) as answer:  # while orders are placed
                overview = await answer.text()
            for name in SERVICES:
                assert f"/services/{name}" in overview
            while len(urls) < len(SERVICES):
                line = await asyncio.to_thread(process.stderr.readline)
                assert line, "the demo ended"
                urls += [word for word in line.split() if word.endswith("/docs")]
            settled = ""
            while "Nothing is wrong." not in settled:  # as soon as the last victims are back
                async with client.get(link.partition("/enter")[0] + "/") as answer:
                    assert answer.status == 200
                    settled = await answer.text()
            for url in urls:
                async with client.get(url) as answer:
                    assert answer.status == 200
                    assert "openapi.json" in await answer.text()
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, errors
    assert "All 28 invariants hold." in output


def test_a_run_that_cannot_be_says_why_and_fails(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused = run(tmp_path, "--orders", "10")
    assert refused.returncode == 1
    assert "choose another --directory" in refused.stderr
    assert run(tmp_path / "data", "--orders", "0").returncode == 2
