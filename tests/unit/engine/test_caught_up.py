"""Who waits for a token, in one process: against a model, and on real stores with the workers in another runtime."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engine.workbench import LIMIT_S, QUICK, Sender, bench, letters, store_of

from ensue import (
    EngineConfig,
    Event,
    HeldBack,
    NotCaughtUp,
    Retry,
    RetryableError,
    Service,
    Step,
    Token,
    TokenEnded,
    TokenInvalid,
    TooManyWaiters,
    UsageError,
)
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.books import Books
from ensue.engine.caught_up import CaughtUp
from ensue.engine.clock import SystemClock
from ensue.engine.runtime import Runtime
from ensue.engine.standing import Standing, obstacles_of
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Partition
from ensue.ports import Row, Table
from ensue.stores.sqlite import SqliteStore
from ensue.token import Part

SOURCES = ("senders/1", "others/1")
PLACES = (Partition("views", "letters", 0), Partition("views", "letters", 1))

# ------------------------------------------------------------------------------------------------------- the model

Where = tuple[int, int]  # partition, source
wheres = st.tuples(st.integers(0, 1), st.integers(0, 1))
waits = st.tuples(st.just("wait"), st.dictionaries(wheres, st.integers(1, 6), min_size=1, max_size=3))
moves = st.tuples(st.just("move"), wheres, st.integers(1, 6))
asides = st.tuples(st.just("aside"), wheres, st.integers(1, 6), st.booleans())
decides = st.tuples(st.just("decide"), wheres)
cancels = st.tuples(st.just("cancel"), st.integers(0, 9))


@dataclasses.dataclass
class Waiter:
    left: dict[Where, int]
    state: str = "waits"


class Model:
    """Looks at everybody each time."""

    def __init__(self) -> None:
        self.watermarks: dict[Where, int] = {}
        self.letters: dict[Where, list[tuple[int, bool]]] = {}
        self.waiters: list[Waiter] = []

    def look(self) -> None:
        for waiter in self.waiters:
            for where, position in list(waiter.left.items()) if waiter.state == "waits" else ():
                below = [dead for at, dead in self.letters.get(where, []) if at <= position]
                if any(below):
                    waiter.state = "HeldBack"
                elif not below and self.watermarks.get(where, 0) >= position:
                    del waiter.left[where]
            if waiter.state == "waits" and not waiter.left:
                waiter.state = "seen"

    def standing(self, partition: int) -> Standing:
        found = [
            DeadLetter(
                PLACES[partition], 0, SOURCES[source], position, 0, "key", b"", b"",
                DeadLetterState.DEAD if dead else DeadLetterState.RETRYING, number=1,
            )
            for (number, source), several in self.letters.items()
            for position, dead in several
            if number == partition
        ]  # fmt: skip
        watermarks = {SOURCES[source]: at for (number, source), at in self.watermarks.items() if number == partition}
        return Standing.of(Checkpoint(watermarks=watermarks), obstacles_of(found))


@given(st.lists(st.one_of(waits, moves, asides, decides, cancels), max_size=40))
@settings(max_examples=150)
def test_whoever_waits_is_told_what_a_look_at_everybody_would_say(operations: list[tuple[Any, ...]]) -> None:
    asyncio.run(_plays(operations))


async def _plays(operations: Sequence[tuple[Any, ...]]) -> None:
    model = Model()
    store = SqliteStore("sqlite://", "views")  # never opened: consumers tell everything
    caught_up = CaughtUp("views", Books(store, "views"), SystemClock(), 1000, 1000.0)
    for number, place in enumerate(PLACES):
        caught_up.feeds(place, lambda number=number: model.standing(number))  # type: ignore[misc]
    tasks: list[asyncio.Task[None]] = []
    for operation in operations:
        match operation:
            case "wait", wanted:
                model.waiters.append(Waiter(dict(wanted)))
                parts = [
                    Part(SOURCES[source], "letters", number, position) for (number, source), position in wanted.items()
                ]
                tasks.append(asyncio.create_task(caught_up.wait(parts, 900.0)))
            case "move", where, by:
                model.watermarks[where] = model.watermarks.get(where, 0) + by
            case "aside", where, position, dead:
                model.letters.setdefault(where, []).append((position, dead))
            case "decide", where:
                model.letters.pop(where, None)
            case "cancel", index if index < len(tasks) and model.waiters[index].state == "waits":
                model.waiters[index].state = "CancelledError"
                tasks[index].cancel()
        model.look()
        await asyncio.sleep(0)  # who asks is there
        for place in PLACES:
            caught_up.tells(place)
        for _ in range(3):
            await asyncio.sleep(0)
        assert [_state(task) for task in tasks] == [each.state for each in model.waiters]
        assert caught_up.waiting == sum(each.state == "waits" for each in model.waiters)
    await caught_up.end()
    for task, waiter in zip(tasks, model.waiters, strict=True):
        if waiter.state == "waits":
            with pytest.raises(RetryableError, match="service views stops"):
                await task
    assert not caught_up._heaps


def _state(task: asyncio.Task[None]) -> str:
    if not task.done():
        return "waits"
    if task.cancelled():
        return "CancelledError"
    error = task.exception()
    return "seen" if error is None else type(error).__name__


# ------------------------------------------------------------------------------------- services on a bench, one topic


class Noted(Event, topic="token-notes", key="key"):
    key: str
    number: int


class Unread(Event, topic="token-unread", key="key"):
    key: str


class Forgotten(Event, topic="token-notes", key="key"):
    """Of a topic that the reader reads, and without a handler."""

    key: str


class Refusing(Exception):
    pass


def reader(seen: list[int], *, attempts_max: int = 1, gate: asyncio.Event | None = None) -> Service:
    service = Service("views", retry=Retry(attempts_max=attempts_max, first_delay_s=0.01, delay_max_s=0.01))

    @service.on
    async def see(event: Noted, step: Step) -> None:
        if event.key == "refused":
            raise Refusing
        if gate is not None:
            await gate.wait()
        seen.append(event.number)

    return service


async def written(service: Service, *events: object) -> Token:
    async with service.step() as step:
        for each in events:
            step.publish(each)
    return await step.token()


async def test_what_was_written_is_seen_when_the_wait_is_over(tmp_path: Path) -> None:
    seen: list[int] = []
    senders, views = Service("senders"), reader(seen)
    async with bench(tmp_path, senders, views, partitions=4):
        for number in range(20):
            token = await written(senders, Noted(key=str(number), number=number))
            await views.caught_up(str(token), timeout=LIMIT_S)
            assert seen[-1] == number
        several = [await written(senders, Noted(key=str(each), number=each)) for each in (20, 21, 22)]
        await views.caught_up(",".join(map(str, several)), timeout=LIMIT_S)
        assert set(seen) == set(range(23))


async def test_what_the_service_does_not_read_and_what_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    senders, views = Service("senders"), reader([])
    async with bench(tmp_path, senders, views):
        await views.caught_up(await written(senders, Unread(key="a")), timeout=0)
        nothing = await written(senders)
        assert not nothing
        assert str(nothing) == ""
        await views.caught_up(nothing, timeout=0)
        await views.caught_up("", timeout=0)
        with pytest.raises(NotCaughtUp):  # it does read these, and sees nothing in no time
            await views.caught_up(Token((Part("senders/never", "token-notes", 0, 1),)), timeout=0)


async def test_what_the_reader_has_no_handler_for_is_no_wait_without_end(tmp_path: Path) -> None:
    senders, views = Service("senders"), reader([])
    store = store_of(tmp_path, "views")
    async with bench(tmp_path, senders, views):
        beside = _beside(reader([]), store)
        await beside.start(work=False)
        try:
            token = await written(senders, Noted(key="a", number=1), Forgotten(key="a"))
            await views.caught_up(token, timeout=LIMIT_S)
            await beside.caught_up(token, LIMIT_S)
        finally:
            await beside.stop()


async def test_a_token_of_a_step_that_has_not_committed_is_a_mistake(tmp_path: Path) -> None:
    senders = Service("senders")
    async with bench(tmp_path, senders):
        async with senders.step() as step:
            step.publish(Unread(key="a"))
            with pytest.raises(UsageError, match=r"ask after its block.*await step.token\(\)"):
                await step.token()
        assert await step.token()
        with pytest.raises(Refusing):
            async with senders.step() as rolled_back:
                raise Refusing
        with pytest.raises(UsageError, match="has not committed"):
            await rolled_back.token()


async def test_who_waits_too_long_is_told_what_was_wanted_and_how_far_it_is(tmp_path: Path) -> None:
    gate = asyncio.Event()
    seen: list[int] = []
    senders, views = Service("senders"), reader(seen, gate=gate)
    async with bench(tmp_path, senders, views) as world:
        token = await written(senders, Noted(key="a", number=1), Noted(key="a", number=2))
        with pytest.raises(NotCaughtUp, match=r"wanted 2, reached 0") as caught:
            await views.caught_up(token, timeout=0.05)
        [part] = token.parts
        assert caught.value.behind == (
            {
                "source": part.source, "topic": "token-notes", "partition": 0, "wanted": 2, "reached": 0, "lag": 2,
            },
        )  # fmt: skip
        assert world.runtimes["views"].context.caught_up.waiting == 0
        gate.set()
        await views.caught_up(token, timeout=LIMIT_S)
        assert seen == [1, 2]


async def test_a_dead_letter_holds_back_who_waits_for_it_or_for_what_is_behind_it(tmp_path: Path) -> None:
    senders, views = Service("senders"), reader([])
    async with bench(tmp_path, senders, views) as world:
        before = await written(senders, Noted(key="well", number=0))
        await views.caught_up(before, timeout=LIMIT_S)
        token = await written(senders, Noted(key="refused", number=1))
        with pytest.raises(HeldBack, match=r"held back by letter token-notes/0:1, which waits for somebody") as caught:
            await views.caught_up(token, timeout=LIMIT_S)
        assert caught.value.letter == "token-notes/0:1"
        behind = await written(senders, Noted(key="refused", number=2))
        with pytest.raises(HeldBack):
            await views.caught_up(behind, timeout=LIMIT_S)
        await views.caught_up(before, timeout=LIMIT_S)  # below it nothing is held back
        for each in await letters(world, views):
            if each.state is DeadLetterState.DEAD:
                await world.runtimes["views"].context.books.decide(each.id, DeadLetterState.DISCARDED)
        await _until(lambda: _no_error(views.caught_up(token, timeout=LIMIT_S)))


async def test_a_letter_that_is_tried_again_is_waited_for_and_then_named(tmp_path: Path) -> None:
    senders, views = Service("senders"), reader([], attempts_max=1000)
    async with bench(tmp_path, senders, views):
        token = await written(senders, Noted(key="refused", number=1))
        with pytest.raises(HeldBack, match=r"letter token-notes/0:1, which is tried again"):
            await views.caught_up(token, timeout=0.3)


async def test_a_token_of_an_epoch_that_has_ended_is_an_error(tmp_path: Path) -> None:
    views = reader([])
    broker = MemoryBroker()
    async with bench(tmp_path, views, broker=broker):
        first, second = Sender(broker, "senders/first"), Sender(broker, "senders/second")
        await first.send(Noted(key="a", number=1))
        lost = Token((Part("senders/first", "token-notes", 0, 2),))
        waiting = asyncio.create_task(views.caught_up(lost, timeout=LIMIT_S))
        await views.caught_up(Token((Part("senders/first", "token-notes", 0, 1),)), timeout=LIMIT_S)
        assert not waiting.done()
        second._position = 1  # it goes on where the copy of the database ended
        await second.send(Noted(key="a", number=2))
        with pytest.raises(TokenEnded, match=r"senders/second has come after it") as caught:
            await waiting
        assert (caught.value.source, caught.value.successor) == ("senders/first", "senders/second")
        await views.caught_up(Token((Part("senders/second", "token-notes", 0, 2),)), timeout=LIMIT_S)


async def test_so_many_may_wait_and_who_gives_up_makes_room(tmp_path: Path) -> None:
    views = reader([])
    never = Token((Part("senders/never", "token-notes", 0, 1),))
    async with bench(tmp_path, views, engine=dataclasses.replace(QUICK, waiters_max=2)) as world:
        caught_up = world.runtimes["views"].context.caught_up
        waiting = [asyncio.create_task(views.caught_up(never, timeout=LIMIT_S)) for _ in range(2)]
        await _until(lambda: _is(caught_up.waiting == 2))
        with pytest.raises(TooManyWaiters, match=r"2 requests wait .* expected at most 2 \(ENSUE_WAITERS_MAX\)"):
            await views.caught_up(never, timeout=LIMIT_S)
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        with pytest.raises(NotCaughtUp):
            await views.caught_up(never, timeout=0.01)
        waiting[1].cancel()
        await asyncio.wait(waiting)
        assert caught_up.waiting == 0


async def test_whoever_comes_and_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    views = reader([])
    never = Token((Part("senders/never", "token-notes", 0, 1),))
    async with bench(tmp_path, views) as world:
        caught_up = world.runtimes["views"].context.caught_up
        stays = asyncio.create_task(views.caught_up(never, timeout=LIMIT_S))
        for _ in range(1000):
            goes = asyncio.create_task(views.caught_up(never, timeout=LIMIT_S))
            await asyncio.sleep(0)
            goes.cancel()
            await asyncio.wait([goes])
        [heaps] = caught_up._heaps.values()
        assert len(heaps["senders/never"].waits) < 100
        assert len(caught_up._deadlines) < 100
        stays.cancel()
        await asyncio.wait([stays])


async def test_a_service_that_stops_lets_go_of_who_waits(tmp_path: Path) -> None:
    views = reader([])
    never = Token((Part("senders/never", "token-notes", 0, 1),))
    async with bench(tmp_path, views) as world:
        waiting = asyncio.create_task(views.caught_up(never, timeout=LIMIT_S))
        caught_up = world.runtimes["views"].context.caught_up
        await _until(lambda: _is(caught_up.waiting == 1))
    with pytest.raises(RetryableError, match="service views stops"):
        await waiting


async def test_what_cannot_be_a_token_of_ours_is_refused(tmp_path: Path) -> None:
    views = reader([])
    async with bench(tmp_path, views, partitions=2):
        with pytest.raises(TokenInvalid, match="not written as one"):
            await views.caught_up("nonsense", timeout=1)
        with pytest.raises(TokenInvalid, match=r"names token-notes/2, but topics have 2 partitions here"):
            await views.caught_up(Token((Part("senders/1", "token-notes", 2, 1),)), timeout=1)
        with pytest.raises(UsageError, match="timeout=-1, expected a number of seconds"):
            await views.caught_up("", timeout=-1)


async def test_a_handler_does_not_wait_for_its_own_service(tmp_path: Path) -> None:
    found: list[BaseException] = []
    senders, views = Service("senders"), Service("views")

    @views.on
    async def see(event: Noted, step: Step) -> None:
        try:
            await views.caught_up(Token((Part("senders/never", "token-notes", 0, 9),)), timeout=LIMIT_S)
        except UsageError as error:
            found.append(error)

    async with bench(tmp_path, senders, views):
        await views.caught_up(await written(senders, Noted(key="a", number=1)), timeout=LIMIT_S)
    assert ["inside a handler of views, which holds up what it waits for" in str(each) for each in found] == [True]


# --------------------------------------------------------------------------------- the workers are in another runtime


class Looked(SqliteStore):
    """Counts what its readers of rows are asked."""

    asked = 0

    def rows(self) -> Any:
        store, rows = self, super().rows()

        class Counting:
            async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
                store.asked += 1
                return await rows.get(table, ids)

            def __getattr__(self, name: str) -> Any:
                return getattr(rows, name)

        return Counting()


def _beside(service: Service, store: SqliteStore, partitions: int = 1) -> Runtime:
    """Another process's view of the service: its database, and nothing that works."""
    engine: EngineConfig = dataclasses.replace(QUICK, poll_interval_s=0.2)
    return Runtime(
        service, store, MemoryBroker(), Settings(database="", broker="", partitions=partitions, engine=engine)
    )


async def test_who_has_no_workers_looks_at_the_checkpoints_for_all_who_wait(tmp_path: Path) -> None:
    seen: list[int] = []
    senders, views = Service("senders"), reader(seen)
    store = Looked(f"sqlite:///{tmp_path}/views.db?synchronous=OFF", "views")
    async with bench(tmp_path, senders, views, partitions=4):
        beside = _beside(reader([]), store, partitions=4)
        await beside.start(work=False)
        try:
            for number in range(10):
                token = await written(senders, Noted(key=str(number), number=number))
                await beside.caught_up(token, LIMIT_S)
                assert seen[-1] == number
            tokens = [await written(senders, Noted(key=str(each), number=each)) for each in range(10, 40)]
            store.asked = 0
            waiting = [asyncio.create_task(beside.caught_up(each, LIMIT_S)) for each in tokens * 100]
            await asyncio.gather(*waiting)
            assert set(seen) == set(range(40))
            assert store.asked < len(waiting) / 2  # a look is for all of them, however slow the machine is
            never = Token((Part("senders/never", "token-notes", 0, 1),))
            with pytest.raises(NotCaughtUp, match=r"wanted 1, reached 0"):
                await beside.caught_up(never, 0.05)
            held = await written(senders, Noted(key="refused", number=1))
            with pytest.raises(HeldBack):
                await beside.caught_up(held, LIMIT_S)
            after = store.asked
            await asyncio.sleep(0.1)
            assert store.asked == after  # nobody waits, nobody looks
        finally:
            await beside.stop()


async def test_when_a_worker_of_this_process_leaves_its_partition_another_one_s_is_looked_at(tmp_path: Path) -> None:
    seen: list[int] = []
    senders, views = Service("senders"), reader(seen)
    broker = MemoryBroker()
    async with bench(tmp_path, senders, views, broker=broker) as world:
        runtime = world.runtimes["views"]
        place = Partition("views", "token-notes", 0)
        await views.caught_up(await written(senders, Noted(key="a", number=1)), timeout=LIMIT_S)
        runtime.context.caught_up.leaves(place)  # as at the end of its loop
        await views.caught_up(await written(senders, Noted(key="a", number=2)), timeout=LIMIT_S)
        assert seen == [1, 2]


# ----------------------------------------------------------------------------------------------------------------


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await check():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


async def _is(value: bool) -> bool:
    return value


async def _no_error(waiting: Awaitable[None]) -> bool:
    try:
        await waiting
    except HeldBack:
        return False
    return True
