"""Handlers that end in ways which would end more than themselves: SystemExit, StopIteration, any BaseException."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.event import listen, remove
from sqlalchemy.orm import Session
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config, letters, until_letters

from ensue import Event, Retry, Service, Step
from ensue.brokers.memory import MemoryBroker
from ensue.message import DeadLetterState
from ensue.testing import given


class Fed(Event, topic="food", key="animal"):
    animal: str


def exits() -> None:
    sys.exit("no food is left")


def stops() -> None:
    next(iter([]))


class Panic(BaseException):
    """As extensions in Rust raise it."""


def raises(error: BaseException) -> Callable[[], None]:
    def leave() -> None:
        raise error

    return leave


@pytest.mark.parametrize("plain", [False, True], ids=["async def", "def"])
@pytest.mark.parametrize(
    ("leave", "names"),
    [
        (exits, "SystemExit"),
        (stops, "StopIteration"),
        (raises(Panic("index out of bounds")), "Panic"),
        (raises(GeneratorExit()), "GeneratorExit"),
        (raises(asyncio.CancelledError("the client's")), "HandlerCancelled"),
        (raises(BaseExceptionGroup("two at once", [Panic("one")])), "BaseExceptionGroup"),
    ],
    ids=["SystemExit", "StopIteration", "Panic", "GeneratorExit", "CancelledError", "group"],
)
async def test_a_handler_that_leaves_is_a_failure_of_its_message_and_the_service_goes_on(
    tmp_path: Path, leave: Callable[[], None], names: str, plain: bool
) -> None:
    fed: list[str] = []
    service = Service("zoo", retry=Retry(attempts_max=1))

    def feed(event: Fed) -> None:
        if event.animal == "bear":
            leave()
        fed.append(event.animal)

    if plain:

        @service.on
        def plain_feed(event: Fed, step: Step) -> None:
            feed(event)
    else:

        @service.on
        async def async_feed(event: Fed, step: Step) -> None:
            feed(event)

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
        await until_letters(running, service, 1)
        [letter] = await letters(running, service)
    assert letter.state is DeadLetterState.DEAD
    assert names in f"{letter.error_type}: {letter.error}"
    assert fed == ["wolf"]


async def test_a_keyboard_interrupt_in_a_thread_is_no_ctrl_c_but_a_failure(tmp_path: Path) -> None:
    service = Service("zoo", retry=Retry(attempts_max=1))

    @service.on
    def feed(event: Fed) -> None:
        raise KeyboardInterrupt

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until_letters(running, service, 1)
        [letter] = await letters(running, service)
    assert "KeyboardInterrupt" in letter.error


async def test_a_handler_that_cancels_the_task_it_runs_in_is_a_failure(tmp_path: Path) -> None:
    fed: list[str] = []
    service = Service("zoo", retry=Retry(attempts_max=2, first_delay_s=0.001, delay_max_s=0.001))

    @service.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)
        if event.animal == "bear":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        [letter] = await letters(running, service)
    assert (letter.error_type, letter.attempts) == ("HandlerCancelled", 2)
    assert "wolf" in fed


async def test_a_cancellation_by_others_ends_the_loop_with_a_line_in_the_log_and_no_attempt_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, allowed = asyncio.Event(), asyncio.Event()
    service = Service("zoo")

    @service.on
    async def feed(event: Fed) -> None:
        begun.set()
        await allowed.wait()

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service, engine=config(lease_ttl_s=0.6)) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await begun.wait()
        begun.clear()
        [task] = [each for each in asyncio.all_tasks() if each.get_name() == "ensue food/0"]
        task.cancel()
        await begun.wait()  # the next heartbeat has begun the loop anew
        assert task.cancelled()
        assert await letters(running, service) == []
        allowed.set()
    assert "the loop food/0 ended unexpectedly" in caplog.text


async def test_a_read_that_is_cancelled_from_inside_does_not_end_its_loop(tmp_path: Path) -> None:
    fed: list[str] = []
    arrived = asyncio.Event()
    service = Service("zoo")

    class Cancelled(MemoryBroker):
        left = 3

        def reader(self, topic: str, partition: int, after: int) -> Any:
            reader = super().reader(topic, partition, after)
            read = reader.read

            async def cancelled(limit: int, wait_s: float) -> Any:
                if self.left:
                    self.left -= 1
                    raise asyncio.CancelledError("a connection's task")
                return await read(limit, wait_s)

            reader.read = cancelled  # type: ignore[method-assign]  # this one reader's
            return reader

    @service.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)
        arrived.set()

    # Heartbeats are too far apart to begin a loop anew within the limit.
    async with (
        asyncio.timeout(LIMIT_S),
        bench(tmp_path, service, broker=Cancelled(), engine=config(lease_ttl_s=300.0)) as running,
    ):
        await Sender(running.broker).send(Fed(animal="wolf"))
        await arrived.wait()
    assert fed == ["wolf"]


async def test_a_step_from_outside_that_ends_with_a_base_exception_leaves_nothing_and_the_next_one_goes(
    tmp_path: Path,
) -> None:
    service = Service("zoo", publishes=[Fed])
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:

        async def panics() -> None:
            async with service.step() as step:
                step.publish(Fed(animal="bear"))
                raise Panic

        with pytest.raises(Panic):
            await panics()
        async with service.step() as step:
            step.publish(Fed(animal="wolf"))
        records = await running.runtimes["zoo"].store.outbox_after(0, 10)
    assert [record.key for record in records] == ["wolf"]


async def test_given_returns_any_error_of_a_handler() -> None:
    service = Service("zoo")

    @service.on
    async def feed(event: Fed) -> None:
        raise Panic("index out of bounds")

    result = await given(service).when(Fed(animal="bear"))
    assert isinstance(result.error, Panic)


async def test_a_listener_that_fails_after_the_commit_makes_no_handler_run_again(tmp_path: Path) -> None:
    service, fed, failed = Service("zoo"), list[str](), list[Session]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        await step.session.execute(text("SELECT 1"))
        fed.append(event.animal)

    def fail(session: Session) -> None:
        failed.append(session)
        raise ValueError("too late")

    listen(Session, "after_commit", fail)
    try:
        async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
            await Sender(running.broker).send(Fed(animal="ant"), Fed(animal="bear"))
            await running.settle()
            assert await letters(running, service) == []
    finally:
        remove(Session, "after_commit", fail)
    assert failed
    assert fed == ["ant", "bear"]
