"""A child process that runs a service one of whose messages ends the process, or hangs it."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import logging
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ensue import EngineConfig, Event, Retry, Service, Settings
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.runtime import Runtime
from ensue.repository import TableRepository
from ensue.testing import World

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.killer_child"])

PARTITIONS = 4
TIMEOUT_S = 30.0


class Fed(Event, topic="kills", key="animal"):
    animal: str
    number: int


@dataclasses.dataclass
class Animal:
    animal: str
    eaten: int


tables = MetaData()
meals = Table(
    "meal", tables, Column("id", Integer, primary_key=True), Column("animal", String(50)), Column("number", Integer)
)
animals = Table("animal", tables, Column("animal", String(50), primary_key=True), Column("eaten", Integer))


def leave() -> None:
    os._exit(9)


def fault() -> None:
    ctypes.string_at(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when there is no memory left


def spare() -> None:
    """No handler ends anything."""


DEADLY: Mapping[str, Callable[[], None]] = {"exit": leave, "fault": fault, "kill": killed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """What a child is told.

    kind: of handler: async, thread, entity. deadly: what it does at the bear's meal 3; later: only when it is tried
    again. database: URL, else a file. neighbour: another service of the process handles the same messages, with no
    fault.
    """

    directory: Path
    kind: str = "async"
    deadly: str = "exit"
    later: bool = False
    neighbour: bool = False
    database: str = ""
    lanes: int = 1


def zoo(orders: Orders) -> Service:
    service = Service(
        "zoo",
        tables=tables,
        repositories=[TableRepository(Animal, animals)],
        lanes=orders.lanes,
        retry=Retry(first_delay_s=0.01, factor=1.0),
    )

    def strike(event: Fed) -> None:
        if (event.animal, event.number) != ("bear", 3):
            return
        if orders.later and not _set_aside(orders.directory):
            raise RuntimeError("not deadly yet")
        with open(orders.directory / "strikes", "a") as strikes:
            strikes.write(".")
        DEADLY.get(orders.deadly, spare)()

    if orders.kind == "entity":

        @service.on
        def feed(animal: Animal | None, event: Fed) -> Animal:
            strike(event)
            animal = animal or Animal(event.animal, 0)
            animal.eaten += 1
            return animal

    elif orders.kind == "thread":

        @service.on
        def feed_in_thread(event: Fed, session: Session) -> None:
            session.execute(insert(meals).values(animal=event.animal, number=event.number))
            strike(event)

    else:

        @service.on
        async def feed_async(event: Fed, session: AsyncSession) -> None:
            await session.execute(insert(meals).values(animal=event.animal, number=event.number))
            strike(event)

    return service


def _set_aside(directory: Path) -> bool:
    with closing(sqlite3.connect(directory / "zoo.db", timeout=10)) as connection:
        return bool(connection.execute("SELECT * FROM ensue_dead_letter").fetchall())


def neighbour() -> Service:
    service = Service("neighbour", tables=tables)

    @service.on
    async def see(event: Fed, session: AsyncSession) -> None:
        await session.execute(insert(meals).values(animal=event.animal, number=event.number))

    return service


def runtime(directory: Path, service: Service, world: World, database: str = "") -> Runtime:
    engine = EngineConfig(poll_interval_s=0.1, lease_ttl_s=1.0)
    return Runtime(
        service,
        make_store(database or f"sqlite:///{directory}/{service.name}.db?synchronous=OFF", service.name),
        EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
        Settings(database="", broker="", partitions=PARTITIONS, engine=engine),
        random=Random(0),
        tables=service.tables,
        progress=world.progressed,
    )


def start(orders: Orders) -> BaseProcess:
    process = _children.Process(target=_run, args=(orders,))
    process.start()
    return process


def run(orders: Orders) -> int:
    """Run a child until all is quiet, or until it dies; return its exit code."""
    process = start(orders)
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {TIMEOUT_S} s: {orders}")
    return process.exitcode


def _run(orders: Orders) -> None:
    logging.basicConfig(filename=orders.directory / "log", level=logging.INFO, force=True)
    asyncio.run(_live(orders))


async def _live(orders: Orders) -> None:
    async with AsyncExitStack() as stack:
        broker = EmbeddedBroker(f"sqlite:///{orders.directory}/broker.db")
        await broker.open()
        stack.push_async_callback(broker.close)
        world = World(broker)
        for service in (zoo(orders), *([neighbour()] if orders.neighbour else [])):
            world.runtimes[service.name] = runtime(orders.directory, service, world, orders.database)
            await stack.enter_async_context(service.running(world.runtimes[service.name]))
            await world.runtimes[service.name].ready()
        await world.settle(20.0)
        async with asyncio.timeout(20.0):
            while _suspects(world):
                world._progress.clear()
                if _suspects(world):
                    await world._progress.wait()


def _suspects(world: World) -> bool:
    workers = [each.worker for each in world.runtimes.values()]
    return any(each.suspicion for worker in workers if worker is not None for each in worker.loops.consumers)
