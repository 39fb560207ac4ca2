"""A version that begins with another one's rows is what a fold of all events would be, or it is not there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from tests.unit.engine.workbench import Sender
from tests.views.ledger import (
    PARTITIONS,
    QUICK,
    Child,
    LedgerClosed,
    LedgerOwned,
    LedgerPosted,
    database_of,
    make_scribe,
    swap_when_ready,
    until,
    until_ready,
    versions_of,
)
from tests.views.seeds import HELD_AT, OLD_BALANCES, Balance, OldBalance, feed_new, fold, make_new, make_old

from ensue import Event, Retry, Service, UsageError, View
from ensue.engine.runtime import Runtime
from ensue.engine.view_runtime import ViewRuntime
from ensue.message import DeadLetterState
from ensue.views.ready import Kind

STORES = ("sqlite", "postgres", "mariadb")
MANY = [f"account-{number:04}" for number in range(HELD_AT + 100)]
TWO = [LedgerPosted(account="a", amount=1), LedgerOwned(owner="b", account="a")]
FORGETS = dataclasses.replace(QUICK, retention_s=0.5, retention_interval_s=0.05, tick_first_s=100.0, tick_max_s=100.0)
FILLS = dataclasses.replace(QUICK, batch_records_max=500)


async def publish(scribe: Service, events: Sequence[Event]) -> None:
    async with scribe.step() as step:
        for event in events:
            step.publish(event)


async def rows_in(view: View) -> dict[str, Any]:
    """What is in a version's place, whether it is asked or not; nothing where there is no place."""
    store = view.make_store()
    if not await store.exists():
        return {}
    await store.open()
    [repository] = view.repositories.values()
    try:
        async with store.reading() as session:
            table = repository.source  # type: ignore[attr-defined]  # a TableRepository's
            there = await (await session.connection()).run_sync(
                lambda connection: connection.dialect.has_table(connection, table.name)
            )
            rows = (await session.execute(select(table))).all() if there else []
    finally:
        await store.close()
    return {row[0]: repository.cls(*row) for row in rows}  # type: ignore[attr-defined]


async def until_all(view: View, expected: dict[str, Any]) -> None:
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.clear()
        found.update(await rows_in(view))
        return found == expected

    try:
        await until(there, f"the rows of {view.name}")
    except BaseException:
        print(
            "wrong:", [(expected.get(each), found.get(each)) for each in expected if expected[each] != found.get(each)]
        )
        raise


def chance_events(chance: Random, accounts: Sequence[str], count: int) -> list[Event]:
    found: list[Event] = []
    for _ in range(count):
        account, kind = chance.choice(accounts), chance.random()
        if kind < 0.03:
            found.append(LedgerClosed(account=account))
        elif kind < 0.1:
            found.append(LedgerOwned(owner=f"owner of {account}", account=account))
        else:
            found.append(LedgerPosted(account=account, amount=chance.randrange(100)))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", STORES)
async def test_under_live_events_and_killed_in_the_middle_it_equals_a_fold_of_all_events(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, other_url = database_of(request, kind, tmp_path)
    chance = Random(11)
    scribe, old, new = make_scribe(tmp_path, FILLS), make_old(tmp_path, url), make_new(tmp_path, url)
    fresh = make_new(tmp_path, other_url, seeded=False, version=1, name="fresh")
    told: list[Event] = [LedgerPosted(account=each, amount=number) for number, each in enumerate(MANY)]
    going = True

    async def write() -> None:
        while going:
            events = chance_events(chance, MANY, chance.randrange(1, 6))
            await publish(scribe, events)
            told.extend(events)
            await asyncio.sleep(0.03)

    async with scribe.running() as source, old.running(), versions_of(new) as versions:
        broker = source.context.broker
        await publish(scribe, told)
        await until_all(old, olds(told))
        writing = asyncio.create_task(write())
        await versions.rebuild(2, "the test")
        (tmp_path / "hold").touch()
        for _ in range(2):
            child = Child(tmp_path, url, 2, feed_new)
            await until(lambda: asyncio.to_thread((tmp_path / "held").exists), "a half of the rows")
            assert await versions.seeded_from(2) == 0
            child.kill()
            (tmp_path / "held").unlink()
            # Nothing of it is there, and nothing is fed.
            assert await rows_in(new) == {}
            assert {each.text for each in await versions.obstacles(2, broker)} == {"nothing of it is read yet"}
            assert await versions.workers(2) == []
        (tmp_path / "hold").unlink()
        # Two at once: one of them makes it, both feed it.
        children = [Child(tmp_path, url, 2, feed_new) for _ in range(2)]
        await until_ready(versions, 2, broker)
        assert await versions.seeded_from(2) == 1
        read = sum(each.counters.applied for each in (await versions.standing(2)).checkpoints.values())
        assert read >= len(MANY)
        assert (await swap_when_ready(versions, 2, broker)).active == 2
        going = False
        await writing
        children.pop().kill()
        await publish(scribe, more := chance_events(chance, MANY, 50))
        told += more
        await until_all(new, fold(told))
        # And so is the same code's fold from the log's beginning.
        async with fresh.running():
            await until_all(fresh, fold(told))
        for child in children:
            child.kill()


@pytest.mark.parametrize("kind", STORES)
async def test_rows_and_positions_are_of_one_moment_whatever_comes_meanwhile(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, _ = database_of(request, kind, tmp_path)
    scribe, old, new = make_scribe(tmp_path), make_old(tmp_path, url), make_new(tmp_path, url, seeded=False)
    told: list[Event] = [*TWO, LedgerPosted(account="c", amount=3)]
    seeds = 0

    @new.seed(from_version=1)
    async def carry_over(before: AsyncSession) -> AsyncIterator[Balance]:
        nonlocal seeds
        seeds += 1
        expected = fold(told)
        more = [LedgerPosted(account=each, amount=10) for each in ("a", "b", "c", "d")]
        told.extend(more)
        await publish(scribe, more)
        await until_all(old, olds(told))  # version 1 has gone on
        for account, total, trace, owner in (await before.execute(select(OLD_BALANCES))).all():
            found = Balance(account, 100 * total, trace, f"owned by {owner}" if owner else "")
            assert found == expected.pop(account)
            yield found
        assert not expected

    async with scribe.running() as source, old.running(), versions_of(new) as versions:
        await publish(scribe, told)
        await until_all(old, olds(told))
        await versions.rebuild(2, "me")
        async with new.running():
            await until_ready(versions, 2, source.context.broker)
            await until_all(new, fold(told))
    assert seeds == 1


def olds(events: Iterable[Event]) -> dict[str, OldBalance]:
    """What the rows of version 1 have to be."""
    return {
        each: OldBalance(each, found.pence // 100, found.trace, found.holder.removeprefix("owned by "))
        for each, found in fold(events).items()
    }


async def has_forgotten(runtime: Runtime, count: int) -> bool:
    """Whether all that the scribe has sent is gone from the log, and but for the last one from its outbox."""
    bounds = [await runtime.broker.bounds("views.ledger", number) for number in range(PARTITIONS)]
    left = await runtime.store.outbox_after(0, 1)
    sent = await runtime.context.books.relay_position() >= count
    return sent and left[0].position == count and all(each.last < each.first for each in bounds)


@asynccontextmanager
async def forgotten(home: Path, url: str, events: Sequence[Event], **options: Any) -> AsyncIterator[View]:
    """Version 1 has all events, and neither the log nor the scribe has them any more; the last one stays."""
    old = make_old(home, url, **options)
    async with old.running():
        scribe = make_scribe(home)
        async with scribe.running():
            await publish(scribe, events)
            await until_all(old, olds(events))
        async with make_scribe(home, FORGETS).running() as runtime:
            await until(partial(has_forgotten, runtime, len(events)), "that all is forgotten")
        yield old


@pytest.mark.parametrize("kind", STORES)
async def test_what_log_and_outbox_have_forgotten_is_in_the_rows(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, _ = database_of(request, kind, tmp_path)
    events = [LedgerPosted(account="a", amount=each) for each in (1, 2, 3)]
    new, scribe = make_new(tmp_path, url), make_scribe(tmp_path)
    async with (
        forgotten(tmp_path, url, events),
        new.running(),
        versions_of(new) as versions,
        scribe.running() as source,
    ):
        await versions.rebuild(2, "me")
        await publish(scribe, more := [LedgerPosted(account="a", amount=4), LedgerPosted(account="b", amount=5)])
        await until_ready(versions, 2, source.context.broker)
        row = await versions.swap(2, "me", source.context.broker)
        assert row.accepted == ()  # nothing is missing
        await until_all(new, fold([*events, *more]))


async def test_what_is_missing_in_the_version_before_stays_missing_and_what_was_accepted_is_shown(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    lost = [LedgerPosted(account="a", amount=each) for each in (1, 2, 3)]
    scribe = make_scribe(tmp_path, FORGETS)
    async with scribe.running() as runtime:
        await publish(scribe, lost)

        await until(partial(has_forgotten, runtime, len(lost)), "that all is forgotten")
    old, new, scribe = make_old(tmp_path, url), make_new(tmp_path, url), make_scribe(tmp_path)
    async with scribe.running() as source, old.running(), new.running(), versions_of(old) as versions:
        broker = source.context.broker
        await publish(scribe, more := [LedgerPosted(account="a", amount=4), LedgerPosted(account="b", amount=5)])

        async def incomplete(number: int) -> bool:
            found = await versions.obstacles(number, broker)
            return bool(found) and all(each.kind is Kind.INCOMPLETE and each.final for each in found)

        await until(lambda: incomplete(1), "what version 1 lacks")
        async with versions_of(new) as of_new:
            await of_new.rebuild(2, "me")
            await until(lambda: incomplete(2), "what version 2 lacks")
            assert await of_new.seeded_from(2) == 1
            assert await of_new.obstacles(2, broker) == await versions.obstacles(1, broker)
            with pytest.raises(UsageError, match="positions 1 to 2 of scribe/"):
                await of_new.swap(2, "me", broker)
            await of_new.drop(2, "me")
            # Accepted: the rows begin without it, and say so, whoever they are made of.
            [accepted] = await versions.accept_missing(1, "the boss", broker, await versions.missing(1, broker))
            await until_all(old, olds([lost[-1], *more]))
            await of_new.rebuild(2, "me")
            await until_ready(of_new, 2, broker)
            row = await of_new.swap(2, "me", broker)
            assert [(each.version, each.by, each.after, each.through) for each in row.accepted] == [
                (1, "the boss", 0, accepted.through),
                (2, "the boss", 0, accepted.through),
            ]
            await until_all(new, fold([lost[-1], *more]))


@pytest.mark.parametrize("kind", STORES)
async def test_what_the_version_before_has_set_aside_is_set_aside_here_and_takes_effect_by_this_code(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, _ = database_of(request, kind, tmp_path)
    amounts = [1, 13, 2, 3]
    events = [LedgerPosted(account="a", amount=each) for each in amounts]
    scribe, old, new = make_scribe(tmp_path), make_old(tmp_path, url, refuses=13), make_new(tmp_path, url)
    old.retry = Retry(attempts_max=1)
    async with scribe.running() as source, old.running() as before, versions_of(new) as versions:
        broker = source.context.broker
        await publish(scribe, events)

        async def letters() -> bool:
            return len(await before.context.books.letters()) == 3  # the one, and what waits behind it

        await until(letters, "the letters")
        async with new.running():
            await versions.rebuild(2, "me")

            async def held() -> bool:
                found = await versions.obstacles(2, broker)
                return bool(found) and {each.kind for each in found} == {Kind.LETTER}

            await until(held, "the letters of version 2")
            with pytest.raises(UsageError, match="is set aside: retry or discard it"):
                await versions.swap(2, "me", broker)
            await until_all(new, fold(events[:1]))
            async with versions.opened(2) as books:  # the running one's may not be open yet
                assert books is not None
                dead = next(each for each in await books.letters() if each.error_type)
                await books.decide(dead.id, DeadLetterState.RELEASED)
            await until_ready(versions, 2, broker)
            await until_all(new, fold(events))
        assert len(await before.context.books.letters()) == 3  # which are version 1's


async def test_what_has_no_chain_takes_effect_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, new, scribe = make_old(tmp_path, url), make_new(tmp_path, url), make_scribe(tmp_path)
    async with scribe.running() as source, old.running(), new.running(), versions_of(new) as versions:
        broker = source.context.broker
        await publish(scribe, [LedgerPosted(account="b", amount=1)])
        stranger = Sender(broker, "//elsewhere", PARTITIONS)
        event = LedgerPosted(account="a", amount=7)

        async def sent() -> None:
            record = stranger.foreign(event, "the-first")
            await broker.append(record.topic, record.partition, stranger.source, [record])

        await sent()
        await until_all(old, olds([event, LedgerPosted(account="b", amount=1)]))
        await versions.rebuild(2, "me")
        await until_ready(versions, 2, broker)
        await sent()
        await publish(scribe, [after := LedgerPosted(account="a", amount=1)])
        await until_all(new, fold([event, after, LedgerPosted(account="b", amount=1)]))


# ------------------------------------------------------------------------------------------------------ what is refused


async def empty(old: AsyncSession) -> AsyncIterator[Balance]:
    for each in list[Balance]():
        yield each


def declared(home: Path, **options: Any) -> View:
    """A version 2 without handlers that is seeded with nothing."""
    url = f"sqlite:///{home}/ledger.db?synchronous=OFF"
    settings = {"partitions": PARTITIONS, "version": 2, "database": url, **options}
    return View("ledger", broker=f"sqlite:///{home}/broker.db", engine=QUICK, **settings)


class LedgerAudited(Event, topic="views.ledger", key="account"):
    account: str


class LedgerShelved(Event, topic="views.shelved", key="account"):
    account: str


async def test_what_cannot_be_exact_is_refused_before_it_begins(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, scribe = make_old(tmp_path, url), make_scribe(tmp_path)

    def of(event: Any, from_version: int = 1, **options: Any) -> View:
        view = declared(tmp_path, **options)

        async def handle(event: Any) -> None: ...

        handle.__annotations__["event"] = event
        view.on(handle)
        view.seed(from_version=from_version)(empty)
        return view

    cases = {
        "which is not fed; there is 1": of(LedgerPosted, 3),
        "which has read nothing of topic views.shelved": of(LedgerShelved),
        "does not handle views.ledger.LedgerAudited.v1": of(LedgerAudited),
        "topics have 1 partitions here": of(LedgerPosted, partitions=1),
    }
    async with scribe.running(), old.running():
        await publish(scribe, TWO)
        await until_all(old, olds(TWO))
        for said, view in cases.items():
            async with versions_of(view) as versions:
                with pytest.raises(UsageError, match=said):
                    await versions.rebuild(2, "me")
                assert (await versions.book.row()).building == 0
        assert not await cases["which is not fed; there is 1"].make_store().exists()


def test_a_declaration_that_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    view = declared(tmp_path)
    with pytest.raises(UsageError, match="that is this version itself"):
        view.seed(from_version=2)
    with pytest.raises(UsageError, match="expected the number of another version"):
        view.seed(from_version=0)
    with pytest.raises(UsageError, match="yields nothing"):
        view.seed(from_version=1)(lambda old: [])  # type: ignore[type-var]
    with pytest.raises(UsageError, match=r"is called with one session, two\(old\)"):

        @view.seed(from_version=1)
        async def two(old: AsyncSession, new: AsyncSession) -> AsyncIterator[Balance]:
            yield Balance("a")

    view.seed(from_version=1)(empty)
    with pytest.raises(UsageError, match="two functions that seed it, empty and empty"):
        view.seed(from_version=1)(empty)


@pytest.mark.parametrize("scheme", ["redis", "mongodb"])
async def test_where_there_is_no_one_state_to_read_it_is_refused(scheme: str, tmp_path: Path) -> None:
    view = declared(tmp_path, database=f"{scheme}://127.0.0.1:1/1")
    view.seed(from_version=1)(empty)
    with pytest.raises(UsageError, match="SQLite, PostgreSQL and MariaDB have"):
        async with view.running():
            pass


async def test_a_function_that_fails_leaves_nothing_and_says_why_until_it_does_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, scribe, new = make_old(tmp_path, url), make_scribe(tmp_path), make_new(tmp_path, url, seeded=False)
    what: list[Callable[[], list[Any]]] = [lambda: [Balance("a"), Balance("a")]]

    @new.seed(from_version=1)
    async def rows(old: AsyncSession) -> AsyncIterator[Any]:
        for each in what[0]():
            yield each

    def fails() -> list[Any]:
        raise ZeroDivisionError("by nothing")

    async with scribe.running() as source, old.running(), versions_of(new) as versions:
        await publish(scribe, TWO)
        await until_all(old, olds(TWO))
        await versions.rebuild(2, "me")
        cases: list[tuple[Callable[[], list[Any]], str]] = [
            (what[0], "rows gave two Balance with account 'a'"),
            (fails, "rows or what it gave failed: ZeroDivisionError: by nothing\n  File"),
            (lambda: [object()], "rows gave a object, expected rows of the view"),
            (lambda: [Balance("a", pence=None)], "rows or what it gave failed: IntegrityError"),  # type: ignore[arg-type]
        ]
        for make, said in cases:
            what[0] = make
            async with new.running() as runtime:
                assert isinstance(runtime, ViewRuntime)

                async def failed(runtime: ViewRuntime = runtime) -> bool:
                    return runtime.not_seeded is not None

                await until(failed, "the failure")
                assert said in str(runtime.not_seeded)
                [reason] = await runtime.readiness()
                assert said in reason
                assert getattr(reason, "brief", "") == "version 2 could not be seeded: UsageError"  # for everybody
            assert await rows_in(new) == {}
            assert await versions.seeded_from(2) == 0
        what[0] = lambda: list(fold(TWO).values())
        async with new.running():
            await until_ready(versions, 2, source.context.broker)
            assert await rows_in(new) == fold(TWO)


async def test_a_version_that_was_begun_from_the_log_is_not_seeded_on_top(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, scribe, new = make_old(tmp_path, url), make_scribe(tmp_path), make_new(tmp_path, url)
    async with scribe.running() as source, old.running(), versions_of(new) as versions:
        await publish(scribe, TWO)
        await until_all(old, olds(TWO))
        await versions.rebuild(2, "me")
        async with make_new(tmp_path, url, seeded=False).running():
            await until_ready(versions, 2, source.context.broker)
        async with new.running() as runtime:
            assert isinstance(runtime, ViewRuntime)

            async def failed() -> bool:
                return "was begun from the log" in str(runtime.not_seeded)

            await until(failed, "the refusal")
        await versions.drop(2, "me")
        await versions.rebuild(2, "me")
        async with new.running():
            await until_ready(versions, 2, source.context.broker)
        assert await versions.seeded_from(2) == 1
