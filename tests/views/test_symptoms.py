"""What users of other libraries met with their views, each under the name of the symptom: it does not happen here.

Late commits and numbers that were rolled back are a matter of databases with several writers: there the sender's
database is PostgreSQL, read by both of its ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from servers import PostgresServer
from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.unit.engine.workbench import Sender
from tests.views.ledger import (
    ACCOUNTS,
    PARTITIONS,
    QUICK,
    TABLES,
    Account,
    LedgerClosed,
    LedgerOwned,
    LedgerPosted,
    broker_url,
    fold,
    make_scribe,
    make_view,
    rows_of,
    until,
    until_ready,
    until_rows,
    versions_of,
)

from ensue import Event, Service, TableRepository, View
from ensue.chain import partition_of
from ensue.codec import encode_envelope
from ensue.engine.runtime import Runtime
from ensue.event import event_type
from ensue.message import CONTROL_TOPIC, Envelope, OutboxRecord


@pytest.fixture(params=["poll", "wal"])
def scribe(request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Service]:
    """On PostgreSQL, whose outbox is read by polling, or in the database's own log."""
    name = f"symptoms_{uuid4().hex[:8]}"
    yield Service(
        "scribe",
        publishes=[LedgerPosted, LedgerClosed, LedgerOwned],
        database=f"{postgres_server.url(name)}?outbox={request.param}",
        broker=broker_url(tmp_path),
        partitions=PARTITIONS,
        engine=QUICK,
    )
    postgres_server.drop(name)


def views(home: Path, name: str = "ledger") -> tuple[View, View]:
    url = f"sqlite:///{home}/{name}.db?synchronous=OFF"
    return make_view(home, url, 1, name), make_view(home, url, 2, name)


async def publish(scribe: Service, *events: Event) -> list[Event]:
    async with scribe.step() as step:
        for each in events:
            step.publish(each)
    return list(events)


@asynccontextmanager
async def open_append(source: Runtime, event: Event) -> AsyncIterator[None]:
    """Its record has its number in the outbox, and nobody sees it before the block ends."""
    spec = event_type(type(event))
    key = spec.key_of(event)
    envelope = encode_envelope(Envelope(uuid4().hex, spec.type))
    async with source.store.transaction() as transaction:
        partition = partition_of(key, PARTITIONS)
        await transaction.outbox_add([OutboxRecord(spec.topic, partition, key, envelope, spec.write(event))])
        yield


#: Two accounts of one partition: what comes late is behind the other there, and has no order to it by its key.
LATE, EARLY = [each for each in map(str, range(100)) if partition_of(each, PARTITIONS) == 0][:2]


# ------------------------------------------------------------------------------------------ late, and never committed


async def test_a_late_commit_is_skipped_by_a_view(scribe: Service, tmp_path: Path) -> None:
    view, _ = views(tmp_path)
    late, early = LedgerPosted(account=LATE, amount=1), LedgerPosted(account=EARLY, amount=2)
    async with scribe.running() as source, view.running():
        async with open_append(source, late):
            await publish(scribe, early)
            await until_rows(view, fold([early], 1))
            assert await rows_of(view, [LATE]) == {}
        await until_rows(view, fold([late, early], 1))


async def test_a_rolled_back_number_stalls_a_view(scribe: Service, tmp_path: Path) -> None:
    """Also while a session is idle in its transaction that began before, and might have the missing numbers."""
    view, other = views(tmp_path)
    told: list[Event] = []
    async with scribe.running() as source, view.running(), other.running() as runtime, versions_of(other) as versions:
        told += await publish(scribe, LedgerPosted(account=EARLY, amount=1))
        async with source.store.transaction() as idle:
            await idle.session.execute(text("SELECT pg_current_xact_id()"))
            for _ in range(3):
                with pytest.raises(ZeroDivisionError):
                    async with open_append(source, LedgerPosted(account=LATE, amount=100)):
                        raise ZeroDivisionError
                told += await publish(scribe, LedgerPosted(account=EARLY, amount=2))
                await until_rows(view, fold(told, 1))
            await versions.rebuild(2, "me")
            await until_ready(versions, 2, runtime.context.broker)
        assert await rows_of(view, [LATE]) == {}


async def test_a_rebuild_is_declared_done_while_an_append_is_open(scribe: Service, tmp_path: Path) -> None:
    """It may be: what was not committed comes after the swap, to both versions."""
    old, new = views(tmp_path)
    late, early = LedgerPosted(account=LATE, amount=1), LedgerPosted(account=EARLY, amount=2)
    async with scribe.running() as source, old.running(), new.running() as runtime, versions_of(new) as versions:
        async with open_append(source, late):
            await publish(scribe, early)
            await until_rows(old, fold([early], 1))
            await versions.rebuild(2, "me")
            await until_ready(versions, 2, runtime.context.broker)
            assert (await versions.swap(2, "me", runtime.context.broker)).active == 2
        await until(lambda: _answers(runtime), "the new version's first answer")
        await until_rows(new, fold([late, early], 2))
        await until_rows(old, fold([late, early], 1))


# ----------------------------------------------------------------------------------------------------- a rebuild that


def make_deleting(home: Path, version: int) -> View:
    """A view that deletes rows, in which no tombstone is left."""
    view = View(
        "deleting",
        version=version,
        tables=TABLES,
        repositories=[TableRepository(Account, ACCOUNTS)],
        database=f"sqlite:///{home}/deleting.db?synchronous=OFF",
        broker=broker_url(home),
        partitions=PARTITIONS,
        engine=QUICK,
    )

    @view.on
    def follow(account: Account | None, event: LedgerPosted) -> Account:
        account = account or Account(event.account)
        account.total += event.amount
        return account

    @view.on
    async def close(event: LedgerClosed, session: AsyncSession) -> None:
        await session.execute(delete(ACCOUNTS).where(ACCOUNTS.c.account == event.account))

    return view


async def test_what_was_deleted_is_there_again_after_a_rebuild(tmp_path: Path) -> None:
    scribe, old, new = make_scribe(tmp_path), make_deleting(tmp_path, 1), make_deleting(tmp_path, 2)
    expected = {"b": Account("b", total=7), "c": Account("c", total=5)}

    async def as_expected(view: View) -> bool:
        return await rows_of(view, ["a", "b", "c"]) == expected

    async with scribe.running(), old.running(), new.running() as runtime, versions_of(new) as versions:
        await publish(
            scribe,
            LedgerPosted(account="a", amount=1),
            LedgerPosted(account="b", amount=7),
            LedgerPosted(account="c", amount=3),
            LedgerClosed(account="a"),
            LedgerClosed(account="c"),
            LedgerPosted(account="c", amount=5),  # a new one of that name
        )
        await until(lambda: as_expected(old), "the rows of version 1")
        await versions.rebuild(2, "me")
        await until_ready(versions, 2, runtime.context.broker)
        await versions.swap(2, "me", runtime.context.broker)
        await until(lambda: _answers(runtime), "the new version's first answer")
        assert await as_expected(new)


async def test_the_second_rebuild_does_nothing(tmp_path: Path) -> None:
    """Each begins with nothing and ends with everything, however often, in processes that have done it before."""
    scribe, both = make_scribe(tmp_path), views(tmp_path)
    told: list[Event] = []
    async with (
        scribe.running(),
        both[0].running() as first,
        both[1].running() as second,
        versions_of(both[0]) as versions,
    ):
        runtimes, active = (first, second), 1
        for turn in range(4):
            told += await publish(scribe, *[LedgerPosted(account=str(each), amount=turn) for each in range(5)])
            await until_rows(both[active - 1], fold(told, active))
            building = 3 - active
            await versions.rebuild(building, "me")
            await until_ready(versions, building, first.context.broker)
            await versions.swap(building, "me", first.context.broker)
            await until(lambda at=building: _answers(runtimes[at - 1]), "its first answer")  # type: ignore[misc]
            assert await rows_of(both[building - 1], map(str, range(5))) == fold(told, building)
            await versions.drop(active, "me")
            active = building


async def test_a_rebuild_loses_live_events_or_touches_another_view(tmp_path: Path) -> None:
    """Two views of the same events are built anew, one after the other, while events come."""
    scribe, pairs = make_scribe(tmp_path), [views(tmp_path, "ledger"), views(tmp_path, "other")]
    told: list[Event] = []
    going = True

    async def go_on() -> None:
        number = 0
        while going:
            number += 1
            told.extend(await publish(scribe, LedgerPosted(account=str(number % 7), amount=number)))
            await asyncio.sleep(0.01)

    ((ledger, ledger_2), (other, other_2)) = pairs
    async with scribe.running(), ledger.running(), other.running(), ledger_2.running() as one, other_2.running() as two:
        writing = asyncio.create_task(go_on())
        async with versions_of(ledger) as ledgers, versions_of(other) as others:
            for mine, runtime, theirs in ((ledgers, one, others), (others, two, ledgers)):
                untouched = await theirs.book.row()
                await mine.rebuild(2, "me")
                await until_ready(mine, 2, runtime.context.broker)
                await mine.swap(2, "me", runtime.context.broker)
                await until(lambda at=runtime: _answers(at), "its first answer")  # type: ignore[misc]
                assert await theirs.book.row() == untouched
            going = False
            await writing
            assert len(told) > 5
            for old, new in pairs:
                await until_rows(new, fold(told, 2))
                await until_rows(old, fold(told, 1))


# ---------------------------------------------------------------------------------------------------- strange records


async def test_a_foreign_record_in_an_internal_topic_stops_it_for_ever(tmp_path: Path) -> None:
    """Neither what is no message at all, nor one of somebody else's, in Ensue's control topic and in the view's own."""
    scribe, (view, _) = make_scribe(tmp_path), views(tmp_path)
    told: list[Event] = []
    async with scribe.running() as source:
        told += await publish(scribe, *[LedgerPosted(account=EARLY, amount=each) for each in range(5)])
        broker, stranger = source.broker, Sender(source.broker, "stranger/1", PARTITIONS)

        async def sent() -> bool:
            return await source.context.books.relay_position() >= len(told)

        await until(sent, "what is sent")
        # What the view lacks it has to ask for, by the topic in which there are strange records: before it comes ...
        for number in range(PARTITIONS):
            await broker.prune("views.ledger", number, 1e12, 100)
        await stranger.append(*_strange(CONTROL_TOPIC), *_strange("views.ledger"))
        told += await publish(scribe, LedgerPosted(account=EARLY, amount=10))
        async with view.running():
            await until_rows(view, fold(told, 1))
            # ... and while it is there.
            await stranger.append(*_strange(CONTROL_TOPIC), *_strange("views.ledger"))
            told += await publish(scribe, LedgerPosted(account=EARLY, amount=20))
            await until_rows(view, fold(told, 1))


def _strange(topic: str) -> list[OutboxRecord]:
    of_another_type = encode_envelope(Envelope(uuid4().hex, "com.example.Strange"))
    no_request = encode_envelope(Envelope(uuid4().hex, "ensue.resend"))
    return [
        OutboxRecord(topic, 0, EARLY, b"\xff\xfe no envelope", b"\x00"),
        OutboxRecord(topic, 0, EARLY, of_another_type, b"{}"),
        OutboxRecord(topic, 0, EARLY, no_request, b'{"source": 7}'),
    ]


async def _answers(runtime: Runtime) -> bool:
    return not await runtime.readiness()
