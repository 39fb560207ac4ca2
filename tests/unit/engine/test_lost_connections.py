"""A message whose handler always loses a database that answers others has failed; one that is away blames nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, letters, until, until_letters

from ensue import Event, Retry, Service, Step
from ensue.adapters import make_store
from ensue.engine.lost import LOSSES_MAX
from ensue.errors import StoreUnavailable
from ensue.message import DeadLetterState
from ensue.stores.sqlite import SqliteStore

TWICE = Retry(attempts_max=2, first_delay_s=0.001, delay_max_s=0.001)


class Fed(Event, topic="lost", key="animal"):
    animal: str


async def test_a_message_that_loses_the_database_each_time_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    service, calls = Service("zoo", retry=TWICE), Counter[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls[event.animal] += 1
        if event.animal == "bear":
            raise StoreUnavailable("the server has ended the session")

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service, partitions=2) as running:
        await Sender(running.broker, partitions=2).send(*[Fed(animal=each) for each in ("ant", "bear", "cat", "dog")])
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        [letter] = await letters(running, service)
        await running.settle()
        [applied] = [
            sum(each.counters.applied for each in (await runtime.context.books.checkpoints()).values())
            for runtime in running.runtimes.values()
        ]
    assert (letter.key, letter.attempts, letter.error_type) == ("bear", 2, "HandlerLosesStore")
    assert letter.error.startswith("handler feed: the connection to the database was lost in each of 3 attempts")
    assert "the server has ended the session" in letter.error
    assert applied == 3
    assert calls["bear"] >= 2 * LOSSES_MAX


@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:"])
async def test_a_session_that_the_server_ends_each_time_is_such_a_message(
    tmp_path: Path, scheme: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server")
    server.drop("lost")
    service, fed = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        if event.animal == "bear":
            await step.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        fed.append(event.animal)

    stores = {"zoo": make_store(server.url("lost").replace("postgresql:", scheme), "zoo")}
    async with asyncio.timeout(2 * LIMIT_S), bench(tmp_path, service, stores=stores) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        [letter] = await letters(running, service)
        await running.settle()
    assert (letter.key, letter.error_type) == ("bear", "HandlerLosesStore")
    assert {"ant", "cat"} <= set(fed)
    server.drop("lost")


async def test_while_the_database_answers_nobody_no_attempt_is_counted(tmp_path: Path) -> None:
    class Away(SqliteStore):
        away = False

        async def now(self) -> float:
            if self.away:
                raise StoreUnavailable("nobody answers")
            return await super().now()

    store = Away(f"sqlite:///{tmp_path}/zoo.db?synchronous=OFF", "zoo")
    service, calls = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls.append(event.animal)
        store.away = len(calls) < 2 * LOSSES_MAX
        if store.away:
            raise StoreUnavailable("connection lost")

    async with asyncio.timeout(2 * LIMIT_S), bench(tmp_path, service, stores={"zoo": store}) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until(lambda: len(calls) >= 2 * LOSSES_MAX, running)
        await running.settle()
        assert await letters(running, service) == []
        [checkpoint] = (await running.runtimes["zoo"].context.books.checkpoints()).values()
    assert (checkpoint.counters.applied, checkpoint.counters.retries) == (1, 0)
