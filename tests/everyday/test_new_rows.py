"""A row that two topics join into, met for the first time by two transactions at once: by two workers, by two lanes.

Each handler writes columns of its own. No message is set aside, none is tried twice, no column is lost, and one new row
that was there already does not make a transaction of each message.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from servers import MariaDbServer, PostgresServer
from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.orm import registry
from tests.unit.engine.workbench import LIMIT_S, Sender, config

from ensue import Event, Service, Settings, TableRepository
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.chain import partition_of
from ensue.engine.lane import Lane, Part
from ensue.engine.runtime import Runtime

ROWS = 200


class MeetingHosted(Event, topic="new-rows-hosts", key="meeting"):
    meeting: str
    host: str


class MeetingJoined(Event, topic="new-rows-guests", key="guest"):
    """Keyed by something else than the row's id: so the partitions of both topics have nothing in common."""

    meeting: str
    guest: str


def columns() -> list[Any]:
    return [
        Column("meeting", String(40), primary_key=True),
        Column("host", String(40), nullable=False),
        Column("guests", Integer, nullable=False),
        Column("badge", String(40), unique=True),
    ]


metadata = MetaData()
meetings = Table("new_row_meetings", metadata, *columns())


@dataclasses.dataclass(slots=True)
class Meeting:
    meeting: str
    host: str = ""
    guests: int = 0
    badge: str | None = None


class MappedMeeting:
    def __init__(self, meeting: str, host: str = "", guests: int = 0) -> None:
        self.meeting, self.host, self.guests = meeting, host, guests


registry(metadata=metadata).map_imperatively(MappedMeeting, meetings)

Wait = Callable[[str], Any]


def joined(cls: Any, wait: Wait, lanes: int = 1) -> Service:
    """wait: is awaited by each handler, with its topic, before it makes a row."""
    repositories = [TableRepository(Meeting, meetings)] if cls is Meeting else []
    service = Service("meetings", publishes=[], tables=metadata, repositories=repositories, lanes=lanes)

    async def note_host(meeting: Any, event: MeetingHosted) -> Any:
        if meeting is None:
            await wait("hosts")
            meeting = cls(meeting=event.meeting, host="", guests=0)
        meeting.host = event.host
        return meeting

    async def count_guest(meeting: Any, event: MeetingJoined) -> Any:
        if meeting is None:
            await wait("guests")
            meeting = cls(meeting=event.meeting, host="", guests=0)
        meeting.guests += 1
        return meeting

    for handler in (note_host, count_guest):
        handler.__annotations__["meeting"] = cls | None
        service.on(handler)
    return service


class Meet:
    """Both topics' first handlers wait for each other: each transaction has looked before either has made a row."""

    def __init__(self) -> None:
        self._came: dict[str, asyncio.Event] = {"hosts": asyncio.Event(), "guests": asyncio.Event()}

    async def __call__(self, topic: str) -> None:
        self._came[topic].set()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*[each.wait() for each in self._came.values()])


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    server: PostgresServer | MariaDbServer = request.getfixturevalue(
        "postgres_server" if request.param == "postgresql" else "mariadb_server"
    )
    server.drop("new_rows")
    yield server.url("new_rows", request.param)
    server.drop("new_rows")


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each transaction of a lane was to apply."""
    found: list[int] = []
    real = Lane._transact

    async def counted(self: Lane, parts: Sequence[Part]) -> None:
        found.append(sum(len(each.todo.apply) for each in parts))
        await real(self, parts)

    monkeypatch.setattr(Lane, "_transact", counted)
    return found


@asynccontextmanager
async def working(
    database: str, services: Sequence[Service], events: Sequence[Event], partitions: int
) -> AsyncIterator[Runtime]:
    """Give a runtime of the service once every event has been dealt with, by a worker for each of `services`."""
    async with AsyncExitStack() as stack:
        name = f"memory:{uuid4()}"
        log = MemoryBroker(name)
        await log.open()
        stack.push_async_callback(log.close)
        for topic in ("new-rows-hosts", "new-rows-guests"):
            await log.ensure_topic(topic, partitions)
        changed = asyncio.Event()
        settings = Settings(database="", broker="", partitions=partitions, engine=config(batch_s=LIMIT_S))
        runtimes = [
            Runtime(
                each, make_store(database, "meetings"), MemoryBroker(name), settings,
                tables=metadata, random=Random(number), progress=changed.set,
            )
            for number, each in enumerate(services)
        ]  # fmt: skip
        for each in runtimes:
            stack.push_async_callback(each.stop)
            await each.start()
            await each.ready()
        async with asyncio.timeout(LIMIT_S):
            while any(not each.worker or not _reads(each) for each in runtimes):  # noqa: ASYNC110  # leases have no event
                await asyncio.sleep(0.01)
        await Sender(log, "clubs/1", partitions).send(*events)
        books = runtimes[0].context.books
        async with asyncio.timeout(LIMIT_S):
            while True:
                changed.clear()
                checkpoints = await books.checkpoints()
                if sum(each.offset for each in checkpoints.values()) >= len(events):
                    break
                await changed.wait()
        yield runtimes[0]


def _reads(runtime: Runtime) -> bool:
    assert runtime.worker is not None
    return any("/" in name for name in runtime.worker.loops.names)


async def rows_of(runtime: Runtime) -> list[tuple[str, str, int]]:
    async with runtime.reading() as session:
        found = await session.execute(select(meetings).order_by(meetings.c.meeting))
        return [(str(meeting), str(host), int(guests)) for meeting, host, guests, _ in found]


def names(start: str, partition: int, partitions: int) -> list[str]:
    """Names whose keys are all in one partition."""
    found = (f"{start}{number:05}" for number in itertools.count())
    return list(itertools.islice((each for each in found if partition_of(each, partitions) == partition), ROWS))


@pytest.mark.parametrize("cls", [Meeting, MappedMeeting], ids=["table", "mapped"])
@pytest.mark.parametrize("way", ["workers", "lanes"])
async def test_two_that_meet_new_rows_at_once_make_each_of_them_once(
    database: str, cls: Any, way: str, attempts: list[int]
) -> None:
    meet = Meet()
    if way == "workers":
        partitions, services = 1, [joined(cls, meet), joined(cls, meet)]
    else:
        partitions, services = 2, [joined(cls, meet, lanes=2)]
    called, guests = names("m", 0, partitions), names("g", partitions - 1, partitions)
    events: list[Event] = [MeetingHosted(meeting=each, host=f"host of {each}") for each in called]
    # The other way round: two that insert in two orders would wait for each other.
    events += [MeetingJoined(meeting=each, guest=guest) for each, guest in zip(reversed(called), guests, strict=True)]
    async with working(database, services, events, partitions) as runtime:
        assert await rows_of(runtime) == [(each, f"host of {each}", 1) for each in sorted(called)]
        books = runtime.context.books
        assert not await books.letters(), "a new row that another one made first is no failure of a message"
        assert not sum(each.counters.retries for each in (await books.checkpoints()).values())
    # Both looked, one of them in vain: done again as it was, not message by message.
    assert attempts == [ROWS] * 3


async def test_a_row_that_the_database_refuses_is_still_narrowed_down_to_its_message(
    database: str, attempts: list[int]
) -> None:
    """A constraint is violated again and again, and no row appears that was not there: that is no race."""

    service = Service("meetings", publishes=[], tables=metadata, repositories=[TableRepository(Meeting, meetings)])

    @service.on
    def open_meeting(meeting: Meeting | None, event: MeetingJoined) -> Meeting:
        return Meeting(event.meeting, guests=1, badge="one of a kind" if event.guest in ("g0", "second") else None)

    events = [MeetingJoined(meeting=f"m{number}", guest=f"g{number}") for number in range(20)]
    async with working(database, [service], [*events, MeetingJoined(meeting="x", guest="second")], 1) as runtime:
        [letter] = await runtime.context.books.letters()
        assert letter.key == "second"
        assert len(await rows_of(runtime)) == 20
    # Together, once more since it might have been a race, and then one by one.
    assert attempts == [21, 21] + [1] * 22  # and so is the message itself


@pytest.mark.parametrize("locked", [True, False], ids=["as loaded", "without the lock"])
async def test_two_handlers_of_one_row_lose_no_column_since_it_is_locked_when_it_is_loaded(
    database: str, locked: bool
) -> None:
    """Each writes the whole row back. Without the lock the second one to commit takes the first one's column away."""
    repository = TableRepository(Meeting, meetings)
    stores = [make_store(database, "meetings") for _ in range(2)]
    for store in stores:
        await store.open()
    await stores[0].create_tables(metadata)
    async with stores[0].transaction() as transaction:
        await repository.save(transaction, {}, {"m": Meeting("m")})

    async def load(transaction: Any) -> Meeting:
        if locked:
            return (await repository.load(transaction, ["m"]))["m"]
        found = await transaction.session.execute(select(meetings).where(meetings.c.meeting == "m"))
        return Meeting(*found.one())

    loaded = asyncio.Event()

    async def host() -> None:
        async with stores[0].transaction() as transaction:
            meeting = await load(transaction)
            loaded.set()
            if not locked:
                await guest_done.wait()
            meeting.host = "Ann"
            await repository.save(transaction, {"m": meeting}, {})

    guest_done = asyncio.Event()

    async def guest() -> None:
        await loaded.wait()
        async with stores[1].transaction() as transaction:
            meeting = await load(transaction)
            meeting.guests += 1
            await repository.save(transaction, {"m": meeting}, {})
        guest_done.set()

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(host(), guest())
    async with stores[0].reading() as session:
        [(_, name, guests, _)] = await session.execute(select(meetings))
    for store in stores:
        await store.close()
    assert (name, guests) == (("Ann", 1) if locked else ("Ann", 0))
