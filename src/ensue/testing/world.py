"""Several services in one process, each with a throw-away SQLite database, joined by a log in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TypeVar

from ensue.app import Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import EngineConfig, Settings
from ensue.engine.clock import SystemClock
from ensue.engine.discarding import give_up
from ensue.engine.lookup import records_between
from ensue.engine.runtime import Runtime
from ensue.engine.timers import first_due
from ensue.errors import UsageError
from ensue.event import event_type
from ensue.message import DeadLetter, DeadLetterState, Message
from ensue.ports import Broker, Store
from ensue.stores.sqlite import SqliteStore

E = TypeVar("E")

#: Attempts as in production, without the waiting between them.
_QUICK = {"first_delay_s": 0.001, "delay_max_s": 0.001, "factor": 1.0}


class NotSettled(AssertionError):
    """The services were not quiet in time; the text says who still had what to do."""


class WorldClock(SystemClock):
    """The real clock, put forward. How long something takes is real time all the same."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now(self) -> float:
        return time.time() + self._ahead_s

    def put_to(self, moment: float) -> None:
        """Never back."""
        self._ahead_s += max(moment - self.now(), 0.0)


class World:
    """The running services of a test. `settle` waits for quiet, `advance` lets time pass; the rest looks at what
    happened.

    clock: of all its services and their databases; None: the databases have clocks of their own.
    """

    def __init__(self, broker: Broker, clock: WorldClock | None = None) -> None:
        self.broker = broker  # the world's own view of the log that all services share
        self.runtimes: dict[str, Runtime] = {}
        self._clock = clock
        self._progress = asyncio.Event()

    def progressed(self) -> None:
        self._progress.set()

    async def settle(self, timeout_s: float = 10.0) -> None:
        """Return when every outbox is sent and every subscriber has dealt with everything sent to it.

        Dead letters count as dealt with: look at `dead_letters`. Raises NotSettled after timeout_s.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._progress.clear()
                    left = await self._left()
                    if not left and not self._progress.is_set():  # else something moved on from where nobody looked yet
                        return
                    await self._progress.wait()
        except TimeoutError:
            left = await self._left()
            raise NotSettled(f"not quiet after {timeout_s} s: {'; '.join(left)}") from None

    async def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let so much time pass, without waiting: what was published for later goes out, and recurring steps run.

        Whatever is due first happens first, in all services, at its time: `step.now` says so. What follows from it has
        happened before the next is due. Raises UsageError where `make_store` has given databases with clocks of their
        own, and NotSettled as `settle` does.
        """
        span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if self._clock is None:
            raise UsageError(
                f"advance by {span}: the databases of this world have clocks of their own; run it without make_store="
            )
        if span < timedelta():
            raise UsageError(f"advance by {span}: time does not go back; give a span from now on")
        await self.settle()  # first: what is on its way may set timers too, and counts from now
        until = self._clock.now() + span.total_seconds()
        while (due := await self._next_due()) <= until:
            self._clock.put_to(due)
            await self._gone_out(due)
            await self.settle()
        self._clock.put_to(until)

    async def _next_due(self) -> float:
        found = [await first_due(runtime.store) for runtime in self.runtimes.values()]
        return min(found, default=math.inf)

    async def _gone_out(self, due: float, timeout_s: float = 10.0) -> None:
        """Return when nothing of that time and earlier waits any more."""
        for runtime in self.runtimes.values():
            runtime.context.timer_set.set()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._progress.clear()
                    if await self._next_due() > due:
                        return
                    await self._progress.wait()
        except TimeoutError:
            raise NotSettled(f"what was due did not go out within {timeout_s} s") from None

    async def _left(self) -> list[str]:
        left: list[str] = []
        for name, runtime in self.runtimes.items():
            worker = runtime.worker
            assert worker is not None
            relay = worker.loops.relay
            if worker.loops.outside.busy:
                left.append(f"{name} is at {worker.loops.outside.busy} outside effects")
            head = max((await runtime.store.outbox_heads()).values(), default=0)
            sent = relay.position if relay is not None else 0
            if sent < head:
                left.append(f"{name} has sent {sent} of {head}")
            for consumer in worker.loops.consumers:
                last = (await self.broker.bounds(consumer.partition.topic, consumer.partition.number)).last
                if consumer.offset < last:
                    left.append(f"{consumer.partition} is at {consumer.offset} of {last}")
                elif not consumer.settled:
                    left.append(f"{consumer.partition} has a gap, or attempts left to make")
            # In the database: what was released a moment ago is not known to the consumer yet.
            again = await runtime.context.books.letters(None, (DeadLetterState.RETRYING, DeadLetterState.RELEASED))
            if again:
                left.append(f"{name} has {len(again)} set aside to try again")
        return left

    async def published(self, event: type[E]) -> list[E]:
        """Every event of this class that was published, partition by partition in order."""
        spec = event_type(event)
        return [spec.read(message.data) for message in await self.messages(spec.topic) if message.type == spec.type]

    async def messages(self, topic: str) -> list[Message]:
        """Every message of a topic, partition by partition in order."""
        found: list[Message] = []
        for number in range(await self.broker.partitions(topic)):
            last = (await self.broker.bounds(topic, number)).last
            records = await records_between(self.broker, topic, number, 0, last)
            found += [each for each in records if isinstance(each, Message)]
        return found

    async def dead_letters(self, service: Service) -> Sequence[DeadLetter]:
        """What waits for an operator, and what waits behind it."""
        states = (DeadLetterState.DEAD, DeadLetterState.WAITING)
        return await self.runtimes[service.name].context.books.letters(None, states)

    async def retry(self, service: Service, letter: DeadLetter) -> None:
        """As `ensue dead-letters retry`: have it tried again; what waits behind it follows. `settle` waits for it."""
        await self.runtimes[service.name].context.books.decide(letter.id, DeadLetterState.RELEASED)

    async def discard(self, service: Service, letter: DeadLetter) -> None:
        """As `ensue dead-letters discard`: give it up; what waits behind it follows. `settle` waits for it."""
        context = self.runtimes[service.name].context
        await give_up(context.books, context.dispatcher, letter.id)


@asynccontextmanager
async def run(
    *services: Service,
    seed: int = 0,
    partitions: int = 2,
    engine: EngineConfig | None = None,
    make_store: Callable[[str], Store] | None = None,
) -> AsyncIterator[World]:
    """Run services together until the block ends. Databases are files of a temporary directory, never synced.

    seed: of everything that is random. Retries keep their number of attempts and lose their pauses.
    make_store: returns the store of the service of that name, in place of such a file; its clock is its own.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ensue-")))
        log = f"memory:world-{secrets.token_hex(8)}"
        clock = WorldClock()
        world = World(MemoryBroker(log), clock if make_store is None else None)
        await world.broker.open()
        stack.push_async_callback(world.broker.close)
        config = engine or EngineConfig()

        def throw_away(service: str) -> Store:
            return SqliteStore(f"sqlite:///{directory}/{service}.db?synchronous=OFF", service, now=clock.now)

        for number, service in enumerate(services):
            settings = Settings(database="", broker="memory:", partitions=partitions, engine=config)
            runtime = Runtime(
                service,
                (make_store or throw_away)(service.name),
                MemoryBroker(log),
                settings,
                clock=clock,
                random=Random(f"{seed}/{number}"),
                tables=service.tables,
                progress=world.progressed,
                tracing=service.tracing,
                retry=dataclasses.replace(service.retry or config.retry, **_QUICK),  # type: ignore[arg-type]
            )
            world.runtimes[service.name] = runtime
            await stack.enter_async_context(service.running(runtime))
        for runtime in world.runtimes.values():
            await runtime.ready()
        yield world
