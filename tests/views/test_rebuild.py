"""A version is built beside the one that is asked, while events and queries go on and its process is killed at will."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from random import Random

import pytest
from tests.views.ledger import (
    PARTITIONS,
    Child,
    LedgerClosed,
    LedgerOwned,
    LedgerPosted,
    database_of,
    fold,
    make_scribe,
    make_view,
    rows_of,
    swap_when_ready,
    until,
    until_ready,
    until_rows,
    versions_of,
)

from ensue import Event, Service, UsageError, View, ViewNotReady
from ensue.engine.view_versions import Versions
from ensue.message import TICK, Message
from ensue.ports import Broker
from ensue.views import states

#: How often the process that builds is killed.
KILLS = {"sqlite": 20, "postgres": 6, "mariadb": 6, "redis": 6}
ACCOUNTS = [f"account-{number}" for number in range(12)]


class Writer:
    """Live load: what it has committed is `told`."""

    def __init__(self, scribe: Service, chance: Random, pause_s: float) -> None:
        self._pause_s = pause_s
        self.told: list[Event] = []
        self.going = True
        self._scribe = scribe
        self._chance = chance

    async def write(self, count: int) -> None:
        events: list[Event] = []
        for _ in range(count):
            account = self._chance.choice(ACCOUNTS)
            kind = self._chance.random()
            if kind < 0.02:
                events.append(LedgerClosed(account=account))
            elif kind < 0.1:
                # Of another topic, so in any order to the others; one name for each, whatever the order.
                events.append(LedgerOwned(owner=f"owner of {account}", account=account))
            else:
                events.append(LedgerPosted(account=account, amount=self._chance.randrange(100)))
        async with self._scribe.step() as step:
            for event in events:
                step.publish(event)
        self.told += events

    async def go_on(self) -> None:
        while self.going:
            await self.write(self._chance.randrange(1, 6))
            await asyncio.sleep(self._pause_s)


class Asker:
    """Somebody who asks all the time: every answer must be that of a version that is asked, and none may fail."""

    def __init__(self, old: View, new: View, pause_s: float) -> None:
        self._pause_s = pause_s
        self.going = True
        self.answers = self.refusals = 0
        self._old, self._new = old, new

    async def go_on(self) -> None:
        while self.going:
            await rows_of(self._old, ACCOUNTS[:2])
            self.answers += 1
            refused = await _refusal(self._new)
            if refused is not None:
                assert (refused.view, refused.version, refused.active) == ("ledger", 2, 1)
                self.refusals += 1
            await asyncio.sleep(self._pause_s)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KILLS)
async def test_a_build_that_is_killed_at_random_under_live_load_equals_a_fresh_fold(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print("seed:", seed)
    chance = Random(seed)
    if kind == "redis":
        import redis.asyncio as driver

        async with driver.Redis.from_url(request.getfixturevalue("redis_server").url(42)) as client:
            await client.flushdb()
    url, other_url = database_of(request, kind, tmp_path)
    scribe = make_scribe(tmp_path)
    old, new = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2)
    other = make_view(tmp_path, other_url, 1, "other")
    writer, asker = Writer(scribe, chance, 0.03), Asker(old, new, 0.01)
    async with scribe.running() as source, old.running(), other.running(), new.running(work=False) as new_runtime:
        broker = source.context.broker
        await writer.write(300)
        await until_rows(old, fold(writer.told, 1))
        with pytest.raises(ViewNotReady, match="version 2 is not built"):
            await rows_of(new, ACCOUNTS)
        async with versions_of(new) as versions, versions_of(other) as others:
            before = await others.book.row()
            await versions.rebuild(2, "the test", rate=60)
            with pytest.raises(UsageError, match="no worker feeds version 2"):
                await versions.swap(2, "the test", broker)
            tasks = [asyncio.create_task(each.go_on()) for each in (writer, asker)]
            done = 0
            for _ in range(KILLS[kind]):
                child = Child(tmp_path, url, 2)
                # One in three dies before it has done anything, perhaps; the others in the middle of it.
                await until(partial(_beyond, versions, broker, done if chance.random() < 0.7 else -1), "progress")
                await asyncio.sleep(chance.uniform(0, 0.3))
                child.kill()
                done = (await versions.progress(2, broker)).done
            assert "is being built" in (await new_runtime.readiness())[0]

            child = Child(tmp_path, url, 2)
            await versions.book.change(states.resume("the test", 0.0))
            await until_ready(versions, 2, broker)
            assert (await swap_when_ready(versions, 2, broker)).active == 2
            await until(lambda: _asked(new), "the new version's first answer")
            await rows_of(old, ACCOUNTS)  # the one before is fed, and answers as before
            asked_at = asker.answers
            await until(lambda: _is(asker.answers > asked_at + 5), "answers after the swap")
            writer.going = asker.going = False
            await asyncio.gather(*tasks)
            assert asker.refusals > 5

            await until_rows(new, fold(writer.told, 2))
            await until_rows(old, fold(writer.told, 1))
            await until_rows(other, fold(writer.told, 1))
            assert await others.book.row() == before
            assert any(each.closed for each in (await rows_of(new, ACCOUNTS)).values()) or not _closed(writer.told)

            # Nothing was published by anybody but the scribe.
            topics = {each for each in await broker.topics() if not each.startswith("ensue.")}
            assert topics == {"views.ledger", "views.owners"}
            assert sum([len(await _messages(broker, each)) for each in topics]) == len(writer.told)

            # Back, and forth again, while one more event comes.
            assert (await versions.rollback("the test", broker)).active == 1
            await writer.write(20)
            await until_rows(old, fold(writer.told, 1))
            await until_rows(new, fold(writer.told, 2))
            assert (await versions.rollback("the test", broker)).active == 2

            # What is dropped is gone, and stays so for whoever asks; and a second build begins with nothing.
            row = await versions.drop(1, "the test")
            assert (row.active, row.previous) == (2, 0)
            assert not await old.make_store().exists()
            with pytest.raises(ViewNotReady, match="version 1 is not built; version 2 is active"):
                await rows_of(old, ACCOUNTS)
            await writer.write(5)
            await versions.rebuild(1, "the test")
            await until_ready(versions, 1, broker)
            await versions.swap(1, "the test", broker)
            await until(lambda: _asked(old), "the version that was built again")
            await until_rows(old, fold(writer.told, 1))
            await until_rows(new, fold(writer.told, 2))
        child.kill()


async def _beyond(versions: Versions, broker: Broker, done: int) -> bool:
    return (await versions.progress(2, broker)).done > done


def _closed(events: list[Event]) -> bool:
    return any(isinstance(each, LedgerClosed) for each in events)


async def _is(true: bool) -> bool:
    return true


async def _asked(view: View) -> bool:
    return await _refusal(view) is None


async def _refusal(view: View) -> ViewNotReady | None:
    try:
        await rows_of(view, ACCOUNTS[:2])
    except ViewNotReady as error:
        return error
    return None


async def _messages(broker: Broker, topic: str) -> set[str]:
    """The ids of what was published to it."""
    found: set[str] = set()
    for number in range(PARTITIONS):
        reader = broker.reader(topic, number, 0)
        while batch := await reader.read(500, 0.0):
            found |= {each.id for each in batch if isinstance(each, Message) and each.type != TICK}
        await reader.close()
    return found
