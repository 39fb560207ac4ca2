"""A database that goes back to an older state while its service runs: noticed at the next look, not lost in silence."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from servers import MariaDbServer, PostgresServer, TcpProxy
from tests.faults.test_log_damage import Telegraph, Wired, all_of
from tests.faults.test_restored_store import new_epoch, refusal
from tests.unit.engine.workbench import Sender, bench, config

from ensue import Service
from ensue.adapters import make_store
from ensue.engine.ask import ask_again
from ensue.engine.books import Books
from ensue.engine.readiness import ReadyLimits, not_ready
from ensue.engine.retention import prune_once
from ensue.message import Gap, Partition
from ensue.ports import Store
from ensue.testing import World

#: Nothing but a commit makes the relay look.
WOKEN = config(poll_interval_s=60, tick_first_s=60, tick_max_s=60)


@pytest.fixture
def telegraph(tmp_path: Path) -> Telegraph:
    return Telegraph(tmp_path)


def copied(source: Path, target: Path) -> Path:
    """What `sqlite3 target ".restore source"` does, by a process of its own; returns the target."""
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", program, source, target], check=True, timeout=60)
    return target


async def send_at_once(service: Service, start: int, end: int) -> None:
    async with service.step() as step:
        for number in range(start, end):
            step.publish(Wired(station=f"station-{number % 4}", number=number))


async def numbers(world: World) -> list[int]:
    return sorted(each.number for each in await world.published(Wired))


async def gone_on(telegraph: Telegraph, world: World, *, keep: int = 20, end: int = 30) -> Path:
    """All of it is sent and received; return a copy of the sender's file from when it had `keep`."""
    await telegraph.send(0, keep)
    await world.settle()
    copy = copied(telegraph.directory / "sends.db", telegraph.directory / "copy.db")
    await telegraph.send(keep, end)
    await telegraph.until_received(world, end)
    await world.settle()
    return copy


async def test_a_file_that_an_older_copy_is_put_into_is_refused_at_the_next_look(telegraph: Telegraph) -> None:
    """Nobody publishes anything: the look finds that the last record sent is none of the store's."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        copied(await gone_on(telegraph, world), telegraph.directory / "sends.db")
        refused = await refusal(world)
        assert "holds position 30" in str(refused)
        assert "knows of none after position 20 any more" in str(refused)
        assert "ensue db new-epoch" in str(refused)
        runtime = world.runtimes["sends"]
        [reason] = await not_ready(runtime.context, runtime.worker, connecting=False, limits=ReadyLimits())
        assert "ensue db new-epoch" in reason


@pytest.mark.parametrize("written", [5, 10, 25])
async def test_what_a_file_that_went_back_has_written_since_is_not_sent_before_a_new_epoch_and_then_is(
    telegraph: Telegraph, written: int
) -> None:
    """Fewer than were sent in the life that is lost, as many, more: the next look sees a head that tells nothing."""
    total = 30 + written
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=WOKEN
    ) as world:
        copied(await gone_on(telegraph, world), telegraph.directory / "sends.db")
        await send_at_once(telegraph.sends, 1000, 1000 + written)
        refused = await refusal(world)
        assert refused.topic == "wires"
        assert ("at that position now" in str(refused)) == (written >= 10)
        assert await numbers(world) == list(range(30))
    await new_epoch(telegraph)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, total)
        await world.settle()
        got = await telegraph.received()
        assert sorted(each for some in got.values() for each in some) == [*range(30), *range(1000, 1000 + written)]


async def test_a_relay_that_stops_does_not_tell_an_older_copy_that_it_was_sent(telegraph: Telegraph) -> None:
    """Else a new epoch would take what the copy writes next for sent."""
    engine = config(poll_interval_s=60, tick_first_s=60, tick_max_s=60, relay_save_interval_s=60)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        copied(await gone_on(telegraph, world), telegraph.directory / "sends.db")
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as database:
        assert database.execute("SELECT position FROM ensue_relay WHERE id LIKE '%/%'").fetchone() <= (20,)


async def test_a_new_epoch_sends_what_an_older_copy_wrote_although_the_relays_position_says_that_it_is_sent(
    telegraph: Telegraph,
) -> None:
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=WOKEN
    ) as world:
        copied(await gone_on(telegraph, world), telegraph.directory / "sends.db")
        await send_at_once(telegraph.sends, 1000, 1005)
        await refusal(world)
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as database:
        database.execute("UPDATE ensue_relay SET position = 30 WHERE id LIKE 'sends/%'")
        database.commit()
    await new_epoch(telegraph)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 35)


async def test_a_subscriber_that_asks_again_is_not_answered_with_another_lifes_records(telegraph: Telegraph) -> None:
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=WOKEN) as world:
        await telegraph.send(0, 30)
        await world.settle()
        runtime = world.runtimes["sends"]
        while await runtime.context.books.relay_position() < 30:  # then it waits, and no look of its own comes first  # noqa: ASYNC110  # another task of the same loop saves it
            await asyncio.sleep(0.01)
        # A copy that went on to the same position elsewhere.
        copy = copied(telegraph.directory / "sends.db", telegraph.directory / "copy.db")
        other = Sender(world.broker)
        with closing(sqlite3.connect(copy)) as database:
            for position in range(21, 31):
                record = other.record(Wired(station="station-0", number=1000 + position))
                database.execute(
                    "UPDATE ensue_outbox SET envelope = ?, data = ? WHERE position = ?",
                    (record.envelope, record.data, position),
                )
            database.commit()
        copied(copy, telegraph.directory / "sends.db")
        gap = Gap(source=runtime.store.source, watermark=10, needed=30, since=0.0)
        await ask_again(runtime.context, Partition("receives", "wires", 0), gap)
        assert "at that position now" in str(await refusal(world))
        assert await numbers(world) == list(range(30))


async def test_retention_leaves_the_record_by_which_the_relay_knows_its_store_again(telegraph: Telegraph) -> None:
    old = config(retention_s=0.001)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await gone_on(telegraph, world)
        runtime = world.runtimes["sends"]
        while await runtime.context.books.relay_position() < 30:
            await runtime.store.outbox_wait(0.01)
        await prune_once(dataclasses.replace(runtime.context, config=old))
        assert [each.position for each in await runtime.store.outbox_after(0, 100)] == [30]
        await telegraph.send(30, 40)
        await telegraph.until_received(world, 40)
        assert runtime.worker is not None
        assert runtime.worker.failed is None


async def test_a_relay_goes_on_when_its_last_record_was_taken_away_by_hand(telegraph: Telegraph) -> None:
    """The log has it and the head is where it was: no older copy."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await gone_on(telegraph, world)
        with closing(sqlite3.connect(telegraph.directory / "sends.db")) as database:
            database.execute("DELETE FROM ensue_outbox")
            database.commit()
        await telegraph.send(30, 60)
        await telegraph.until_received(world, 60)
        assert await telegraph.received() == all_of()


async def test_a_relay_whose_position_is_beyond_all_that_its_store_knows_is_refused_whatever_the_log_has(
    telegraph: Telegraph,
) -> None:
    """As when it begins in the middle of a restore, table by table: the outbox is the copy's, its position is not."""
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(0, 30)
        await world.settle()
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as database:
        database.execute("DELETE FROM ensue_outbox WHERE position > 20")
        database.execute("UPDATE ensue_outbox_head SET position = 20")
        database.execute("UPDATE ensue_relay SET position = 30 WHERE id LIKE 'sends/%'")
        database.commit()
    for path in telegraph.directory.glob("broker.db*"):
        path.unlink()
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        refused = str(await refusal(world))
        assert "position 30 of sends/" in refused
        assert "was sent, but the store knows of none after position 20" in refused


async def test_an_epoch_that_another_process_begins_below_the_relays_position_is_sent_from_its_beginning(
    telegraph: Telegraph,
) -> None:
    """The relay went on from its own position before, and left out what the epoch has below it."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await gone_on(telegraph, world)
        other = make_store(f"sqlite:///{telegraph.directory}/sends.db", "sends")
        await other.open()
        await other.new_epoch(25, other.source)
        await other.close()
        await telegraph.until_received(world, 35)  # 25 to 29 once more, as another source's
        await telegraph.send(30, 40)
        await telegraph.until_received(world, 45)


# --- subscribers


async def test_an_idle_subscriber_whose_file_went_back_applies_what_it_has_forgotten(telegraph: Telegraph) -> None:
    engine = config(lease_ttl_s=0.2)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        copy = copied(telegraph.directory / "receives.db", telegraph.directory / "copy.db")
        await telegraph.send(20, 60)
        await telegraph.until_received(world, 60)
        copied(copy, telegraph.directory / "receives.db")
        assert sum(map(len, (await telegraph.received()).values())) < 60
        await telegraph.until_received(world, 60)  # nothing is sent
        await world.settle()
        assert await telegraph.received() == all_of()


# --- servers


class Database:
    """A server's database that can be taken back behind everybody's back, in one transaction. run: SQL, as owner."""

    def __init__(self, url: str, run: Callable[[str], str], *, tables: str, insert: str) -> None:
        self.url = url
        self._run = run
        self._tables = tables
        self._insert = insert

    async def save(self) -> None:
        for name in await self._names():
            await asyncio.to_thread(self._run, f"CREATE TABLE saved_{name} AS SELECT * FROM {name}")

    async def put_back(self) -> None:
        parts = [
            f"DELETE FROM {name}; INSERT INTO {name} {self._insert} SELECT * FROM saved_{name};"
            for name in await self._names()
        ]
        await asyncio.to_thread(self._run, "BEGIN; " + " ".join(parts) + " COMMIT")

    async def _names(self) -> list[str]:
        """Without the leases: the worker that holds them lives."""
        found = (await asyncio.to_thread(self._run, self._tables)).split()
        return [name for name in found if not name.startswith(("ensue_lease", "saved_"))]


@pytest.fixture(params=["poll", "wal", "mariadb"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "mariadb":
        mariadb: MariaDbServer = request.getfixturevalue("mariadb_server")
        url = mariadb.url("goes_back")
        yield Database(url, lambda text: mariadb.sql(text, "goes_back"), tables="SHOW TABLES", insert="")
        mariadb.drop("goes_back")
        return
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"goes_back_{request.param}"
    url = postgres.url(name) + f"?outbox={request.param}"
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    yield Database(url, lambda text: postgres.psql(name, text), tables=tables, insert="OVERRIDING SYSTEM VALUE")
    slots = f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'"
    postgres.psql(name, slots)
    postgres.drop(name)


@pytest.mark.parametrize("written", [5, 10, 25])
async def test_a_server_that_went_back_is_refused_before_anything_of_its_new_life_is_sent(
    telegraph: Telegraph, database: Database, written: int
) -> None:
    stores: dict[str, Store] = {"sends": make_store(database.url, "sends")}
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), stores=stores, engine=WOKEN
    ) as world:
        await send_at_once(telegraph.sends, 0, 20)
        await telegraph.until_received(world, 20)
        while await Books(stores["sends"], "sends").relay_position() < 20:
            await stores["sends"].outbox_wait(0.01)
        await database.save()
        await send_at_once(telegraph.sends, 20, 30)
        await telegraph.until_received(world, 30)
        await database.put_back()
        await send_at_once(telegraph.sends, 1000, 1000 + written)
        await refusal(world)
        assert await numbers(world) == list(range(30))


@pytest.mark.parametrize("database", ["poll", "mariadb"], indirect=True)  # the tail of a log needs a real standby
async def test_a_server_that_went_back_while_its_log_was_lost_is_refused_by_what_was_applied(
    telegraph: Telegraph, database: Database
) -> None:
    """The log has nothing that could contradict it."""
    both = (telegraph.sends, telegraph.receives)
    stores: dict[str, Store] = {"sends": make_store(database.url, "sends")}
    async with bench(telegraph.directory, *both, broker=telegraph.broker(), stores=stores) as world:
        await send_at_once(telegraph.sends, 0, 20)
        await telegraph.until_received(world, 20)
        while await Books(stores["sends"], "sends").relay_position() < 20:
            await stores["sends"].outbox_wait(0.01)
        await database.save()
        await send_at_once(telegraph.sends, 20, 30)
        await telegraph.until_received(world, 30)
    await database.put_back()
    for path in telegraph.directory.glob("broker.db*"):
        path.unlink()
    stores = {"sends": make_store(database.url, "sends")}
    engine = config(resend_interval_s=5.0)  # the subscriber has time to say it
    async with bench(telegraph.directory, *both, broker=telegraph.broker(), stores=stores, engine=engine) as world:
        await send_at_once(telegraph.sends, 1000, 1005)
        assert "receives has applied position 30 (message " in str(await refusal(world))
        assert await numbers(world) == []


async def goes_back_while_idle(telegraph: Telegraph, database: Database | Dumped, url: str) -> None:
    """The subscriber's database, by this URL, goes back by 40 events, and nothing is sent after that."""
    stores: dict[str, Store] = {"receives": make_store(url, "receives")}
    async with bench(
        telegraph.directory,
        telegraph.sends,
        telegraph.receives,
        broker=telegraph.broker(),
        stores=stores,
        engine=config(lease_ttl_s=0.5),
    ) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
        await database.save()
        await telegraph.send(20, 60)
        await telegraph.until_received(world, 60)
        await database.put_back()
        await telegraph.until_received(world, 60)  # nothing is sent
        await world.settle()
        assert await telegraph.received() == all_of()


async def test_an_idle_subscriber_whose_server_went_back_applies_what_it_has_forgotten(
    telegraph: Telegraph, database: Database
) -> None:
    await goes_back_while_idle(telegraph, database, database.url)


class Dumped:
    """A MariaDB database that is dropped, table by table, and loaded again from a dump while services live.

    url: its own; away: through a line that is cut while it is loaded.
    """

    def __init__(self, server: MariaDbServer, name: str, line: TcpProxy) -> None:
        self._server = server
        self._name = name
        self._line = line
        self.url = server.url(name)
        self.away = self.url.replace(str(server.port), str(line.port))

    async def save(self) -> None:
        await asyncio.to_thread(self._server.dump, self._name, "older")

    async def put_back(self) -> None:
        await self._line.cut()
        await asyncio.to_thread(self._server.load, self._name, "older")
        self._line.heal()


@pytest.fixture
async def dumped(mariadb_server: MariaDbServer) -> AsyncIterator[Dumped]:
    async with TcpProxy(mariadb_server.port) as line:
        yield Dumped(mariadb_server, "dumped", line)
    mariadb_server.drop("dumped")


@pytest.mark.parametrize("written", [0, 5, 25])
async def test_tables_that_are_loaded_from_an_older_dump_are_refused(
    telegraph: Telegraph, dumped: Dumped, written: int
) -> None:
    """For a while they are not there at all, and nobody gives up for that."""
    stores: dict[str, Store] = {"sends": make_store(dumped.url, "sends")}
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), stores=stores
    ) as world:
        await send_at_once(telegraph.sends, 0, 20)
        await telegraph.until_received(world, 20)
        while await Books(stores["sends"], "sends").relay_position() < 20:
            await stores["sends"].outbox_wait(0.01)
        await dumped.save()
        await send_at_once(telegraph.sends, 20, 30)
        await telegraph.until_received(world, 30)
        await dumped.put_back()
        if written:
            await send_at_once(telegraph.sends, 1000, 1000 + written)
        await refusal(world)
        assert await numbers(world) == list(range(30))


async def test_a_quiet_subscriber_whose_tables_are_loaded_from_an_older_dump_applies_what_they_lack(
    telegraph: Telegraph, dumped: Dumped
) -> None:
    """It lives on without its database until all tables are of one moment again: no commit can fall between two."""
    await goes_back_while_idle(telegraph, dumped, dumped.away)


@pytest.mark.parametrize("mode", ["poll", "wal"])
@pytest.mark.parametrize("written", [0, 5, 25])
async def test_a_server_that_forgot_what_it_had_acknowledged_is_refused(
    telegraph: Telegraph, start: Callable[..., PostgresServer], mode: str, written: int
) -> None:
    """As a failover to a standby that lags: the same address, with an older state of all that is on disk."""
    server = start(PostgresServer)
    url = server.url("forgot") + f"?outbox={mode}"
    store = make_store(url, "sends")
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), stores={"sends": store}
    ) as world:
        await send_at_once(telegraph.sends, 0, 20)
        await telegraph.until_received(world, 20)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.save_data, "older")
        server.spawn()
        await server.ready()
        await telegraph.send(20, 30)
        await telegraph.until_received(world, 30)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restore_data, "older")
        server.spawn()
        await server.ready()
        if written:
            await send_at_once(telegraph.sends, 1000, 1000 + written)
        await refusal(world)
        assert set(await numbers(world)) == set(range(30))  # some of them twice: the relay's position went back too
