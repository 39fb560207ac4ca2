"""The user's SQLAlchemy session lives inside the step's transaction and never ends it."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ensue.conformance.store_suite import ACCOUNTS, Account, StoreSuite, Undo, record
from ensue.errors import UsageError
from ensue.ports import Store


class Sessions(StoreSuite):
    async def test_without_sessions_the_error_says_so(self, store: Store) -> None:
        if self.capabilities.sessions:
            pytest.skip("this store has sessions")
        async with store.transaction() as transaction:
            with pytest.raises(UsageError):
                transaction.session  # noqa: B018
            with pytest.raises(UsageError):
                transaction.sync_session()
            await transaction.flush()
        with pytest.raises(UsageError):
            store.reading()

    async def test_a_session_sees_its_own_changes_and_commits_with_the_step(self, store: Store) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            session = transaction.session
            assert transaction.session is session, "another session at the second call"
            session.add(Account(id="a", balance=1))
            assert await session.scalar(select(Account.balance).where(Account.id == "a")) == 1
            account = await session.get_one(Account, "a")
            account.balance = 2  # not flushed by the test: the step does it before it commits
        assert account.balance == 2, "objects must stay readable after the step"
        assert await self.balance(store) == 2

    async def test_a_session_rolls_back_with_the_step(self, store: Store) -> None:
        self.needs("sessions")
        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                transaction.session.add(Account(id="a", balance=1))
                await transaction.flush()
                await transaction.outbox_add([record()])
                raise Undo
        assert await self.balance(store) is None
        assert await self.everything(store) == []

    async def test_a_session_and_rows_are_in_one_transaction(self, store: Store) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            account = await transaction.session.get_one(Account, "a")
            account.balance = 5
            await transaction.flush()
            assert [tuple(row) for row in await transaction.load_rows(ACCOUNTS, ["a"])] == [("a", 5)]

    @pytest.mark.parametrize("what", ["commit", "rollback", "close", "begin"])
    async def test_a_handler_cannot_end_the_transaction(self, store: Store, what: str) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            session = transaction.session
            session.add(Account(id="a", balance=1))
            end: dict[str, Callable[[], Awaitable[object]]] = {
                "commit": session.commit,
                "rollback": session.rollback,
                "close": session.close,
                "begin": lambda: session.begin().start(),
            }
            with pytest.raises(UsageError):
                await end[what]()
        assert await self.balance(store) == 1, f"after {what}() was refused, the step goes on"

    async def test_an_error_at_the_last_flush_commits_nothing(self, store: Store) -> None:
        self.needs("sessions")
        await self.put(store, ACCOUNTS, [("a", 1)])
        with pytest.raises(IntegrityError):
            async with store.transaction() as transaction:
                await transaction.outbox_add([record()])
                transaction.session.add(Account(id="a", balance=2))
        assert await self.everything(store) == []
        assert await self.balance(store) == 1

    async def test_a_failed_flush_that_was_caught_does_not_commit_half(self, store: Store) -> None:
        self.needs("sessions")
        await self.put(store, ACCOUNTS, [("b", 1)])
        with pytest.raises((UsageError, InvalidRequestError)):
            async with store.transaction() as transaction:
                transaction.session.add_all([Account(id="a", balance=1), Account(id="b", balance=2)])
                with pytest.raises(IntegrityError):
                    await transaction.flush()
        assert await self.balance(store, "a") is None

    async def test_a_savepoint_undoes_its_own_part_only(self, store: Store) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            session = transaction.session
            session.add(Account(id="a", balance=1))
            await session.flush()
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    await session.execute(text("INSERT INTO conformance_account VALUES ('c', 3)"))
                    await session.execute(text("INSERT INTO conformance_account VALUES ('a', 2)"))
            async with session.begin_nested():
                session.add(Account(id="b", balance=2))
            await session.begin_nested()  # left open: it belongs to the step all the same
            session.add(Account(id="d", balance=4))
        assert [await self.balance(store, each) for each in "abcd"] == [1, 2, None, 4]

    async def test_what_is_published_in_a_savepoint_goes_with_it(self, store: Store) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            published = [record(key="a")]
            transaction.follow(published)
            async with transaction.session.begin_nested():
                published.append(record(key="b"))
            with pytest.raises(Undo):
                async with transaction.session.begin_nested():
                    published.append(record(key="c"))
                    raise Undo
            assert [each.key for each in published] == ["a", "b"]

    @pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
    async def test_a_statement_that_ends_the_transaction_leaves_nothing_half_done(
        self, store: Store, statement: str
    ) -> None:
        self.needs("sessions")
        with pytest.raises(UsageError):
            async with store.transaction() as transaction:
                transaction.session.add(Account(id="a", balance=1))
                await transaction.flush()
                with contextlib.suppress(UsageError):  # refused at once; a handler may catch that
                    await transaction.session.execute(text(statement))
                await transaction.flush()
        assert await self.balance(store) is None
        assert await self.everything(store) == []

    async def test_a_session_is_of_no_use_when_its_step_has_ended(self, store: Store) -> None:
        self.needs("sessions")
        async with store.transaction() as transaction:
            session = transaction.session
            await session.scalar(select(1))
            connection = await session.connection()
        insert = text("INSERT INTO conformance_account VALUES ('a', 1)")
        with pytest.raises((UsageError, InvalidRequestError)):
            await session.execute(insert)
        with pytest.raises((UsageError, InvalidRequestError)):
            await connection.execute(insert)
        with pytest.raises(UsageError):
            transaction.session  # noqa: B018
        async with store.transaction():  # nor in somebody else's transaction
            with pytest.raises((UsageError, InvalidRequestError)):
                await session.execute(insert)
            with pytest.raises((UsageError, InvalidRequestError)):
                await connection.execute(insert)
        assert await self.balance(store) is None

    async def test_a_plain_session_in_a_thread_is_in_the_same_transaction(self, store: Store) -> None:
        self.needs("sessions")

        def handler(session: Session) -> None:
            session.add(Account(id="a", balance=1))
            assert session.scalar(select(Account.balance).where(Account.id == "a")) == 1
            with pytest.raises(UsageError):
                session.commit()
            with session.begin_nested():
                session.add(Account(id="b", balance=2))

        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                await asyncio.to_thread(handler, transaction.sync_session())
                raise Undo
        assert await self.balance(store) is None
        async with store.transaction() as transaction:
            session = transaction.sync_session()
            assert transaction.sync_session() is session
            await asyncio.to_thread(handler, session)
        assert [await self.balance(store, each) for each in "ab"] == [1, 2]

    async def test_a_thread_that_outlives_its_cancelled_step_writes_nothing(self, store: Store) -> None:
        self.needs("sessions")
        loop = asyncio.get_running_loop()
        inside, go_on = asyncio.Event(), asyncio.Event()
        outcome: asyncio.Future[BaseException | None] = loop.create_future()
        insert = text("INSERT INTO conformance_account VALUES ('a', 1)")

        def handler(session: Session) -> None:
            session.execute(select(1))
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(self.patience_s)
            try:
                session.execute(insert)
            except BaseException as error:
                loop.call_soon_threadsafe(outcome.set_result, error)
            else:
                loop.call_soon_threadsafe(outcome.set_result, None)

        async def step() -> None:
            async with store.transaction() as transaction:
                await asyncio.to_thread(handler, transaction.sync_session())

        task = asyncio.create_task(step())
        async with asyncio.timeout(self.patience_s):
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with store.transaction() as transaction:  # the thread now meets somebody else's transaction
                await transaction.load_rows(ACCOUNTS, ["a"])
                go_on.set()
                error = await outcome
        assert isinstance(error, UsageError | InvalidRequestError), "the thread wrote outside of its step"
        assert await self.balance(store) is None

    # --- reading

    async def test_reading_sees_what_is_committed_and_nothing_else(self, store: Store) -> None:
        self.needs("sessions")

        async def balances(session: AsyncSession) -> list[int]:
            return list(await session.scalars(select(Account.balance)))

        async with store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            async with asyncio.timeout(self.patience_s), store.reading() as session:
                assert await balances(session) == [], "an uncommitted change is seen"
        async with store.reading() as session:
            assert await balances(session) == [1]

    async def test_what_a_reader_changes_is_not_kept(self, store: Store) -> None:
        self.needs("sessions")
        try:
            async with store.reading() as session:
                session.add(Account(id="a", balance=1))
                await session.flush()
        except UsageError:
            pass  # a store may refuse at once
        with pytest.raises(UsageError):
            async with store.reading() as session:
                await session.commit()
        assert await self.balance(store) is None
        async with store.transaction() as transaction:  # and nothing of it stays behind
            await transaction.insert_rows(ACCOUNTS, [("a", 2)])
        async with store.reading() as session:
            assert await session.scalar(select(Account.balance)) == 2

    async def test_many_readers_wait_for_nobody_but_each_other(self, store: Store) -> None:
        self.needs("sessions")

        async def read() -> None:
            async with store.reading() as session:
                await session.scalar(select(1))
                await asyncio.sleep(0)
                await session.scalar(select(1))

        async with asyncio.timeout(self.patience_s), store.transaction() as transaction:
            await transaction.insert_rows(ACCOUNTS, [("a", 1)])
            await asyncio.gather(*(read() for _ in range(50)))
