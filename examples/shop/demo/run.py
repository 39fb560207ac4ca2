"""One run from start to report: start the services, replay, wait until quiet, check, stop."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Protocol

import aiohttp
from rich.console import Console

from shop.demo.books import Books, read_books
from shop.demo.chaos import INTERVAL_S, INTERVAL_WITH_SERVERS_S, Chaos
from shop.demo.checks import Invariant, check_answers, check_engine, check_losses, check_moments, check_snapshot
from shop.demo.console import console_beside
from shop.demo.databases import Databases
from shop.demo.dataset import invoices
from shop.demo.decisions import Decisions
from shop.demo.directory import CannotRun, prepared
from shop.demo.driver import (
    CONCURRENCY,
    CONCURRENCY_WAITING,
    GIVE_UP_PAID_S,
    GIVE_UP_S,
    GIVE_UP_WITH_SERVERS_S,
    Driver,
)
from shop.demo.faults import Faults
from shop.demo.from_databases import snapshot_from_databases
from shop.demo.latency import LatencySampler
from shop.demo.losses import Losses
from shop.demo.model import Model, run_model
from shop.demo.moments import Moments
from shop.demo.over_http import check_single_answers, snapshot_over_http
from shop.demo.paid import check_money, check_sagas, money_from_databases, money_over_http, of_book
from shop.demo.plan import CARD_MAX, Plan, first_orders, make_plan
from shop.demo.progress import Display
from shop.demo.quiet import PATIENCE_PAID_S, PATIENCE_S, wait_until_quiet
from shop.demo.report import Durations, Report
from shop.demo.services import PAID, SERVICES
from shop.demo.stacks import Stack, parts, running
from shop.demo.supervisor import Supervisor
from shop.demo.usage import cpu_seconds, peak_bytes

#: How often a service may give up at its start because its database was away, where servers go down, and starts again.
RESTARTS = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """orders: the first so many, None: the whole year. rate: orders per second, None: as fast as they are answered.

    fresh: remove what an earlier run left in `directory`; else go on with it: what was done takes no effect again.
    stack: which databases and broker (see `stacks`). lose_broker_data: let the broker forget what it had.
    placement: `choreography` or `orchestration`; with that there are payments and a provider.
    customers: kept as `state` or `event-sourced`.
    """

    directory: Path = Path(".demo")
    orders: int | None = None
    seed: int = 1
    rate: float | None = None
    chaos: bool = False
    fresh: bool = True
    stack: str = "embedded"
    lose_broker_data: bool = False
    placement: str = "choreography"
    customers: str = "state"

    @property
    def paid(self) -> bool:
        return self.placement == "orchestration"


async def run(
    options: Options, console: Console, stay: Callable[[Report, Supervisor], Awaitable[None]] | None = None
) -> Report:
    """Do the run and return its report. stay: called at the end, while the services are still up.

    Raises CannotRun, and what the parts raise: ServiceFailed, OperationFailed, NotQuiet, AnswerUnexpected.
    """
    plan = make_plan(first_orders(invoices(), options.orders), options.seed)
    model = run_model(plan, CARD_MAX if options.paid else None)
    parts(options.stack)  # a wrong name is said before anything is made
    if not options.fresh and options.stack != "embedded":
        raise CannotRun("--keep goes on with files; the servers of a stack start empty: leave it out")
    names = PAID if options.paid else SERVICES
    began = time.monotonic()
    async with AsyncExitStack() as opened:
        directory = opened.enter_context(
            prepared(
                options.directory,
                fresh=options.fresh,
                orders=options.orders,
                placement=options.placement,
                customers=options.customers,
            )
        )
        if options.stack != "embedded":
            console.print(f"Starting the servers of {options.stack}", highlight=False)
        stack = opened.enter_context(running(options.stack, directory, names))
        for line in stack.lines:
            await opened.enter_async_context(line.proxy)
        started = Supervisor(
            directory,
            settings={**stack.environment, "SHOP_CUSTOMERS": options.customers},
            names=names,
            seed=options.seed,
        )
        console.print(f"Starting {', '.join(started.services)}: data and logs in {directory}", highlight=False)
        services = await opened.enter_async_context(started)
        if stay is not None:
            link = await opened.enter_async_context(console_beside(directory, started.environment, names))
            console.print(f"The console, for a browser on this machine, once: {link}", highlight=False, soft_wrap=True)
        return await _replay(options, console, stay, plan, model, directory, stack, services, began)


async def _replay(
    options: Options,
    console: Console,
    stay: Callable[[Report, Supervisor], Awaitable[None]] | None,
    plan: Plan,
    model: Model,
    directory: Path,
    stack: Stack,
    services: Supervisor,
    began: float,
) -> Report:
    started = time.monotonic()
    urls = {service.name: service.url for service in services}
    databases = stack.databases
    latency = LatencySampler(databases["order_history"], stack.away)
    decisions = Decisions(databases["orders"], stack.away)
    driver = Driver(
        plan, urls, Random(f"driver {options.seed}"), rate=options.rate, on_order=latency.follow,
        concurrency=CONCURRENCY_WAITING if options.paid else CONCURRENCY,
        give_up_s=GIVE_UP_PAID_S if options.paid else GIVE_UP_WITH_SERVERS_S if stack.lines else GIVE_UP_S,
        decided=decisions.wait if options.paid else None,
    )  # fmt: skip

    def opened() -> int:
        return len(latency.latencies_s)

    interval_s = INTERVAL_WITH_SERVERS_S if stack.lines else INTERVAL_S
    waits = stack.lines or options.paid  # an order needs them all
    chaos = Chaos(services, Random(f"chaos {options.seed}"), interval_s, opened if waits else None)
    faults = Faults(stack, services, Random(f"faults {options.seed}"), opened)
    losses = Losses(stack, services, directory, lambda: driver.sent.operations / plan.operations)
    troubles: list[Trouble] = []
    if options.chaos:
        troubles.append(chaos)
        if stack.lines:
            troubles.append(faults)
            for service in services:
                service.restarts_left = RESTARTS
    if options.lose_broker_data:
        troubles.append(losses)
    moments = Moments(databases["customers"], stack.away)
    display = Display(console, databases, plan.operations, lambda: driver.sent.operations, stack.away)
    with display:
        async with asyncio.TaskGroup() as group:
            loops = [services.watch(), latency.run(), moments.run(), display.run()]
            if options.paid:
                loops.append(decisions.run())
            background = [group.create_task(loop) for loop in loops]
            display.stage = "replaying"
            await _under(troubles, driver)
            replayed = time.monotonic()
            display.stage = "settling"
            await services.wait_ready()
            await wait_until_quiet(databases, model.events(), PATIENCE_PAID_S if options.paid else PATIENCE_S)
            quiet = time.monotonic()
            display.stage = "checking"
            invariants = await _check_over_http(urls, model, Random(f"checks {options.seed}"), paid=options.paid)
            for task in background:
                task.cancel()
    if stay is None:
        await services.stop()  # so that the last counters are saved
    moments.look()
    statuses, books = await asyncio.to_thread(_check_databases, databases, model, invariants)
    provider: dict[str, int] = {}
    if options.paid:
        money = await asyncio.to_thread(money_from_databases, databases["payments"], directory)
        invariants += [*check_money(money, model), check_sagas(books.sagas)]
        provider = of_book(money.book)
    invariants.append(check_moments(moments.looks, moments.over))
    invariants.append(check_answers(driver.sent.refused, model))
    if options.lose_broker_data:
        invariants.append(check_losses(losses.losses, books.traffic))
    report = Report(
        seed=options.seed,
        rate=options.rate,
        stack=options.stack,
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
        faults=dict(faults.happened),
        recovery_s=faults.recovery_s,
        losses=losses.happened,
        placement=options.placement,
        customers=options.customers,
        provider=provider,
        cpu={each.name: each.cpu_s for each in services} | {"driver": cpu_seconds(os.getpid())},
        memory_peak={each.name: each.peak_memory for each in services} | {"driver": peak_bytes(os.getpid())},
        durations=Durations(started - began, replayed - started, quiet - replayed, time.monotonic() - quiet),
    )
    if stay is not None:
        await stay(report, services)
    return report


class Trouble(Protocol):
    async def run(self, enough: asyncio.Event) -> None:
        """Make trouble until `enough` is set; everything is up again, or starting, when it returns."""


async def _under(troubles: Sequence[Trouble], driver: Driver) -> None:
    """Drive while there is trouble; when the last answer is there, it stops."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for trouble in troubles:
            group.create_task(trouble.run(enough))
        await driver.run()
        enough.set()


async def _check_over_http(urls: Mapping[str, str], model: Model, random: Random, *, paid: bool) -> list[Invariant]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client:
        snapshot = await snapshot_over_http(client, urls)
        singles = await check_single_answers(client, urls, snapshot, random)
        money = check_money(await money_over_http(client, urls), model) if paid else []
    return check_snapshot(snapshot, model) + singles + money


def _check_databases(databases: Databases, model: Model, invariants: list[Invariant]) -> tuple[dict[str, int], Books]:
    """Add the invariants seen through the databases; return the orders by status, and the engine's books."""
    snapshot = snapshot_from_databases(databases)
    invariants += check_snapshot(snapshot, model)
    books = read_books(databases)
    invariants += check_engine(books.streams, books.traffic, books.published)
    statuses = dict.fromkeys(("NEW", "OPEN", "REJECTED", "CANCELLED"), 0)
    for order in snapshot.orders.values():
        statuses[order.status] += 1
    return statuses, books
