"""A transaction that is held open for a minute delays nobody's events, however PostgreSQL's outbox is read.

One server with a database for each mode of `?outbox=`, so that the minute is paid once. In each database two stay
open: a stranger's, which has written rows that Ensue knows nothing of, and a step's, which has published already.
Beside them steps publish, and some are undone and leave ids that nobody uses. Default settings, as users have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from servers import PostgresServer
from sqlalchemy import select, text
from tests.faults.test_log_damage import Telegraph, Wired, received
from tests.unit.engine.workbench import bench

from ensue import Service
from ensue.config import EngineConfig
from ensue.operations.opening import Opened
from ensue.operations.status import service_status
from ensue.stores.postgres import PostgresStore
from ensue.testing import World

HELD_S = 60.0
PAUSE_S = 0.1
#: From a commit until its effect is seen: some milliseconds on a quiet machine, and never a part of the minute.
SOON_S = 5.0
MODES = ("poll", "wal")
#: What the slot keeps of the log before it is told: little here, and the stranger writes more than that.
KEPT_BYTES = 1 << 20
FILLER = "INSERT INTO strange SELECT repeat(md5(n::text), 100) FROM generate_series(1, 1000) n"


#: Numbers of events that are not among those of `publishes`.
UNDONE, LATE = -1, -2


class Undo(Exception):
    pass


@dataclasses.dataclass
class Sender:
    """A service on PostgreSQL that is read in one mode. committed: when each number was, by the loop's clock."""

    mode: str
    service: Service
    store: PostgresStore
    committed: dict[int, float] = dataclasses.field(default_factory=dict)

    async def publishes(self, enough: asyncio.Event) -> None:
        """Go on until it is enough; before each tenth step one is undone that has published."""
        while not enough.is_set():
            number = len(self.committed)
            if number % 10 == 9:
                with contextlib.suppress(Undo):
                    await self.publish(UNDONE, undone=True)
            await self.publish(number)
            self.committed[number] = asyncio.get_running_loop().time()
            await asyncio.sleep(PAUSE_S)

    async def publish(self, number: int, *, undone: bool = False) -> None:
        async with self.service.step() as step:
            step.publish(Wired(station=self.mode, number=number))
            if undone:
                await self._write_out(step)
                raise Undo

    @asynccontextmanager
    async def late(self) -> AsyncIterator[int]:
        """A step that has published, and commits when the block ends; yield the pid of its backend."""
        async with self.service.step() as step:
            step.publish(Wired(station=self.mode, number=LATE))
            await self._write_out(step)
            yield (await step.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()

    async def _write_out(self, step: Any) -> None:
        """Into the database now, and not only when the step ends."""
        await step.transaction.outbox_add(list(step.outgoing.records))
        step.outgoing.records.clear()

    async def told(self, world: World) -> Sequence[str]:
        """What `ensue status` shows of what holds back."""
        runtime = world.runtimes[self.service.name]
        status = await service_status(Opened(self.service, runtime.settings, self.store, world.broker))
        return status.warnings


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A transaction that has written rows; undone at the end."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE strange (data text)")
        await connection.execute("BEGIN")
        await connection.execute(FILLER)
        yield connection
    finally:
        await connection.close()


class Watch:
    """When the effects of events were seen, committed in the subscriber's database. times: by station and number."""

    def __init__(self, telegraph: Telegraph, world: World) -> None:
        self.times: dict[tuple[str, int], float] = {}
        self._telegraph = telegraph
        self._world = world
        self._more = asyncio.Event()

    async def look(self) -> None:
        """Go on until cancelled."""
        last = 0
        while True:
            self._world._progress.clear()
            async with self._telegraph.receives.query() as session:
                new = select(received).where(received.c.id > last).order_by(received.c.id)
                rows = (await session.execute(new)).all()
            for each in rows:
                self.times.setdefault((each.station, each.number), asyncio.get_running_loop().time())
                last = each.id
            self._more.set()
            await self._world._progress.wait()

    async def until_seen(self, station: str, numbers: Iterable[int]) -> None:
        """Return when all of them were seen. Raises AssertionError when that is not soon."""
        left: set[tuple[str, int]] = set()
        try:
            async with asyncio.timeout(SOON_S):
                while left := {(station, number) for number in numbers} - self.times.keys():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"not seen within {SOON_S:g} s: {sorted(left)}") from None

    def worst_delay_s(self, sender: Sender) -> float:
        """The longest time from a commit until its effect was seen."""
        return max(self.times[sender.mode, number] - at for number, at in sender.committed.items())


@pytest.mark.slow
@pytest.mark.timeout(HELD_S + 120)
async def test_a_transaction_held_for_a_minute_delays_nobodys_events_and_is_named(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.stores.postgres.tail.KEPT_BYTES", KEPT_BYTES)
    server: PostgresServer = start(PostgresServer)
    senders = []
    for mode in MODES:
        name = f"sends_{mode}"
        senders.append(Sender(mode, Service(name), PostgresStore(f"{server.url(name)}?outbox={mode}", name)))
    telegraph = Telegraph(tmp_path)
    async with bench(
        tmp_path,
        telegraph.receives,
        *[sender.service for sender in senders],
        stores={sender.service.name: sender.store for sender in senders},
        engine=EngineConfig(),
    ) as world:
        watch = Watch(telegraph, world)
        looking = asyncio.create_task(watch.look())
        async with AsyncExitStack() as held:
            strangers = [await held.enter_async_context(stranger(server.url(each.service.name))) for each in senders]
            late = [await held.enter_async_context(sender.late()) for sender in senders]
            enough = asyncio.Event()
            # As of other requests: a task that is begun inside a step would have to wait for it.
            publishing = [
                asyncio.create_task(sender.publishes(enough), context=contextvars.Context()) for sender in senders
            ]
            for _ in range(int(HELD_S / 5)):
                done, _ = await asyncio.wait(publishing, timeout=5, return_when=asyncio.FIRST_COMPLETED)
                assert not done, "a step that publishes failed"
                for connection in strangers:
                    await connection.execute(FILLER)
            enough.set()
            await asyncio.gather(*publishing)
            for sender, connection, pid in zip(senders, strangers, late, strict=True):
                assert len(sender.committed) > HELD_S / PAUSE_S / 10, "steps themselves went on"
                await watch.until_seen(sender.mode, sender.committed)
                print(
                    f"{sender.mode}: {len(sender.committed)} events, longest delay {watch.worst_delay_s(sender):.3f} s"
                )
                assert watch.worst_delay_s(sender) < SOON_S
                told = "\n".join(await sender.told(world))
                assert f"backend pid {connection.get_server_pid()} " in told
                assert f"backend pid {pid} " in told
                assert ("replication slot" in told) == (sender.mode != "poll"), told
            assert not any(number < 0 for _, number in watch.times), "what is not committed has no effect"
        for sender in senders:
            await watch.until_seen(sender.mode, [LATE])
        await world.settle()
        looking.cancel()
        assert await telegraph.received("") == {
            sender.mode: [*range(len(sender.committed)), LATE] for sender in senders
        }, "each once, in the order of the commits"
