"""What an SQL server does to a store, whichever it is: it is killed, it falls silent, it deadlocks, it gives up."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from servers import MariaDbServer, PostgresServer, TcpProxy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ensue.adapters import make_store
from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, Account, check_chain, record, texts
from ensue.errors import StoreConflict, StoreUnavailable
from ensue.message import OutboxRecord
from ensue.ports import Store
from ensue.stores.sql import link

LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Kind:
    """server: how one is started. kills: how often it is killed (MariaDB needs seconds to come back). lock_timeout_s:
    the least there is. ends: what ends the connection that says it."""

    scheme: str
    server: Callable[..., Any]
    options: dict[str, Any]
    kills: int
    lock_timeout_s: str
    ends: str


def postgres(scheme: str) -> Kind:
    return Kind(scheme, PostgresServer, {}, 2, "0.1", "SELECT pg_terminate_backend(pg_backend_pid())")


KINDS = {
    "asyncpg": postgres("postgresql"),
    "psycopg": postgres("postgresql+psycopg"),
    "mariadb": Kind("mariadb", MariaDbServer, {"durable": True}, 1, "1", "KILL CONNECTION_ID()"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def url_on(server: Any, kind: Kind) -> str:
    """Of a database that is not there yet."""
    name = f"servers_{secrets.token_hex(4)}"
    return str(server.url(name) if kind.server is MariaDbServer else server.url(name, kind.scheme))


@pytest.fixture
def server(kind: Kind, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("mariadb_server" if kind.server is MariaDbServer else "postgres_server")


@pytest.fixture
def url(kind: Kind, server: Any) -> str:
    return url_on(server, kind)


@asynccontextmanager
async def opened(url: str, accounts: Sequence[str] = ()) -> AsyncIterator[Store]:
    """With empty accounts."""
    store = make_store(url, SERVICE)
    await store.open()
    try:
        await store.create_tables(METADATA)
        if accounts:
            async with store.transaction() as transaction:
                await transaction.insert_rows(ACCOUNTS, [(each, 0) for each in accounts])
        yield store
    finally:
        await store.close()


async def deposit(store: Store, account: str = "a") -> None:
    async with store.transaction() as transaction:
        [(_, balance)] = await transaction.load_rows(ACCOUNTS, [account])
        await transaction.update_rows(ACCOUNTS, [(account, balance + 1)])
        await transaction.outbox_add([record(str(balance + 1), key=account)])


async def patiently(store: Store) -> Sequence[OutboxRecord]:
    while True:
        try:
            return await store.outbox_after(0, 1_000_000)
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def until(store: Store, count: int) -> None:
    while len(await patiently(store)) < count:  # noqa: ASYNC110  # the server's progress has no event
        await asyncio.sleep(0.02)


async def test_steps_go_on_after_the_server_was_killed_and_started_again(kind: Kind, start: Callable[..., Any]) -> None:
    server = start(kind.server, **kind.options)
    accounts = [str(number) for number in range(4)]
    failed, stop = 0, asyncio.Event()
    async with opened(url_on(server, kind), accounts) as store:

        async def work(account: str) -> int:
            nonlocal failed
            sure = 0
            while not stop.is_set():
                try:
                    await deposit(store, account)
                    sure += 1
                except StoreUnavailable:
                    failed += 1
                    await asyncio.sleep(0.01)
            return sure

        async with asyncio.timeout(LIMIT_S):
            workers = [asyncio.create_task(work(account)) for account in accounts]
            for _ in range(kind.kills):
                await until(store, len(await patiently(store)) + 8)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await until(store, len(await patiently(store)) + 8)
            stop.set()
            sure = dict(zip(accounts, [await worker for worker in workers], strict=True))
        found = await patiently(store)
        check_chain(found)
        async with store.transaction() as transaction:
            balances = {row[0]: row[1] for row in await transaction.load_rows(ACCOUNTS, accounts)}
        for account in accounts:
            own = [each for each in found if each.key == account]
            assert texts(own) == [str(each) for each in range(1, balances[account] + 1)]
            # A commit whose answer was lost counts although nobody was told: at most one for each kill.
            assert sure[account] <= balances[account] <= sure[account] + kind.kills
        assert failed, "the test killed the server when nobody used it"


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_server_that_falls_silent_holds_no_ending_of_a_step_for_ever(
    server: Any, url: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "COMMIT_S", 0.3)
    monkeypatch.setattr(link, "ROLLBACK_S", 0.3)
    expected = StoreUnavailable if ending == "commit" else ValueError
    async with TcpProxy(server.port) as proxy, opened(url.replace(f":{server.port}/", f":{proxy.port}/")) as store:
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(expected, match=r"outcome is not known|the handler's"):
                async with store.transaction() as transaction:
                    await transaction.insert_rows(ACCOUNTS, [("a", 0)])
                    proxy.freeze()
                    if ending == "rollback":
                        raise ValueError("the handler's")
            proxy.heal()
            async with store.transaction() as transaction:  # on a new connection
                await transaction.insert_rows(ACCOUNTS, [("b", 0)])


async def test_a_deadlock_that_is_let_pass_is_a_conflict_to_be_tried_again(url: str) -> None:
    both = asyncio.Barrier(2)
    async with opened(url, ["a", "b"]) as store:

        async def cross(first: str, second: str) -> None:
            async with store.transaction() as transaction:
                await transaction.load_rows(ACCOUNTS, [first])
                await both.wait()
                await transaction.load_rows(ACCOUNTS, [second])

        async with asyncio.timeout(LIMIT_S):
            outcomes = await asyncio.gather(cross("a", "b"), cross("b", "a"), return_exceptions=True)
        assert [type(each) for each in outcomes if each is not None] == [StoreConflict]


async def test_a_lock_that_is_held_too_long_is_a_conflict_to_be_tried_again(kind: Kind, url: str) -> None:
    async with opened(f"{url}?lock_timeout_s={kind.lock_timeout_s}", ["a"]) as store:
        async with store.transaction() as holder:
            await holder.load_rows(ACCOUNTS, ["a"])
            with pytest.raises(StoreConflict, match=r"lock timeout|Lock wait timeout"):
                await deposit(store)
        await deposit(store)


async def test_a_unique_violation_stays_the_statements_own_fault(url: str) -> None:
    async with opened(url) as store:
        with pytest.raises(IntegrityError):
            async with store.transaction() as transaction:
                transaction.session.add(Account(id="a", balance=1))
                await transaction.flush()
                await transaction.session.execute(text("INSERT INTO conformance_account VALUES ('a', 2)"))


async def test_an_error_of_the_steps_own_connection_is_the_stores_also_behind_a_handlers_error(
    kind: Kind, url: str
) -> None:
    async with opened(url) as store:
        with pytest.raises(StoreUnavailable):
            async with store.transaction() as transaction:
                try:
                    await transaction.session.execute(text(kind.ends))
                    await transaction.session.execute(text("SELECT 1"))
                except DBAPIError as error:
                    raise ValueError("no report") from error
