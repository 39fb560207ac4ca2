"""A log that lost, repeated, reordered or damaged what it was given: seen, healed from the outbox, applied once.

The log is the embedded broker's real file, and the damage is done to it with SQL, behind everybody's back.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config, letters, until

from ensue import Event, Service, Step, UsageError
from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.books import Books
from ensue.message import DeadLetterState, GapState, Partition
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World

TOTAL = 60
KEYS = 4


class Wired(Event, topic="wires", key="station"):
    station: str
    number: int


tables = MetaData()
received = Table(
    "received",
    tables,
    Column("id", Integer, primary_key=True),
    Column("station", String(40)),
    Column("number", Integer),
)


class Telegraph:
    """`sends` writes to the log, `receives` keeps what it got. The log is a file that can be damaged in between."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "broker.db"
        self.sends = Service("sends")
        self.receives = Service("receives", tables=tables)

        @self.receives.on
        async def receive(event: Wired, step: Step) -> None:
            await step.session.execute(insert(received).values(station=event.station, number=event.number))

    def broker(self) -> EmbeddedBroker:
        return EmbeddedBroker(f"sqlite:///{self.path}")

    async def send(self, start: int, end: int) -> None:
        for number in range(start, end):
            async with self.sends.step() as step:
                step.publish(Wired(station=f"station-{number % KEYS}", number=number))

    async def sent_and_stopped(self, total: int = TOTAL) -> None:
        """Everything is in the log, nobody has read it yet."""
        async with bench(
            self.directory, self.sends, broker=self.broker(), engine=config(tick_first_s=60, tick_max_s=60)
        ) as world:
            await self.send(0, total)
            await world.settle()

    async def received(self, source: str = "station") -> dict[str, list[int]]:
        async with self.receives.query() as session:
            rows = await session.execute(select(received.c.station, received.c.number).order_by(received.c.id))
            found: dict[str, list[int]] = {}
            for station, number in rows:
                if station.startswith(source):
                    found.setdefault(station, []).append(number)
            return found

    async def takes_away(self, through: int) -> None:
        """As retention does: the sender's oldest records, noting that all of them were written before now."""
        store = SqliteStore(f"sqlite:///{self.directory}/sends.db?synchronous=OFF", "sends")
        await store.open()
        try:
            await Books(store, "sends").note_pruning(await store.now())
            assert await store.outbox_prune(await store.now(), through, through) == through
        finally:
            await store.close()

    async def until_received(self, world: World, number: int) -> None:
        got = 0

        async def count() -> None:
            nonlocal got
            while True:
                world._progress.clear()  # before looking: what comes meanwhile is not missed
                if (got := sum(map(len, (await self.received("")).values()))) >= number:
                    break
                await world._progress.wait()

        try:
            await asyncio.wait_for(count(), LIMIT_S)
        except TimeoutError:
            raise AssertionError(f"received {got} of {number}: {await self.received('')}") from None

    @contextmanager
    def log(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            yield connection
            connection.commit()

    async def counters(self, world: World) -> tuple[int, int, int]:
        [checkpoint] = (await world.runtimes["receives"].context.books.checkpoints()).values()
        return checkpoint.counters.gaps_seen, checkpoint.counters.gaps_healed, checkpoint.counters.duplicates


def all_of(total: int = TOTAL) -> dict[str, list[int]]:
    return {f"station-{key}": list(range(key, total, KEYS)) for key in range(KEYS)}


@pytest.fixture
def telegraph(tmp_path: Path) -> Telegraph:
    return Telegraph(tmp_path)


# --- damage, each done to the rows of the log in order


Log = sqlite3.Connection
COLUMNS = "key, source, position, previous, appended_at, envelope, data"


def ids(log: Log) -> list[int]:
    """Row ids of the events of the topic, in log order."""
    return [row for (row,) in log.execute("SELECT id FROM records WHERE topic = 'wires' ORDER BY id")]


def drop(log: Log, *places: int) -> None:
    rows = ids(log)
    log.executemany("DELETE FROM log WHERE id = ?", [(rows[place],) for place in places])


def append_again(log: Log, *places: int) -> None:
    rows = ids(log)
    for number, place in enumerate(places, 1):
        log.execute(
            f"INSERT INTO log (id, {COLUMNS}) SELECT ?, {COLUMNS} FROM log WHERE id = ?",
            (rows[-1] + number, rows[place]),
        )
    log.execute("UPDATE partitions SET last_offset = last_offset + ? WHERE topic = 'wires'", (len(places),))


def swap(log: Log, one: int, other: int) -> None:
    rows = ids(log)
    log.execute("UPDATE log SET id = -1 WHERE id = ?", (rows[one],))
    log.execute("UPDATE log SET id = ? WHERE id = ?", (rows[one], rows[other]))
    log.execute("UPDATE log SET id = ? WHERE id = -1", (rows[other],))


def reverse(log: Log) -> None:
    for place in range(TOTAL // 2):
        swap(log, place, TOTAL - 1 - place)


def truncate(log: Log, place: int) -> None:
    log.execute("UPDATE log SET envelope = substr(envelope, 1, length(envelope) / 2) WHERE id = ?", (ids(log)[place],))


def scramble(log: Log, place: int) -> None:
    log.execute("UPDATE log SET envelope = randomblob(80), data = randomblob(80) WHERE id = ?", (ids(log)[place],))


def break_text(log: Log, place: int) -> None:
    log.execute("UPDATE log SET key = CAST(x'ff00fe' AS TEXT) WHERE id = ?", (ids(log)[place],))


def flip(log: Log, place: int, column: str, bit: int) -> None:
    """Turn one bit over, of those that the column has."""
    [value] = log.execute(f"SELECT CAST({column} AS BLOB), {column} FROM log WHERE id = ?", (ids(log)[place],))
    raw, number = value
    if column in ("position", "previous"):
        spoilt: object = number ^ (1 << bit % 63)
    else:
        bit %= 8 * len(raw)
        spoilt = raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :]
    kind = "TEXT" if column in ("key", "source") else "INTEGER" if isinstance(spoilt, int) else "BLOB"
    log.execute(f"UPDATE log SET {column} = CAST(? AS {kind}) WHERE id = ?", (spoilt, ids(log)[place]))


def flip_each(log: Log) -> None:
    for place in range(TOTAL):
        flip(log, place, "data", 100 + place)


def swap_with_the_first(log: Log, place: int) -> None:
    if place:
        swap(log, 0, place)


BLOWS: list[Callable[[Log, int], None]] = [
    drop, drop, append_again, truncate, scramble, break_text, swap_with_the_first,
]  # fmt: skip
DAMAGE: dict[str, Callable[[Log], None]] = {
    "the first record dropped": lambda log: drop(log, 0),
    "one in the middle dropped": lambda log: drop(log, 17),
    "the very last dropped": lambda log: drop(log, TOTAL - 1),
    "the last ten dropped": lambda log: drop(log, *range(TOTAL - 10, TOTAL)),
    "every second dropped": lambda log: drop(log, *range(0, TOTAL, 2)),
    "all but the last dropped": lambda log: drop(log, *range(TOTAL - 1)),
    "everything dropped": lambda log: drop(log, *range(TOTAL)),
    "everything twice": lambda log: append_again(log, *range(TOTAL)),
    "the first again at the end": lambda log: append_again(log, 0),
    "two neighbours swapped": lambda log: swap(log, 20, 21),
    "the first and the last swapped": lambda log: swap(log, 0, TOTAL - 1),
    "all in reverse": reverse,
    "an envelope cut in half": lambda log: truncate(log, 30),
    "the last envelope cut in half": lambda log: truncate(log, TOTAL - 1),
    "bytes of chance": lambda log: scramble(log, 30),
    "a key that is no text": lambda log: break_text(log, 30),
    "a bit of the data": lambda log: flip(log, 30, "data", 77),
    "a bit of the envelope": lambda log: flip(log, 30, "envelope", 101),
    "a bit of the key": lambda log: flip(log, 30, "key", 3),
    "a bit of the position": lambda log: flip(log, 30, "position", 40),
    "a bit of the previous position": lambda log: flip(log, 30, "previous", 2),
    "a bit of the last record": lambda log: flip(log, TOTAL - 1, "data", 77),
    "a bit of the first record": lambda log: flip(log, 0, "data", 77),
    "a bit of every record": flip_each,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_whatever_happened_to_the_log_each_record_takes_effect_once_in_order(
    telegraph: Telegraph, damage: str
) -> None:
    """The sender has nothing more to say: what is missing at the end shows by its ticks alone."""
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        DAMAGE[damage](log)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, TOTAL)
        await world.settle()
        assert await telegraph.received() == all_of()
        await telegraph.send(TOTAL, TOTAL + 8)
        await telegraph.until_received(world, TOTAL + 8)
        await world.settle()
        assert await telegraph.received() == all_of(TOTAL + 8)
        seen, healed, _ = await telegraph.counters(world)
        assert seen == healed
        # What came again is nobody's business any more.
        assert await letters(world, telegraph.receives) == []


@pytest.mark.parametrize("seed", range(6))
async def test_bits_that_flip_anywhere_are_noticed_and_what_they_were_in_comes_again(
    telegraph: Telegraph, seed: int
) -> None:
    random = Random(seed)
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        places = random.sample(range(TOTAL), random.randint(1, TOTAL))
        for each in places:
            flip(
                log,
                each,
                random.choice(["key", "source", "position", "previous", "envelope", "data"]),
                random.getrandbits(30),
            )
    engine = config(batch_records_max=random.choice([1, 5, 500]))
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        await telegraph.until_received(world, TOTAL)
        await world.settle()
        assert await telegraph.received("") == all_of(), f"seed {seed}"
        assert await letters(world, telegraph.receives) == []
        [checkpoint] = (await world.runtimes["receives"].context.books.checkpoints()).values()
        assert checkpoint.counters.damaged >= len(places)


@pytest.mark.parametrize("seed", range(12))
async def test_any_mixture_of_damage_is_healed(telegraph: Telegraph, seed: int) -> None:
    random = Random(seed)
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        for _ in range(random.randint(3, 25)):
            places = range(len(ids(log)))
            blow = random.choice(BLOWS)
            blow(log, random.choice(places))
    engine = config(batch_records_max=random.choice([1, 5, 500]))
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        await telegraph.until_received(world, TOTAL)
        await world.settle()
        assert await telegraph.received() == all_of(), f"seed {seed}"


async def test_while_one_source_has_a_gap_another_in_the_same_partition_goes_on(telegraph: Telegraph) -> None:
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        drop(log, 10)
    async with bench(telegraph.directory, telegraph.receives, broker=telegraph.broker()) as world:  # `sends` is down
        await telegraph.until_received(world, 10)
        await Sender(world.broker).send(*[Wired(station=f"elsewhere-{number}", number=number) for number in range(30)])
        await telegraph.until_received(world, 40)
        assert len(await telegraph.received("elsewhere")) == 30
        got = await telegraph.received()
        assert sum(map(len, got.values())) == 10
        [checkpoint] = (await world.runtimes["receives"].context.books.checkpoints()).values()
        [gap] = checkpoint.gaps.values()
        assert (gap.watermark, gap.needed, gap.state) == (10, TOTAL, GapState.OPEN)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, TOTAL + 30)
        await world.settle()
        assert await telegraph.received() == all_of()


@pytest.mark.parametrize("read", [0, 25, TOTAL])
async def test_a_log_that_was_deleted_while_all_were_down_is_filled_from_the_outbox_again(
    telegraph: Telegraph, read: int
) -> None:
    """read: how many the subscriber had applied before."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(0, read)
        await world.settle()
        assert sum(map(len, (await telegraph.received()).values())) == read
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(read, TOTAL)
        await world.settle()
    for path in telegraph.directory.glob("broker.db*"):
        path.unlink()
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(TOTAL, TOTAL + 4)
        await telegraph.until_received(world, TOTAL + 4)
        await world.settle()
        assert await telegraph.received() == all_of(TOTAL + 4)


async def test_a_log_emptied_while_all_run_is_filled_from_the_outbox_again(telegraph: Telegraph) -> None:
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        for start in range(0, TOTAL, 10):
            await telegraph.send(start, start + 10)
            with telegraph.log() as log:
                log.execute("DELETE FROM log")
                log.execute("UPDATE partitions SET last_offset = 0")
        await telegraph.until_received(world, TOTAL)
        assert await telegraph.received() == all_of()


async def test_a_log_deleted_while_all_run_is_filled_from_the_outbox_again(telegraph: Telegraph) -> None:
    """Each service has its own broker object, as a process of its own would; nobody keeps the deleted file."""
    brokers = {name: telegraph.broker() for name in ("sends", "receives")}
    services = (telegraph.sends, telegraph.receives)
    async with bench(telegraph.directory, *services, broker=telegraph.broker(), brokers=brokers) as world:
        await telegraph.send(0, 20)
        await world.settle()
        for path in telegraph.directory.glob("broker.db*"):
            path.unlink()
        await telegraph.send(20, TOTAL)
        await telegraph.until_received(world, TOTAL)
        assert await telegraph.received() == all_of()
        await telegraph.send(TOTAL, TOTAL + 4)
        await telegraph.until_received(world, TOTAL + 4)
        with telegraph.log() as log:
            assert ids(log)
    async with bench(telegraph.directory, *services, broker=telegraph.broker()) as world:
        await telegraph.send(TOTAL + 4, TOTAL + 8)
        await telegraph.until_received(world, TOTAL + 8)
        assert await telegraph.received() == all_of(TOTAL + 8)


async def test_a_log_deleted_with_its_last_record_unread_is_filled_although_nobody_says_anything(
    telegraph: Telegraph,
) -> None:
    """The sender is silent and must find out by itself that the log is another one."""
    brokers = {name: telegraph.broker() for name in ("sends", "receives")}
    engine = config(tick_first_s=0.05, tick_max_s=3600.0)  # long silent: no tick would come in time
    async with bench(
        telegraph.directory, telegraph.sends, broker=telegraph.broker(), brokers=brokers, engine=engine
    ) as world:
        await telegraph.send(0, 20)
        await world.settle()
        await world.runtimes["sends"].store.outbox_wait(0.5)
        for path in telegraph.directory.glob("broker.db*"):
            path.unlink()
        async with bench(telegraph.directory, telegraph.receives, broker=telegraph.broker(), engine=engine) as other:
            await telegraph.until_received(other, 20)


async def test_the_end_of_a_log_that_was_lost_is_asked_for_although_its_source_is_silent(
    telegraph: Telegraph,
) -> None:
    """Both go on running, the subscriber lags behind by the last records, and no tick comes for an hour."""
    engine = config(tick_first_s=3600.0, tick_max_s=3600.0)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        await telegraph.send(0, 20)
        await telegraph.until_received(world, 20)
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker(), engine=engine) as world:
        await telegraph.send(20, TOTAL)
        await world.settle()
        with telegraph.log() as log:
            log.execute("DELETE FROM log WHERE position > 10")
            log.execute("UPDATE partitions SET last_offset = 10")
        async with bench(telegraph.directory, telegraph.receives, broker=telegraph.broker(), engine=engine) as other:
            await telegraph.until_received(other, TOTAL)
            assert await telegraph.received() == all_of()


# --- what even the outbox does not have any more


async def lost_beyond_recall(telegraph: Telegraph, first: int, last: int) -> None:
    """The subscriber has applied the first 20; positions first to last are gone from log and outbox."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(0, 20)
        await world.settle()
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(20, TOTAL)
        await world.settle()
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position BETWEEN ? AND ?", (first, last))
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as outbox:
        outbox.execute("DELETE FROM ensue_outbox WHERE position <= ?", (last,))
        outbox.commit()


async def gap_of(world: World) -> tuple[GapState, int, int, int] | None:
    [checkpoint] = (await world.runtimes["receives"].context.books.checkpoints()).values()
    found = [(each.state, each.watermark, each.lost_through, each.needed) for each in checkpoint.gaps.values()]
    return found[0] if found else None


async def until_lost(world: World) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            world._progress.clear()  # before looking: what comes meanwhile is not missed
            if not ((gap := await gap_of(world)) is None or gap[0] is not GapState.LOST):
                break
            await world._progress.wait()


@pytest.mark.parametrize(("first", "last"), [(21, 30), (25, 30), (51, TOTAL)])
async def test_what_is_gone_for_good_is_an_alarm_and_only_its_acceptance_goes_past_it(
    telegraph: Telegraph, first: int, last: int
) -> None:
    await lost_beyond_recall(telegraph, first, last)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await until_lost(world)
        await telegraph.send(TOTAL, TOTAL + 8)
        await Sender(world.broker).send(Wired(station="elsewhere", number=1))
        await telegraph.until_received(world, first - 1 + 1)
        await world.settle()
        before = {key: [number for number in numbers if number < first - 1] for key, numbers in all_of().items()}
        assert await telegraph.received() == before  # nothing past the loss
        assert len(await telegraph.received("elsewhere")) == 1
        books = world.runtimes["receives"].context.books
        source = world.runtimes["sends"].store.source
        gap = await gap_of(world)
        assert gap is not None
        assert gap[:3] == (GapState.LOST, first - 1, last)

        assert await books.accept_loss(Partition("receives", "wires", 0), source) == last
        await telegraph.until_received(world, TOTAL + 8 - (last - first + 1) + 1)
        await world.settle()
        gone = set(range(first - 1, last))  # numbers are positions less one
        assert await telegraph.received() == {
            key: [number for number in numbers if number not in gone] for key, numbers in all_of(TOTAL + 8).items()
        }
        assert await gap_of(world) is None
        with pytest.raises(UsageError, match="no gap"):
            await books.accept_loss(Partition("receives", "wires", 0), source)


async def test_a_loss_that_was_not_one_heals_by_itself(telegraph: Telegraph) -> None:
    """An outbox that is restored, or a log that comes back, closes a gap that was called lost."""
    await lost_beyond_recall(telegraph, 21, 30)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await until_lost(world)
        source = world.runtimes["sends"].store.source
        sender = Sender(world.broker, source)
        again = [sender.record(Wired(station=f"station-{number % KEYS}", number=number)) for number in range(TOTAL)]
        await sender.append(*again[20:])
        await telegraph.until_received(world, TOTAL)
        await world.settle()
        assert await telegraph.received() == all_of()
        assert await gap_of(world) is None


async def test_a_new_subscriber_begins_after_what_retention_took_and_says_so(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position <= 40")
    await telegraph.takes_away(30)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 30)
        await world.settle()
        assert await telegraph.received() == {
            key: [number for number in numbers if number >= 30] for key, numbers in all_of().items()
        }
        assert not await letters(world, telegraph.receives, DeadLetterState.DEAD)
        assert await gap_of(world) is None
    assert "up to position 30 is gone" in caplog.text


async def test_a_loss_is_neither_asked_for_nor_complained_of_without_end(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    await lost_beyond_recall(telegraph, 21, 30)
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await until_lost(world)
        asked = (await world.broker.bounds("ensue.control", 0)).last
        for number in range(TOTAL, TOTAL + 20):
            await telegraph.send(number, number + 1)
            await until(lambda: world.runtimes["receives"].worker.loops.consumers[0].settled, world)  # type: ignore[union-attr]
        await asyncio.sleep(0.3)  # several resend intervals
        assert (await world.broker.bounds("ensue.control", 0)).last <= asked + 1
    assert len([each for each in caplog.records if "are gone from log and outbox" in each.getMessage()]) == 1


async def test_a_long_loss_is_sent_again_about_once_and_not_anew_with_each_batch_of_it(
    telegraph: Telegraph, caplog: pytest.LogCaptureFixture
) -> None:
    total = 3000
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        for start in range(0, total, 100):
            async with telegraph.sends.step() as step:
                for number in range(start, start + 100):
                    step.publish(Wired(station=f"station-{number % KEYS}", number=number))
        await world.settle()
    with telegraph.log() as log:
        log.execute("DELETE FROM log")
    engine = config(batch_records_max=50, resend_interval_s=1.0)
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        await telegraph.until_received(world, total)
        await world.settle()
        assert await telegraph.received() == all_of(total)
        with telegraph.log() as log:
            [(sent,)] = log.execute("SELECT count(*) FROM records WHERE topic = 'wires' AND position > previous")
        assert sent < 2 * total, f"{sent} records were sent for {total}"
    assert len([each for each in caplog.records if each.name == "ensue.consumer"]) < 10  # 60 batches


@pytest.mark.parametrize("poison", [False, True])
async def test_a_new_subscriber_gets_what_the_log_still_has_although_the_outbox_has_less(
    telegraph: Telegraph, poison: bool
) -> None:
    """The log begins at position 41, the outbox at 51. poison: one message in between fails once and cuts its batch."""
    await telegraph.sent_and_stopped()
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position <= 40")
    await telegraph.takes_away(50)
    failed: list[int] = []

    @telegraph.receives.on(name="stumble")
    async def stumble(event: Wired) -> None:
        if poison and event.number == 54 and not failed:
            failed.append(event.number)
            raise RuntimeError("once")

    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.until_received(world, 20)
        await world.settle()
        assert await telegraph.received() == {
            key: [number for number in numbers if number >= 40] for key, numbers in all_of().items()
        }
        assert await gap_of(world) is None


@pytest.mark.parametrize("poison", [False, True])
async def test_an_accepted_loss_is_no_more_than_what_log_and_outbox_both_have_lost(
    telegraph: Telegraph, poison: bool
) -> None:
    """Applied 1 to 20; the log lost 21 to 30; the outbox begins at 41; so 21 to 30 are lost and 31 to 60 are not."""
    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await telegraph.send(0, 20)
        await world.settle()
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(20, TOTAL)
        await world.settle()
    with telegraph.log() as log:
        log.execute("DELETE FROM log WHERE position BETWEEN 21 AND 30")
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as outbox:
        outbox.execute("DELETE FROM ensue_outbox WHERE position <= 40")
        outbox.commit()
    failed: list[int] = []

    @telegraph.receives.on(name="stumble")
    async def stumble(event: Wired) -> None:
        if poison and event.number == 34 and not failed:
            failed.append(event.number)
            raise RuntimeError("once")

    async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
        await until_lost(world)
        source = world.runtimes["sends"].store.source
        assert (
            await world.runtimes["receives"].context.books.accept_loss(Partition("receives", "wires", 0), source) == 30
        )
        await telegraph.until_received(world, 50)
        await world.settle()
        assert await telegraph.received() == {
            key: [number for number in numbers if not 20 <= number < 30] for key, numbers in all_of().items()
        }
        assert await gap_of(world) is None


@pytest.mark.parametrize("new", [True, False], ids=["new subscriber", "old subscriber"])
@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_lost_no_more_is_given_up_than_what_neither_log_nor_outbox_has(
    telegraph: Telegraph, seed: int, new: bool
) -> None:
    """Holes anywhere in the log, the outbox without its beginning, and an operator who accepts each loss."""
    random = Random(seed)
    applied = 0 if new else random.randrange(1, 20)
    if not new:
        async with bench(telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker()) as world:
            await telegraph.send(0, applied)
            await world.settle()
    async with bench(telegraph.directory, telegraph.sends, broker=telegraph.broker()) as world:
        await telegraph.send(applied, TOTAL)
        await world.settle()
    kept_from = random.randrange(applied + 1, TOTAL)
    holes = {at for at in range(applied + 1, TOTAL + 1) if random.random() < random.choice([0.1, 0.5])}
    with telegraph.log() as log:
        log.executemany("DELETE FROM log WHERE position = ?", [(at,) for at in holes])
    with closing(sqlite3.connect(telegraph.directory / "sends.db")) as outbox:
        outbox.execute("DELETE FROM ensue_outbox WHERE position < ?", (kept_from,))
        outbox.commit()
    gone = {at for at in holes if at < kept_from}
    engine = config(batch_records_max=random.choice([1, 7, 500]))
    async with bench(
        telegraph.directory, telegraph.sends, telegraph.receives, broker=telegraph.broker(), engine=engine
    ) as world:
        books, source = world.runtimes["receives"].context.books, world.runtimes["sends"].store.source

        async def all_there() -> None:
            while sum(map(len, (await telegraph.received()).values())) < TOTAL - len(gone):
                gap = await gap_of(world)
                if gap is not None and gap[0] is GapState.LOST:
                    await books.accept_loss(Partition("receives", "wires", 0), source)
                world._progress.clear()
                await world._progress.wait()

        expected = {key: [each for each in numbers if each + 1 not in gone] for key, numbers in all_of().items()}
        try:
            await asyncio.wait_for(all_there(), LIMIT_S)
        except TimeoutError:
            got = await telegraph.received()
            missing = {key: sorted(set(expected[key]) - set(got.get(key, []))) for key in expected}
            raise AssertionError(
                f"seed {seed}: missing {missing}, gap {await gap_of(world)}, applied {applied}, "
                f"outbox from {kept_from}, holes {sorted(holes)}"
            ) from None
        await world.settle()
        assert await telegraph.received() == {key: numbers for key, numbers in expected.items() if numbers}
