"""One run from start to report: start the services, replay, wait until quiet, check, stop."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random

import aiohttp
from rich.console import Console

from shop.demo.books import Books, read_books
from shop.demo.chaos import Chaos
from shop.demo.checks import Invariant, check_answers, check_engine, check_moments, check_snapshot
from shop.demo.dataset import invoices
from shop.demo.directory import prepared
from shop.demo.driver import Driver
from shop.demo.from_databases import snapshot_from_databases
from shop.demo.latency import LatencySampler
from shop.demo.model import Model, run_model
from shop.demo.moments import Moments
from shop.demo.over_http import check_single_answers, snapshot_over_http
from shop.demo.plan import first_orders, make_plan
from shop.demo.progress import Display
from shop.demo.quiet import wait_until_quiet
from shop.demo.report import Durations, Report
from shop.demo.services import SERVICES
from shop.demo.supervisor import Supervisor
from shop.demo.usage import cpu_seconds, peak_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """orders: the first so many, None: the whole year. rate: orders per second, None: as fast as they are answered.

    fresh: remove what an earlier run left in `directory`; else go on with it: what was done takes no effect again.
    """

    directory: Path = Path(".demo")
    orders: int | None = None
    seed: int = 1
    rate: float | None = None
    chaos: bool = False
    fresh: bool = True


async def run(
    options: Options, console: Console, stay: Callable[[Report, Supervisor], Awaitable[None]] | None = None
) -> Report:
    """Do the run and return its report. stay: called at the end, while the services are still up.

    Raises CannotRun, and what the parts raise: ServiceFailed, OperationFailed, NotQuiet, AnswerUnexpected.
    """
    plan = make_plan(first_orders(invoices(), options.orders), options.seed)
    model = run_model(plan)
    began = time.monotonic()
    with prepared(options.directory, fresh=options.fresh, orders=options.orders) as directory:
        console.print(f"Starting {', '.join(SERVICES)}: data and logs in {directory}", highlight=False)
        async with Supervisor(directory) as services:
            started = time.monotonic()
            urls = {service.name: service.url for service in services}
            latency = LatencySampler(directory / "order_history.db")
            driver = Driver(plan, urls, Random(f"driver {options.seed}"), rate=options.rate, on_order=latency.follow)
            chaos = Chaos(services, Random(f"chaos {options.seed}"))
            moments = Moments(directory / "customers.db")
            display = Display(console, directory, plan.operations, lambda: driver.sent.operations)
            with display:
                async with asyncio.TaskGroup() as group:
                    loops = (services.watch(), latency.run(), moments.run(), display.run())
                    background = [group.create_task(loop) for loop in loops]
                    display.stage = "replaying"
                    await (_under_chaos(driver, chaos) if options.chaos else driver.run())
                    replayed = time.monotonic()
                    display.stage = "settling"
                    await services.wait_ready()
                    await wait_until_quiet(directory)
                    quiet = time.monotonic()
                    display.stage = "checking"
                    invariants = await _check_over_http(urls, model, Random(f"checks {options.seed}"))
                    for task in background:
                        task.cancel()
            if stay is None:
                await services.stop()  # so that the last counters are saved
            moments.look()
            statuses, books = _check_databases(directory, model, invariants)
            invariants.append(check_moments(moments.looks, moments.over))
            invariants.append(check_answers(driver.sent.refused, model))
            report = Report(
                seed=options.seed,
                rate=options.rate,
                plan=plan,
                model=model,
                statuses=statuses,
                sent=driver.sent,
                invariants=invariants,
                published=books.published,
                traffic=books.traffic,
                latency=latency.summary(),
                kills=dict(chaos.kills) if options.chaos else None,
                kills_while_starting=chaos.while_starting,
                cpu={each.name: each.cpu_s for each in services} | {"driver": cpu_seconds(os.getpid())},
                memory_peak={each.name: each.peak_memory for each in services} | {"driver": peak_bytes(os.getpid())},
                durations=Durations(started - began, replayed - started, quiet - replayed, time.monotonic() - quiet),
            )
            if stay is not None:
                await stay(report, services)
    return report


async def _under_chaos(driver: Driver, chaos: Chaos) -> None:
    """Drive while services are killed; when the last answer is there, the killing stops."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(chaos.run(enough))
        await driver.run()
        enough.set()


async def _check_over_http(urls: Mapping[str, str], model: Model, random: Random) -> list[Invariant]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client:
        snapshot = await snapshot_over_http(client, urls)
        singles = await check_single_answers(client, urls, snapshot, random)
    return check_snapshot(snapshot, model) + singles


def _check_databases(directory: Path, model: Model, invariants: list[Invariant]) -> tuple[dict[str, int], Books]:
    """Add the invariants seen through the databases; return the orders by status, and the engine's books."""
    snapshot = snapshot_from_databases(directory)
    invariants += check_snapshot(snapshot, model)
    books = read_books(directory)
    invariants += check_engine(books.streams, books.traffic, books.published)
    statuses = dict.fromkeys(("NEW", "OPEN", "REJECTED", "CANCELLED"), 0)
    for order in snapshot.orders.values():
        statuses[order.status] += 1
    return statuses, books
