"""What the SQL stores do with a connection whose server is silent, slow or in trouble, whatever the driver."""

# ruff: noqa: PT012  # what happens around the block that raises belongs into it
from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.message import OutboxRecord
from ensue.stores import ending
from ensue.stores.mariadb import MariaDbStore
from ensue.stores.postgres import PostgresStore, listen
from ensue.stores.postgres.listen import Listening
from ensue.stores.sql import link, stamped
from ensue.stores.sql.connections import Connections
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import OutboxContext
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.stamped import StampedOutbox
from ensue.stores.sql.transaction import SqlTransaction
from ensue.stores.sql.wakeup import Wakeup
from ensue.stores.statements import Words

LIMIT_S = 20.0


class Gone(Exception):
    """A driver's error: the connection is lost."""


class Slow(Exception):
    """A driver's error: a statement took too long."""


class Held(Link):
    """A connection to a server that answers when it is told to. held: what it does not answer (words of `said`)."""

    words = Words(noise="(?!)", ends="(?!)")

    def __init__(self, *held: str) -> None:
        super().__init__(None, "db.example/orders", "BEGIN")
        self.held = set(held)
        self.go_on, self.asked, self.hung_up = asyncio.Event(), asyncio.Event(), False
        self.said: list[str] = []
        self.open = False
        self.fails: dict[str, BaseException] = {}

    async def _say(self, word: str) -> None:
        self.said.append(word)
        if word in self.held:
            self.asked.set()
            await self.go_on.wait()
        if word in self.fails:
            raise self.fails[word]

    @property
    def in_transaction(self) -> bool:
        return self.open

    @property
    def closed(self) -> bool:
        return self.hung_up

    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows:
        await self._say(text.split("(")[0])
        return [(1,)]

    async def _execute(self, text: str, values: Sequence[Any]) -> int:
        await self._say(text)
        return 1

    async def _script(self, text: str) -> None:
        await self._say(text)
        self.open = True

    async def _commit(self) -> None:
        await self._say("COMMIT")
        self.open = False

    async def _rollback(self) -> None:
        await self._say("ROLLBACK")
        self.open = False

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, Gone)

    def is_interruption(self, error: Exception) -> bool:
        return isinstance(error, Slow)

    def _translated(self, error: BaseException) -> EnsueError | None:
        return StoreUnavailable(f"{self.place} is gone") if isinstance(error, Gone) else None

    async def close(self) -> None:
        self.hung_up = True

    def terminate(self) -> None:
        self.hung_up = True


def pool_of(connection: Link) -> Pool:
    async def connect() -> Link:
        return connection

    return Pool(Connections(connect, 1, ["steps"], "testdb"), "steps")


def step(connection: Link) -> SqlTransaction:
    nothing: Any = None
    return SqlTransaction(pool_of(connection), nothing, nothing, nothing)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "COMMIT_S", 0.05)
    monkeypatch.setattr(link, "ROLLBACK_S", 0.05)
    monkeypatch.setattr(ending, "NOTICE_S", 0.05)


# --------------------------------------------------------------------------------------- a server that is mute


@pytest.mark.usefixtures("hurry")
async def test_a_commit_that_is_never_answered_is_given_up_and_said_to_be_of_unknown_outcome() -> None:
    connection = Held("COMMIT")
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StoreUnavailable, match="outcome is not known"):
            async with step(connection):
                pass
    assert connection.broken
    assert connection.hung_up
    assert "ROLLBACK" not in connection.said, "nothing more is asked of it"


@pytest.mark.usefixtures("hurry")
async def test_a_rollback_that_is_never_answered_is_given_up_and_the_steps_own_error_goes_on() -> None:
    connection = Held("ROLLBACK")
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ValueError, match="the handler's"):
            async with step(connection):
                raise ValueError("the handler's")
    assert connection.broken
    assert connection.hung_up


def test_a_commit_has_longer_than_a_rollback() -> None:
    assert link.COMMIT_S >= 10 * link.ROLLBACK_S > 0


# ---------------------------------------------------------------------------------- cancelled while it rolls back


async def cancelled_in(connection: Held, work: Callable[[], Any]) -> asyncio.Task[Any]:
    """Cancel `work` while the connection holds it, let it go on, return its task when it has ended."""
    task: asyncio.Task[Any] = asyncio.ensure_future(work())
    async with asyncio.timeout(LIMIT_S):
        await connection.asked.wait()
        task.cancel()
        await asyncio.sleep(0)
        connection.go_on.set()
        await asyncio.wait((task,))
    return task


async def failing(_: Link) -> None:
    raise StoreUnavailable("of the work")


async def test_a_cancellation_during_the_rollback_of_work_that_failed_is_not_lost() -> None:
    connection = Held("ROLLBACK")
    task = await cancelled_in(connection, lambda: pool_of(connection).run(failing))
    assert task.cancelled()


async def test_a_cancellation_during_the_rollback_of_a_step_that_cannot_begin_leaves_no_place_taken() -> None:
    connection = Held("ROLLBACK")
    connection.fails["SELECT now"] = StoreUnavailable("of the clock")
    pool, nothing = pool_of(connection), cast(Any, None)

    async def one() -> None:
        async with SqlTransaction(
            pool, cast(Any, SimpleNamespace(clock="SELECT now()")), nothing, nothing, upkeep=True
        ):
            pass

    assert (await cancelled_in(connection, one)).cancelled()
    async with asyncio.timeout(LIMIT_S):
        await pool.close()  # waits for whoever has a place


async def test_a_cancellation_during_a_commit_that_fails_is_not_lost() -> None:
    connection = Held("COMMIT")
    connection.fails["COMMIT"] = Gone()

    async def one() -> None:
        async with step(connection):
            pass

    assert (await cancelled_in(connection, one)).cancelled()


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
async def test_a_cancellation_while_postgres_tables_are_made_is_not_lost(word: str) -> None:
    connection = Held(word)

    async def work(given: Link) -> None:
        if word == "ROLLBACK":
            await failing(given)

    store = PostgresStore("postgresql://db.example/orders", "orders")
    task = await cancelled_in(connection, lambda: store._database.create_once(connection, work))
    assert task.cancelled()


async def test_a_cancellation_while_mariadbs_lock_is_released_is_not_lost() -> None:
    connection = Held("SELECT RELEASE_LOCK")

    async def work(_: Link) -> None: ...

    store = MariaDbStore("mariadb://db.example/orders", "orders")
    task = await cancelled_in(connection, lambda: store._database.create_once(connection, work))
    assert task.cancelled()


# --------------------------------------------------------------------------------------------- whose error it is


async def test_an_error_like_a_lost_connections_that_this_one_did_not_raise_is_the_handlers() -> None:
    connection = Held()
    with pytest.raises(Gone):
        async with step(connection):
            raise Gone("another database")
    assert not connection.broken


async def test_an_error_of_the_steps_own_connection_is_the_stores_also_inside_of_another_one() -> None:
    connection = Held()
    connection.fails["SELECT"] = Gone()
    with pytest.raises(StoreUnavailable, match="is gone"):
        async with step(connection):
            try:
                await connection.fetch("SELECT")
            except StoreUnavailable as error:
                raise ValueError("could not load") from error
    assert connection.broken


async def test_a_statement_that_takes_too_long_is_the_messages_fault_in_a_step_and_nobodys_on_ensues_desk() -> None:
    connection = Held()
    connection.fails["SELECT"] = Slow("statement timeout")
    with pytest.raises(Slow):
        async with step(connection):
            await connection.fetch("SELECT")
    for way in (Pool.run, Pool.read):
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            await way(pool_of(connection), lambda given: given.fetch("SELECT"))
    assert not connection.broken


# -------------------------------------------------------------------------------- stamping while others commit


class Busy:
    """A dialect whose outbox gets new records as fast as they are stamped."""

    def __init__(self, unstamped: int, chunk: int, late: int) -> None:
        self.left, self.chunk, self.late = unstamped, chunk, late
        self.youngest = unstamped
        self.stamped = 0

    async def stamp(self, _: Link, last: int, limit: int) -> list[OutboxRecord]:
        assert self.stamped < 1000, "it goes on and on"
        count = min(self.left, limit)
        self.left += self.late - count
        self.stamped += count
        return [OutboxRecord("orders", 0, "a", b"", b"", last + number, 0) for number in range(1, count + 1)]

    async def fetch(self, text: str, *values: int) -> Rows:
        if text == stamped.YOUNGEST:
            return [(self.youngest if self.left else None,)]
        assert text == stamped.OLDER
        return [(self.stamped < values[0],)]

    def text(self, statement: str) -> str:
        return statement


@pytest.mark.parametrize(
    ("unstamped", "late", "expected"),
    [(0, 10, 0), (3, 3, 3), (10, 10, 10), (25, 10, 30), (25, 3, 30), (10, 0, 10)],
)
async def test_stamping_ends_under_steady_commits_with_all_that_was_there_when_it_began(
    monkeypatch: pytest.MonkeyPatch, unstamped: int, late: int, expected: int
) -> None:
    monkeypatch.setattr(stamped, "_CHUNK", 10)
    busy: Any = Busy(unstamped, 10, late)
    context = OutboxContext.__new__(OutboxContext)
    object.__setattr__(context, "dialect", busy)
    assert await StampedOutbox(context, busy.stamp)._stamp_all(busy, 100) == 100 + expected
    assert busy.stamped == expected >= unstamped


# ----------------------------------------------------------------------------------------------------- listening


class Raw:
    """asyncpg's connection, closed under the feet of who wants to listen or ready to."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def add_termination_listener(self, _: Any) -> None: ...

    async def add_listener(self, *_: Any) -> None:
        if self._error is not None:
            raise self._error


async def test_listening_goes_on_after_any_error_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listen, "RETRY_S", 0.001)
    outcomes: list[Exception | None] = [
        UsageError("password authentication failed"), UsageError("password authentication failed"),
        RuntimeError("connection is closed"), None,
    ]  # fmt: skip

    async def connect() -> Link:
        outcome = outcomes.pop(0)
        if isinstance(outcome, UsageError):
            raise outcome
        connection = Held()
        connection.raw = Raw(outcome)
        return connection

    listening = Listening(connect, cast("Pool", None), Wakeup(), "ensue_test")
    monkeypatch.setattr(listening, "_polling", listening._wakeup)  # the relay_pool is not looked at here
    with caplog.at_level(logging.WARNING, "ensue.store"):
        await listening.wait(0.001)
        async with asyncio.timeout(LIMIT_S):
            await listening._hears.wait()
    await listening.close()
    assert [each.getMessage().partition(")")[0] for each in caplog.records] == [
        "nothing is heard of other processes (UsageError: password authentication failed",
        "nothing is heard of other processes (RuntimeError: connection is closed",
    ]
