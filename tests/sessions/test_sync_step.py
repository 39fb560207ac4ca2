"""Steps of code that is not async: where nothing of Ensue runs in the process, and in a thread beside the service."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session
from tests.sessions.desk import Base, Ticket, TicketOpened, count, envelopes, published, texts

import ensue
from ensue import EngineConfig, Service, UsageError
from ensue.sessions.aside import Aside, _at_exit
from ensue.sessions.sync_step import sync_step


def make(tmp_path: Path) -> Service:
    url = f"sqlite:///{tmp_path}/desk.db?synchronous=OFF"
    return Service("desk", database=url, broker="memory:", tables=Base.metadata, publishes=[TicketOpened])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Service]:
    desk = make(tmp_path)
    yield desk
    desk.close()


def test_its_block_is_a_transaction(desk: Service) -> None:
    with desk.sync_step() as step:
        step.session.add(Ticket(id=1))
        message_id = step.publish(TicketOpened(ticket_id=1, text="kept"))
        assert count(step.session) == 1

    def fails(error: BaseException) -> None:
        with desk.sync_step() as step:
            step.session.add(Ticket(id=2))
            step.publish(TicketOpened(ticket_id=2, text="dropped"))
            raise error

    for error in (ValueError("no"), StopIteration(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            fails(error)
        assert raised.value is error
    with desk.sync_step() as step:
        assert count(step.session) == 1
    assert texts(published(desk)) == ["kept"]
    assert [each.id for each in envelopes(desk)] == [message_id]


def test_what_the_commit_says_is_raised_by_the_block(desk: Service) -> None:
    from sqlalchemy.exc import IntegrityError

    with desk.sync_step() as step:
        step.session.add(Ticket(id=1))

    def again() -> None:
        with desk.sync_step() as step:
            step.session.add(Ticket(id=1))
            step.publish(TicketOpened(ticket_id=1))

    with pytest.raises(IntegrityError):
        again()
    assert published(desk) == []


def test_it_has_the_origin_that_is_set_around_it(desk: Service) -> None:
    with ensue.coming_from(ensue.Origin(correlation_id="mine")), desk.sync_step() as step:
        assert step.correlation_id == "mine"
        step.publish(TicketOpened(ticket_id=1))
    assert [each.correlation_id for each in envelopes(desk)] == ["mine"]


def test_threads_have_steps_of_their_own(desk: Service) -> None:
    def work(number: int) -> None:
        with desk.sync_step() as step:
            step.session.add(Ticket(id=number))
            step.publish(TicketOpened(ticket_id=number, text=str(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(texts(published(desk))) == [str(number) for number in range(8)]


async def test_async_code_is_sent_to_the_async_step(desk: Service) -> None:
    with pytest.raises(UsageError, match=r"async with desk\.step\(\)"), desk.sync_step():
        pass


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_threads_that_are_greenlets_are_told_what_works_there(
    desk: Service, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched = {"gevent": "is_module_patched", "eventlet": "is_monkey_patched"}[library]
    module = {"gevent": "gevent.monkey", "eventlet": "eventlet.patcher"}[library]
    for said in (True, False):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{patched: lambda _, said=said: said}))
        if said:
            with (
                pytest.raises(UsageError, match=rf"where {library} has .* desk\.publish\(session, event\)"),
                desk.sync_step(),
            ):
                pass
    with desk.sync_step():
        pass
    desk.close()


def test_a_step_in_a_step_is_refused_at_once(desk: Service) -> None:
    with desk.sync_step():
        with pytest.raises(UsageError, match="inside another step of desk"), desk.sync_step():
            pass
        with Session() as session, pytest.raises(UsageError, match="inside another step of desk"):
            desk.publish(session, TicketOpened(ticket_id=1))
    done: list[str] = []

    async def outer() -> None:
        async with desk.running(work=False), desk.step():
            with pytest.raises(UsageError, match="inside another step of desk"):
                await asyncio.to_thread(work)
            done.append("refused")

    def work() -> None:
        with desk.sync_step():
            pass

    asyncio.run(outer())
    assert done == ["refused"]


async def test_beside_a_running_service_it_uses_that_ones_connections(desk: Service) -> None:
    def work() -> None:
        with desk.sync_step() as step:
            step.publish(TicketOpened(ticket_id=1, text="from a thread"))

    async with desk.running() as runtime:
        await asyncio.to_thread(work)
        assert desk._aside._running is None
        assert len(await runtime.store.outbox_after(0, 10)) == 1


class Stuck:
    """A runtime none of whose steps begins, as when somebody else holds the lock for writing."""

    def __init__(self, desk: Service) -> None:
        self.definition = desk
        self.asked = threading.Event()

    async def start(self, *, work: bool) -> None: ...

    async def stop(self) -> None: ...

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Any]:
        self.asked.set()
        yield await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["asyncio.run ends", "it is closed"])
def test_a_thread_whose_step_never_began_is_told_that_the_service_stopped(desk: Service, how: str) -> None:
    runtime: Any = Stuck(desk)
    said: list[str] = []

    def work(loop: asyncio.AbstractEventLoop) -> None:
        try:
            with sync_step(runtime, loop):
                pass
        except UsageError as error:
            said.append(str(error))

    def begin(loop: asyncio.AbstractEventLoop) -> threading.Thread:
        thread = threading.Thread(target=work, args=(loop,), daemon=True)
        thread.start()
        return thread

    async def main() -> threading.Thread:
        thread = begin(asyncio.get_running_loop())
        await asyncio.to_thread(runtime.asked.wait)
        return thread

    if how == "it is closed":
        aside = Aside("desk", lambda: runtime)
        thread = begin(aside.runtime()[1])
        runtime.asked.wait()
        aside.close()
    else:
        thread = asyncio.run(main())
    thread.join(10)
    assert not thread.is_alive()
    [told] = said
    assert "the service stopped before the step began" in told


PROGRAM = """
from tests.sessions.test_sync_step import *
import sys, pathlib
home = pathlib.Path(sys.argv[1])
desk = Service("desk", database=f"sqlite:///{home}/desk.db", broker=f"sqlite:///{home}/broker.db", tables=Base.metadata)
with desk.sync_step() as step:
    step.publish(TicketOpened(ticket_id=1, text="parent"))
if (child := os.fork()) == 0:
    with desk.sync_step() as step:
        step.publish(TicketOpened(ticket_id=1, text="child"))
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
with desk.sync_step() as step:
    step.publish(TicketOpened(ticket_id=1, text="parent again"))
def outlives():
    threading.main_thread().join()
    with desk.sync_step() as step:
        step.publish(TicketOpened(ticket_id=1, text="a thread that outlives it"))
threading.Thread(target=outlives).start()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_program_ends_without_a_word_and_its_forks_begin_anew(desk: Service, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, str(tmp_path)],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert texts(published(desk)) == ["parent", "child", "parent again", "a thread that outlives it"]
    assert len({each.id for each in envelopes(desk)}) == 4


INSIDE = """
from tests.sessions.test_sync_step import *
import sys, pathlib
from ensue import EngineConfig
url = f"sqlite:///{sys.argv[1]}/desk.db?synchronous=OFF"
config = EngineConfig(stop_limit_s=0.1)
desk = Service("desk", database=url, broker="memory:", tables=Base.metadata, publishes=[TicketOpened], engine=config)
inside = threading.Event()
def work():
    with desk.sync_step() as step:
        step.session.add(Ticket(id=1))
        step.session.flush()
        step.publish(TicketOpened(ticket_id=1))
        inside.set()
        threading.Event().wait()
with desk.sync_step() as step:
    step.publish(TicketOpened(ticket_id=1, text="before"))
threading.Thread(target=work, daemon=True).start()
inside.wait()
"""


def test_a_process_ends_although_a_thread_stays_inside_of_a_step(desk: Service, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, str(tmp_path)],
        capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert "while a thread is inside of a sync_step, after 0.1 s: the step is rolled back" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert texts(published(desk)) == ["before"]


class Broken(Stuck):
    context = SimpleNamespace(config=EngineConfig())

    async def stop(self) -> None:
        raise OSError("no such database")


def test_at_the_end_of_the_process_one_that_cannot_be_closed_keeps_no_other_open(
    desk: Service, caplog: pytest.LogCaptureFixture
) -> None:
    broken: list[Any] = [Broken(desk) for _ in range(2)]
    asides = [Aside(f"desk {number}", lambda number=number: broken[number]) for number in range(2)]  # type: ignore[misc]
    loops = [each.runtime()[1] for each in asides]
    _at_exit()
    assert all(each.is_closed() for each in loops)
    assert sorted(each.message for each in caplog.records) == [
        f"desk {number}: not closed at the end of the process" for number in range(2)
    ]
