"""A message whose handler always loses a database that answers others has failed. One that is away blames nobody, and
neither does one that is full."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Column, LargeBinary, MetaData, String, Table, select, text
from sqlalchemy.orm import Session
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config, letters, store_of, until, until_letters

from ensue import Event, Retry, Service, Step
from ensue.adapters import make_store
from ensue.engine.dead_letters import DeadLetters
from ensue.engine.faults import Faults
from ensue.engine.lost import LOSSES_MAX
from ensue.errors import StoreLost, StoreUnavailable
from ensue.message import DeadLetterState
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World

TWICE = Retry(attempts_max=2, first_delay_s=0.001, delay_max_s=0.001)


class Fed(Event, topic="lost", key="animal"):
    animal: str


async def test_a_message_that_loses_the_database_each_time_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    service, calls = Service("zoo", retry=TWICE), Counter[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls[event.animal] += 1
        if event.animal == "bear":
            raise StoreLost("the server has ended the session")

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
    assert letter.error.startswith("handler feed: the database ended each of 3 attempts, while it answers others")
    assert "the server has ended the session" in letter.error
    assert applied == 3
    assert calls["bear"] >= 2 * LOSSES_MAX


class EverySecond(Faults):
    """The database goes away as every second batch begins."""

    begun = 0

    def point(self, name: str) -> None:
        if name == "consumer.begun":
            self.begun += 1
            if self.begun % 2 == 0:
                raise StoreUnavailable("too many connections")


async def test_a_database_that_fails_now_and_then_slows_down_nobody_who_gets_further(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that takes many transactions, of which every second one fails, is done in part in each turn: the pauses
    stay the first ones. They were doubled each time, and soon each part of it waited for five seconds."""
    service, fed = Service("zoo"), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        fed.append(event.animal)

    one_by_one = config(batch_s=1e-9)  # a message each
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service, engine=one_by_one, faults=EverySecond()) as running:
        await Sender(running.broker).send(*[Fed(animal=f"a-{number}") for number in range(6)])
        await until(lambda: len(fed) >= 6, running, "all are fed")
        await running.settle()
    again = [each.getMessage().rpartition("; ")[2] for each in caplog.records if "too many" in each.getMessage()]
    assert fed == [f"a-{number}" for number in range(6)]
    assert len(again) >= 5
    assert set(again) == {"again in 0.05 s"}


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:"])
async def test_a_session_that_the_server_ends_each_time_is_such_a_message(
    tmp_path: Path, scheme: str, savepoint: bool, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server")
    server.drop("lost")
    service, fed = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        async with step.session.begin_nested() if savepoint else nullcontext():
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
                raise StoreLost("nobody answers")
            return await super().now()

    store = Away(f"sqlite:///{tmp_path}/zoo.db?synchronous=OFF", "zoo")
    service, calls = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls.append(event.animal)
        store.away = len(calls) < 2 * LOSSES_MAX
        if store.away:
            raise StoreLost("connection lost")

    async with asyncio.timeout(2 * LIMIT_S), bench(tmp_path, service, stores={"zoo": store}) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until(lambda: len(calls) >= 2 * LOSSES_MAX, running)
        await running.settle()
        assert await letters(running, service) == []
        [checkpoint] = (await running.runtimes["zoo"].context.books.checkpoints()).values()
    assert (checkpoint.counters.applied, checkpoint.counters.retries) == (1, 0)


@pytest.mark.parametrize("shape", ["statement", "savepoint", "thread"])
async def test_a_disk_without_room_for_what_a_handler_writes_makes_no_letters(tmp_path: Path, shape: str) -> None:
    tables = MetaData()
    stalls = Table("stalls", tables, Column("animal", String, primary_key=True), Column("hay", LargeBinary))
    service, calls = Service("zoo", tables=tables, retry=TWICE), list[str]()

    def hay(event: Fed) -> Any:
        calls.append(event.animal)
        return stalls.insert().values(animal=event.animal, hay=bytes(200_000))

    if shape == "statement":

        @service.on
        async def feed(event: Fed, step: Step) -> None:
            await step.session.execute(hay(event))

    elif shape == "savepoint":

        @service.on
        async def feed_carefully(event: Fed, step: Step) -> None:
            async with step.session.begin_nested():
                await step.session.execute(hay(event))

    else:

        @service.on
        def feed_in_thread(event: Fed, session: Session) -> None:
            session.execute(hay(event))

    store = store_of(tmp_path, "zoo")
    async with asyncio.timeout(2 * LIMIT_S), bench(tmp_path, service, stores={"zoo": store}) as running:
        assert store._opened is not None
        connection = store._opened.writer.connection
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 20}")  # 80 KB: for letters, and for no hay
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await until(lambda: len(calls) >= 2 * LOSSES_MAX, running)
        assert await letters(running, service) == []
        connection.execute("PRAGMA max_page_count = 1000000000")
        await running.settle()
        assert await letters(running, service) == []
        async with store.reading() as session:
            fed = (await session.scalars(select(stalls.c.animal))).all()
    assert sorted(fed) == ["ant", "bear", "cat"]


@pytest.mark.parametrize("what", ["Disk full", "Disk full, in a savepoint", "Deadlock, in a savepoint"])
@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:", "mariadb:"])
async def test_a_server_that_is_full_or_chooses_another_one_makes_no_letters(
    tmp_path: Path, scheme: str, what: str, request: pytest.FixtureRequest
) -> None:
    kind = "mariadb" if scheme == "mariadb:" else "postgres"
    server = request.getfixturevalue(f"{kind}_server")
    server.drop("full")
    service, calls, full = Service("zoo", retry=TWICE), list[str](), True
    disk = what.startswith("Disk")
    refusal = {  # in the words of a server in that state, which cannot be had here
        "postgres": f"DO $$ BEGIN RAISE EXCEPTION '{what}' USING ERRCODE = '{'53100' if disk else '40P01'}'; END $$",
        "mariadb": f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {1021 if disk else 1213}, MESSAGE_TEXT = '{what}'",
    }[kind]

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls.append(event.animal)
        async with step.session.begin_nested() if "savepoint" in what else nullcontext():
            if full:
                await step.session.execute(text(refusal))

    stores = {"zoo": make_store(server.url("full").replace("postgresql:", scheme), "zoo")}
    async with asyncio.timeout(2 * LIMIT_S), bench(tmp_path, service, stores=stores) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await until(lambda: len(calls) >= 2 * LOSSES_MAX, running)
        assert await letters(running, service) == []
        full = False
        await running.settle()
        assert await letters(running, service) == []
        [checkpoint] = (await running.runtimes["zoo"].context.books.checkpoints()).values()
    assert (checkpoint.counters.applied, checkpoint.counters.retries) == (3, 0)
    server.drop("full")


class Rights:
    """A role that may do everything in a database of its own, and inserts into a table of somebody else's."""

    role = "keeper"

    def __init__(self, scheme: str, request: pytest.FixtureRequest) -> None:
        self._mariadb = scheme == "mariadb:"
        self._server: Any = request.getfixturevalue("mariadb_server" if self._mariadb else "postgres_server")
        if self._mariadb:
            for name in ("rights", "rights_of_others"):
                self._server.drop(name)
            url, _ = self._server.url("rights"), self._server.url("rights_of_others")
            self.table, user = "rights_of_others.stalls", f"{self.role}@'%'"
            self._grantee = user
            self.run(f"CREATE USER IF NOT EXISTS {user}")
            self.run(f"GRANT ALL ON rights.* TO {user}")
            self.run(f"CREATE TABLE {self.table} (animal VARCHAR(20))")
            self.url = url.replace("root@", f"{self.role}@")
        else:
            self._server.drop("rights")
            url = self._server.url("rights").replace("postgresql:", scheme)
            self.table, self._grantee = "stalls", self.role
            self.run(f"DO $$ BEGIN CREATE ROLE {self.role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
            self.run(f"GRANT CREATE, USAGE ON SCHEMA public TO {self.role}")
            self.run(f"CREATE TABLE {self.table} (animal text)")
            self.url = url.replace("postgres@", f"{self.role}@")
        self.grant()

    @asynccontextmanager
    async def running(self, directory: Path, service: Service) -> AsyncIterator[World]:
        """The service at work, as this role."""
        async with (
            asyncio.timeout(2 * LIMIT_S),
            bench(directory, service, stores={service.name: make_store(self.url, service.name)}) as running,
        ):
            yield running

    def run(self, statement: str) -> str:
        found = self._server.sql(statement) if self._mariadb else self._server.psql("rights", statement)
        return str(found)

    def grant(self) -> None:
        self.run(f"GRANT INSERT ON {self.table} TO {self._grantee}")

    def revoke(self) -> None:
        self.run(f"REVOKE INSERT ON {self.table} FROM {self._grantee}")


@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:", "mariadb:"])
async def test_a_right_that_is_taken_away_makes_no_letters_and_all_goes_on_when_it_is_back(
    tmp_path: Path, scheme: str, request: pytest.FixtureRequest
) -> None:
    rights = Rights(scheme, request)
    service, calls = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        calls.append(event.animal)
        await step.session.execute(text(f"INSERT INTO {rights.table} VALUES (:animal)"), {"animal": event.animal})

    async with rights.running(tmp_path, service) as running:
        sender = Sender(running.broker)
        await sender.send(Fed(animal="ant"))
        await until(lambda: len(calls) == 1, running)
        await running.settle()
        rights.revoke()
        await sender.send(*[Fed(animal=each) for each in ("bear", "cat")])
        await until(lambda: len(calls) >= 2 * LOSSES_MAX, running)
        assert await letters(running, service) == []
        worker = running.runtimes["zoo"].worker
        assert worker is not None
        assert ["GRANT it" in each.trouble for each in worker.loops.consumers] == [True]
        [why] = await running.runtimes["zoo"].readiness()
        assert why.startswith("zoo<-lost/0: the database takes nothing")
        assert "GRANT it" in why
        rights.grant()
        await running.settle()
        assert await letters(running, service) == []
        await until(lambda: not worker.loops.consumers[0].trouble, running)
        assert await running.runtimes["zoo"].readiness() == []
    assert sorted(rights.run(f"SELECT animal FROM {rights.table}").split()) == ["ant", "bear", "cat"]


@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:"])
async def test_a_row_that_row_security_refuses_is_its_messages_fault(
    tmp_path: Path, scheme: str, request: pytest.FixtureRequest
) -> None:
    rights = Rights(scheme, request)
    rights.run(f"ALTER TABLE {rights.table} ENABLE ROW LEVEL SECURITY")
    rights.run(f"CREATE POLICY tame ON {rights.table} FOR INSERT WITH CHECK (animal <> 'bear')")
    service = Service("zoo", retry=TWICE)

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        await step.session.execute(text(f"INSERT INTO {rights.table} VALUES (:animal)"), {"animal": event.animal})

    async with rights.running(tmp_path, service) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        await running.settle()
        [letter] = await letters(running, service)
    assert letter.key == "bear"
    assert sorted(rights.run(f"SELECT animal FROM {rights.table}").split()) == ["ant", "cat"]


@pytest.mark.parametrize("scheme", ["postgresql:", "postgresql+psycopg:", "mariadb:"])
async def test_a_table_that_is_not_there_is_the_fault_of_the_handler_that_names_it(
    tmp_path: Path, scheme: str, request: pytest.FixtureRequest
) -> None:
    rights = Rights(scheme, request)
    service, fed = Service("zoo", retry=TWICE), list[str]()

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        if event.animal == "bear":
            await step.session.execute(text("INSERT INTO stals VALUES ('bear')"))
        fed.append(event.animal)

    async with rights.running(tmp_path, service) as running:
        await Sender(running.broker).send(*[Fed(animal=each) for each in ("ant", "bear", "cat")])
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        await running.settle()
        [letter] = await letters(running, service)
    assert letter.key == "bear"
    assert {"ant", "cat"} <= set(fed)


async def test_of_letters_that_an_operator_discards_nothing_is_kept(tmp_path: Path) -> None:
    service = Service("zoo", retry=TWICE)

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        raise ValueError("not today")

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        context = running.runtimes["zoo"].context
        await Sender(running.broker).send(Fed(animal="bear"))
        await until_letters(running, service, 1, DeadLetterState.DEAD)
        [letter] = await letters(running, service)
        queues = DeadLetters(letter.partition, context, Random(0))
        queues._losses[letter.id] = 1
        await queues.load()
        assert dict(queues._losses) == {letter.id: 1}
        async with context.store.transaction() as transaction:
            await context.books.remove_letter(transaction, letter)
        await queues.load()
        assert not queues._losses
