"""A PostgreSQL server is killed, and its standby that lags by five commits takes over its address; services live on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer, PostgresStandby, TcpProxy
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from tests.faults.test_log_damage import Telegraph, Wired
from tests.faults.test_restored_store import refusal
from tests.unit.engine.workbench import bench, config

from ensue import Event, Service, Step
from ensue.adapters import make_store
from ensue.engine.books import Books
from ensue.engine.epoch import begin_epoch, find_published
from ensue.engine.readiness import ReadyLimits
from ensue.errors import RetryableError
from ensue.ports import Store
from ensue.testing import World

LAG = 5
#: Two servers are started and one is promoted, on a machine that has other work.
LIMIT_S = 60.0
ENGINE = config(lease_ttl_s=0.5)


class Repeated(Event, topic="repeats", key="station"):
    station: str
    number: int


class Pair:
    """A server and its standby, behind one address. url: of the services' database, at that address."""

    def __init__(self, start: Callable[..., Any], proxy: TcpProxy, primary: PostgresServer) -> None:
        self._start = start
        self._proxy = proxy
        self._primary = primary
        self._standby: PostgresStandby

    def url(self, how: str) -> str:
        driver, mode = how.split("-")
        database = self._primary.url("telegraph", f"postgresql+{driver}")
        return database.replace(str(self._primary.port), str(self._proxy.port)) + f"?outbox={mode}"

    async def fall_behind(self) -> None:
        """What has committed by now is all that the standby will know."""
        self._standby = self._start(PostgresStandby, primary=self._primary)
        await asyncio.to_thread(self._standby.catch_up)
        await asyncio.to_thread(self._standby.fall_behind)

    async def fail_over(self, *, at_once: bool) -> None:
        """at_once: a connection that is cut finds the new server when it is made again; else nobody for a while."""
        if at_once:
            await asyncio.to_thread(self._standby.promote)
            await self._proxy.cut()
            await asyncio.to_thread(self._primary.kill)
        else:
            await asyncio.to_thread(self._primary.kill)
            await self._proxy.cut()
            await asyncio.to_thread(self._standby.promote)
        self._proxy.target = self._standby.port
        self._proxy.heal()


@pytest.fixture
async def pair(start: Callable[..., Any]) -> AsyncIterator[Pair]:
    primary = start(PostgresServer)
    async with TcpProxy(primary.port) as proxy:
        yield Pair(start, proxy, primary)


@pytest.fixture
def telegraph(tmp_path: Path) -> Telegraph:
    return Telegraph(tmp_path)


AWAY, AT_ONCE = False, True


async def committed(service: Service, *numbers: int) -> None:
    """One step, begun anew while the database is away: none of those that fail here has reached its commit."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                async with service.step() as step:
                    for number in numbers:
                        step.publish(Wired(station=f"station-{number % 4}", number=number))
            except RetryableError:
                await asyncio.sleep(0.05)
            else:
                return


async def relayed(store: Store, service: str, position: int) -> None:
    """The standby is to know that this was sent: else the relay sends it again, which is another test."""
    async with asyncio.timeout(LIMIT_S):
        while await Books(store, service).relay_position() < position:  # noqa: ASYNC110  # the relay's task saves it
            await asyncio.sleep(0.01)


async def refuses(world: World, service: str) -> None:
    """Within the limit the relay refuses, and the process says so to whoever asks."""
    error = await refusal(world, service)
    assert f"ensue db new-epoch MODULE:{service}" in str(error)
    assert any("ensue db new-epoch" in each for each in await world.runtimes[service].readiness(ReadyLimits()))


async def new_epoch(telegraph: Telegraph, url: str, service: str) -> None:
    """What `ensue db new-epoch` does, with the service stopped."""
    store, broker = make_store(url, service), telegraph.broker()
    await store.open()
    await broker.open()
    try:
        await begin_epoch(store, broker, await find_published(store, broker))
    finally:
        await broker.close()
        await store.close()


async def sent_numbers(world: World) -> list[int]:
    return sorted(each.number for each in await world.published(Wired))


async def received_numbers(telegraph: Telegraph) -> list[int]:
    return sorted(number for some in (await telegraph.received()).values() for number in some)


@pytest.mark.parametrize(
    ("how", "at_once", "written"),
    [
        ("asyncpg-poll", AWAY, 0),
        ("psycopg-poll", AT_ONCE, LAG),
        ("asyncpg-poll", AT_ONCE, 12),
        ("psycopg-wal", AWAY, 12),
        ("asyncpg-wal", AT_ONCE, 0),
        ("psycopg-wal", AT_ONCE, LAG),
    ],
)
async def test_a_source_that_fails_over_to_a_standby_that_lags_is_refused_until_a_new_epoch(
    telegraph: Telegraph, pair: Pair, how: str, at_once: bool, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written to the new server; as much as it lacks; more. Nothing of it is taken for a duplicate."""
    url = pair.url(how)
    store = make_store(url, "sends")
    stores: dict[str, Store] = {"sends": store}
    services = (telegraph.sends, telegraph.receives)
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await committed(telegraph.sends, *range(20))
        await telegraph.until_received(world, 20)
        await relayed(store, "sends", 20)
        await pair.fall_behind()
        for number in range(20, 20 + LAG):
            await committed(telegraph.sends, number)
        await telegraph.until_received(world, 20 + LAG)
        await pair.fail_over(at_once=at_once)
        if written:
            await committed(telegraph.sends, *range(1000, 1000 + written))
        await refuses(world, "sends")
        assert await sent_numbers(world) == list(range(20 + LAG))
    if "wal" in how:
        assert "is gone: a new one is made; what was not read yet is in the table" in caplog.text
    await new_epoch(telegraph, url, "sends")
    stores = {"sends": make_store(url, "sends")}
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await committed(telegraph.sends, 2000)
        await telegraph.until_received(world, 20 + LAG + written + 1)
        await world.settle()
        assert await received_numbers(telegraph) == [*range(20 + LAG), *range(1000, 1000 + written), 2000]


@pytest.mark.parametrize("how", ["psycopg-poll", "asyncpg-wal"])
async def test_a_source_that_fails_over_while_its_log_is_lost_is_refused_by_what_was_applied(
    telegraph: Telegraph, pair: Pair, how: str
) -> None:
    """Its services begin anew meanwhile: neither they nor the log know what was sent."""
    url = pair.url(how)
    services = (telegraph.sends, telegraph.receives)
    store = make_store(url, "sends")
    stores: dict[str, Store] = {"sends": store}
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await committed(telegraph.sends, *range(20))
        await telegraph.until_received(world, 20)
        await relayed(store, "sends", 20)
        await pair.fall_behind()
        for number in range(20, 20 + LAG):
            await committed(telegraph.sends, number)
        await telegraph.until_received(world, 20 + LAG)
    await pair.fail_over(at_once=True)
    for path in telegraph.directory.glob("broker.db*"):
        path.unlink()
    stores = {"sends": make_store(url, "sends")}
    patient = config(resend_interval_s=5.0)  # the subscriber has time to say it
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=patient) as world:
        await refuses(world, "sends")
        await committed(telegraph.sends, *range(1000, 1003))
        assert await sent_numbers(world) == []
    await new_epoch(telegraph, url, "sends")
    stores = {"sends": make_store(url, "sends")}
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await telegraph.until_received(world, 20 + LAG + 3)
        await world.settle()
        assert await received_numbers(telegraph) == [*range(20 + LAG), *range(1000, 1003)]


@pytest.mark.parametrize(
    ("how", "at_once"),
    [("asyncpg-poll", AT_ONCE), ("psycopg-poll", AWAY), ("asyncpg-wal", AWAY), ("psycopg-wal", AT_ONCE)],
)
async def test_a_quiet_subscriber_that_fails_over_to_a_standby_that_lags_applies_what_is_missing_there(
    telegraph: Telegraph, pair: Pair, how: str, at_once: bool
) -> None:
    stores: dict[str, Store] = {"receives": make_store(pair.url(how), "receives")}
    async with bench(
        telegraph.directory,
        telegraph.sends,
        telegraph.receives,
        broker=telegraph.broker(),
        stores=stores,
        engine=ENGINE,
    ) as world:
        await committed(telegraph.sends, *range(20))
        await telegraph.until_received(world, 20)
        await world.settle()
        await pair.fall_behind()
        for number in range(20, 20 + LAG):
            await committed(telegraph.sends, number)
            await telegraph.until_received(world, number + 1)
        await world.settle()
        await pair.fail_over(at_once=at_once)
        await all_received(telegraph, 20 + LAG)  # nobody sends anything
        await world.settle()
        assert await received_numbers(telegraph) == list(range(20 + LAG))


async def all_received(telegraph: Telegraph, total: int) -> None:
    async def enough() -> bool:
        return len(await received_numbers(telegraph)) >= total

    await eventually(enough)


async def eventually(met: Callable[[], Awaitable[bool]]) -> None:
    """While the address is away nobody can look, and nothing tells when to look again."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                if await met():
                    return
            except RetryableError:
                pass  # the server is not back yet
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("how", "at_once"), [("asyncpg-poll", AWAY), ("psycopg-wal", AT_ONCE)])
async def test_a_service_that_is_both_applies_once_in_its_database_and_sends_after_a_new_epoch(
    telegraph: Telegraph, pair: Pair, how: str, at_once: bool
) -> None:
    """Further down its last events come twice, under new ids: what a restored database costs."""
    tables = MetaData()
    repeated = Table("repeated", tables, Column("id", Integer, primary_key=True), Column("number", Integer))
    ends = MetaData()
    ended = Table("ended", ends, Column("id", String(80), primary_key=True), Column("number", Integer))
    repeats, ends_here = Service("repeats", tables=tables), Service("ends", tables=ends)

    @repeats.on
    async def repeat(event: Wired, step: Step) -> None:
        await step.session.execute(insert(repeated).values(number=event.number))
        step.publish(Repeated(station=event.station, number=event.number))

    @ends_here.on
    async def end(event: Repeated, step: Step) -> None:
        await step.session.execute(insert(ended).values(id=step.idempotency_key, number=event.number))

    async def numbers(service: Service, table: Table) -> list[int]:
        async with service.query() as session:
            return sorted((await session.execute(select(table.c.number))).scalars())

    async def at_the_end(total: int) -> None:
        async def enough() -> bool:
            return len(await numbers(ends_here, ended)) >= total

        await eventually(enough)

    services = (telegraph.sends, repeats, ends_here)
    url = pair.url(how)
    store = make_store(url, "repeats")
    stores: dict[str, Store] = {"repeats": store}
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await committed(telegraph.sends, *range(20))
        await at_the_end(20)
        await relayed(store, "repeats", 20)
        await pair.fall_behind()
        for number in range(20, 20 + LAG):
            await committed(telegraph.sends, number)
            await at_the_end(number + 1)
        await pair.fail_over(at_once=at_once)
        await refuses(world, "repeats")

        async def applied_again() -> bool:
            return len(await numbers(repeats, repeated)) >= 20 + LAG

        await eventually(applied_again)
        assert await numbers(repeats, repeated) == list(range(20 + LAG))
        assert len(await world.published(Repeated)) == 20 + LAG
    await new_epoch(telegraph, url, "repeats")
    stores = {"repeats": make_store(url, "repeats")}
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), stores=stores, engine=ENGINE) as world:
        await committed(telegraph.sends, 1000)
        await at_the_end(20 + 2 * LAG + 1)
        await world.settle()
        assert await numbers(repeats, repeated) == [*range(20 + LAG), 1000]
        twice = sorted([*range(20 + LAG), *range(20, 20 + LAG), 1000])
        assert await numbers(ends_here, ended) == twice
