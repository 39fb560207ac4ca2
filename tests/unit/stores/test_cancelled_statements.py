"""A statement that is cancelled in the middle (a time limit, a client that goes away) costs its own step alone."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Response
from httpx import ASGITransport, AsyncClient
from servers import MariaDbServer, PostgresServer
from sqlalchemy import text
from sqlalchemy.exc import PendingRollbackError
from starlette.types import Receive, Scope, Send

from ensue import Service, Step
from ensue.adapters import make_store
from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, Account, record
from ensue.engine.books import Books
from ensue.errors import UsageError
from ensue.integrations.fastapi import install, step_of

LIMIT_S = 60.0
#: Longer than any test: only a cancellation ends it.
SLEEP = {"asyncpg": "SELECT pg_sleep(600)", "psycopg": "SELECT pg_sleep(600)", "mariadb": "SELECT SLEEP(600)"}
MANY = {"mariadb": "SELECT seq, SLEEP(seq > 50) FROM seq_1_to_1000000"}
MANY["asyncpg"] = MANY["psycopg"] = "SELECT n, pg_sleep((n / 51) * 600) FROM generate_series(1, 1000000) n"


@pytest.fixture(params=["asyncpg", "psycopg", "mariadb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(kind: str, postgres_server: PostgresServer, mariadb_server: MariaDbServer) -> AsyncIterator[Any]:
    """With one connection for steps: whatever is left of it, the next step gets."""
    server: PostgresServer | MariaDbServer = mariadb_server if kind == "mariadb" else postgres_server
    server.drop(f"cancelled_{kind}")
    scheme = kind if kind == "mariadb" else f"postgresql+{kind}"
    store = make_store(server.url(f"cancelled_{kind}", scheme) + "?pool_size=5", SERVICE)
    await store.open()
    await store.create_tables(METADATA)
    async with store.transaction() as step:
        await step.insert_rows(ACCOUNTS, [("a", 0)])
    yield store
    await store.close()


async def check_that_all_works(store: Any, steps: int = 20) -> None:
    before = await balance(store)
    for number in range(steps):
        async with store.transaction() as step:
            account = await step.session.get(Account, "a")
            account.balance += 1
            await step.outbox_add([record(str(number))])
    assert await balance(store) == before + steps


async def balance(store: Any) -> int:
    async with store.reading() as session:
        account = await session.get(Account, "a")
        return int(account.balance)


async def cancelled(statement: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.1):
        await statement


async def test_a_time_limit_inside_a_step_is_its_error_and_nobody_elses(store: Any, kind: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(TimeoutError):
            async with store.transaction() as step:
                await step.session.execute(text("UPDATE conformance_account SET balance = 7"))
                await cancelled(step.session.execute(text(SLEEP[kind])))
        assert await balance(store) == 0
        await check_that_all_works(store)


async def test_a_step_that_caught_the_time_limit_cannot_commit_half_of_itself(store: Any, kind: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(UsageError, match="cannot commit"):
            async with store.transaction() as step:
                await step.session.execute(text("UPDATE conformance_account SET balance = 7"))
                with pytest.raises(TimeoutError):
                    await cancelled(step.session.execute(text(SLEEP[kind])))
        assert await balance(store) == 0
        await check_that_all_works(store)


@pytest.mark.parametrize("then", ["session", "outbox", "rows", "nested"])
async def test_no_statement_follows_one_that_was_cancelled_in_the_step(store: Any, kind: str, then: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises((UsageError, PendingRollbackError)):
            async with store.transaction() as step:
                with pytest.raises(TimeoutError):
                    if then == "nested":
                        async with step.session.begin_nested():
                            await cancelled(step.session.execute(text(SLEEP[kind])))
                    else:
                        await cancelled(step.session.execute(text(SLEEP[kind])))
                if then == "outbox":
                    await step.outbox_add([record("after it")])
                elif then == "rows":
                    await step.load_rows(ACCOUNTS, ["a"])
                else:
                    await step.session.execute(text("UPDATE conformance_account SET balance = 7"))
        assert await store.outbox_after(0, 10) == []
        assert await balance(store) == 0
        await check_that_all_works(store)


@pytest.fixture
def _collected_at_once() -> Iterator[None]:
    """What a test leaves to the garbage collector says so here, and not in the next one."""
    yield
    gc.collect()


# psycopg tells of the cursor that SQLAlchemy leaves to a connection that it has given up.
@pytest.mark.usefixtures("_collected_at_once")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ServerCursorMixin:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.parametrize("caught", [False, True])
async def test_rows_that_were_streaming_when_it_was_cancelled(store: Any, kind: str, caught: bool) -> None:
    async def stream(session: Any) -> None:
        async for _ in await session.stream(text(MANY[kind]), execution_options={"yield_per": 1}):
            pass

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(UsageError if caught else TimeoutError):
            async with store.transaction() as step:
                try:
                    await cancelled(stream(step.session))
                except TimeoutError:
                    if not caught:
                        raise
        await check_that_all_works(store)


async def test_a_time_limit_of_a_reader_is_its_own(store: Any, kind: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        for _ in range(9):  # more than there are connections for readers
            with pytest.raises(TimeoutError):
                async with store.reading() as session:
                    await cancelled(session.execute(text(SLEEP[kind])))
            async with store.reading() as session:
                with pytest.raises(TimeoutError):
                    await cancelled(session.execute(text(SLEEP[kind])))
        await check_that_all_works(store)


async def test_a_step_that_is_cancelled_while_its_plain_session_waits(store: Any, kind: str) -> None:
    """The session of a `def` handler is in a thread, which nobody can cancel."""

    async def work(seconds: str) -> None:
        async with store.transaction() as step:
            session = step.sync_session()
            await asyncio.to_thread(session.execute, text(SLEEP[kind].replace("600", seconds)))

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(TimeoutError):
            await cancelled(work("1"))
        await check_that_all_works(store)


async def test_a_request_that_takes_too_long_is_one_504_and_the_next_requests_are_served(
    kind: str, postgres_server: PostgresServer, mariadb_server: MariaDbServer
) -> None:
    server: PostgresServer | MariaDbServer = mariadb_server if kind == "mariadb" else postgres_server
    scheme = kind if kind == "mariadb" else f"postgresql+{kind}"
    url = server.url(f"limited_{kind}", scheme) + "?pool_size=5"
    service = Service("cancelled", database=url, broker="memory://")
    app = FastAPI()
    install(app, service)

    @app.get("/{seconds}")
    async def wait(seconds: int, step: Step = step_of(service)) -> None:
        await step.session.execute(text(SLEEP[kind].replace("600", str(seconds))))

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(0.3 if scope["path"] == "/600" else LIMIT_S):
                await app(scope, receive, send)
        except TimeoutError:
            await Response(status_code=504)(scope, receive, send)

    async with (
        asyncio.timeout(LIMIT_S), service.running(),
        AsyncClient(transport=ASGITransport(limited), base_url="http://test") as client,
    ):  # fmt: skip
        assert (await client.get("/600")).status_code == 504
        assert [(await client.get("/0")).status_code for _ in range(20)] == [200] * 20


WAYS: dict[str, Callable[[Any], Awaitable[None]]] = {}


def way(work: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    WAYS[work.__name__] = work
    return work


@way
async def step_by_session(store: Any) -> None:
    async with store.transaction() as step:
        account = await step.session.get(Account, "a")
        account.balance += 1
        await step.flush()
        await step.session.execute(text("SELECT count(*) FROM conformance_account"))
        await step.outbox_add([record("1")])


@way
async def step_by_rows(store: Any) -> None:
    async with store.transaction() as step:
        [(_, found)] = await step.load_rows(ACCOUNTS, ["a"])
        await step.update_rows(ACCOUNTS, [("a", found + 1)])
        await step.outbox_add([record("1")])


@way
async def step_by_plain_session(store: Any) -> None:
    async with store.transaction() as step:
        session = step.sync_session()

        def work() -> None:
            account = session.get(Account, "a")
            assert account is not None
            account.balance += 1
            session.flush()

        await asyncio.to_thread(work)


@way
async def reading(store: Any) -> None:
    assert await balance(store) >= 0
    assert len(await store.rows().get(ACCOUNTS, ["a"])) == 1


@way
async def relay_pool(store: Any) -> None:
    await store.outbox_after(0, 10)
    books = Books(store, SERVICE)
    await books.save_relay_position(store.source, 1)
    await books.checkpoints()
    await books.heartbeat("worker", 10.0)
    await store.create_tables(METADATA, dry_run=True)


@pytest.mark.parametrize("name", sorted(WAYS))
async def test_work_may_be_cancelled_at_any_moment(store: Any, name: str) -> None:
    """At each turn of the event loop up to the one at which it ends by itself."""
    ended, turns = 0, 0
    async with asyncio.timeout(LIMIT_S):
        while ended < 3:
            task = asyncio.ensure_future(WAYS[name](store))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
                ended += 1
            except asyncio.CancelledError:
                turns += 1 + turns // 20
            await check_that_all_works(store, 1)
        assert turns > 5, "it was never in the middle of anything"
        await check_that_all_works(store)
