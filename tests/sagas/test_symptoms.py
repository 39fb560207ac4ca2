"""What users of other libraries met, each under the name of its symptom; its docstring says where they met it.

The whole list, with what has been tested elsewhere, is in docs/contributing/guarantees.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sagas.shop import Customer, Place, Shop
from tests.sagas.stage import Death, Stage, on_stage
from tests.unit.engine.workbench import settled, until

from ensue.engine.timers import first_due
from ensue.message import REPLY, TICK
from ensue.reply import Reply, write_reply
from ensue.saga.instance import Status
from ensue.saga.wake import Wake, write_wake
from ensue.tables import TIMERS

COMPLETED = ("COMPLETED", "OPEN", "HELD", True, "captured")
DAY = 86_400.0


async def resting(stage: Stage) -> None:
    """A saga has all before its pivot, and sleeps for a day."""
    await stage.start()
    await stage.begin(Place("o-1", rests=True))
    await settled(stage.world)
    assert (await stage.saga()).waits_for == "sleep"


# ---------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_two_recoverers_run_one_instance(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """dbos-transact-py#742. Both processes believe that every partition is theirs; each step takes effect once."""
    orders = [f"o-{number}" for number in range(30)]
    url = ""
    if kind == "postgresql":
        server = request.getfixturevalue("postgres_server")
        server.drop("saga_recoverers")
        url = server.url("saga_recoverers", kind)
    async with on_stage(tmp_path, url) as stage:
        await stage.start()
        first = stage.world.runtimes["sales"].worker
        assert first is not None
        assert first._beating is not None
        had = {str(each.partition) for each in first.loops.consumers}
        await stage.begin(*[Place(each) for each in orders[:15]])
        async with stage.another(Shop(stage.book, stage.trouble.meets).sales) as other:
            first._beating.cancel()  # it is taken for dead, and lives
            await other.context.books.bury(first.name)
            worker = other.worker
            assert worker is not None
            await until(lambda: {str(each.partition) for each in worker.loops.consumers} == had, stage.world)
            both = had & {str(each.partition) for each in first.loops.consumers}
            await stage.begin(*[Place(each) for each in orders[15:]])
            for each in orders:
                assert (await stage.shop.sales.ended(stage.shop.place, each, timeout=30)).status == "COMPLETED"
        await stage.stop("sales")
        await stage.start("sales")
        await settled(stage.world)
        for each in orders:
            assert await stage.found(each) == COMPLETED
        assert both == had, "they were at the same partitions"
        assert stage.book.twice() == []
        [ann] = (await stage.rows(stage.shop.credit, Customer)).values()
        assert ann.left == 1000 - 30 * len(orders)


async def test_work_is_stranded_when_the_database_goes_away_during_a_take_over(tmp_path: Path) -> None:
    """dbos-transact-py#716. The process that takes over meets a database that does not answer, and then does."""
    async with on_stage(tmp_path) as stage:
        stage.deaths["sales"] = Death("consumer.checkpoint_written", lambda: stage.trouble.met("knows of reserve") > 0)
        await stage.start()
        await stage.begin(Place("o-1"))
        await stage.dies("sales")
        away = stage.deaths["sales"] = Death("consumer.begun", lambda: True)
        await stage.start("sales")
        await until(lambda: away.store is not None and away.store.dead, stage.world, "the database goes away")
        assert away.store is not None
        away.store.dead, away.after = False, lambda: False
        assert (await stage.at_rest()).status is Status.COMPLETED
        assert await stage.found() == COMPLETED


async def test_a_crash_in_the_middle_of_retries_cannot_be_read_back(tmp_path: Path) -> None:
    """dbos-transact-py#260. One attempt has failed, and the process dies: the attempts and the reason are there."""
    async with on_stage(tmp_path) as stage:
        stage.trouble.errors["capture"] = (1, lambda: ConnectionError("no answer"))
        stage.deaths["sales"] = Death("timers.read", lambda: stage.trouble.met("capture") > 0)
        await stage.start()
        await stage.begin(Place("o-1"))
        await settled(stage.world)
        await stage.dies("sales")
        await stage.start("sales")
        found = await stage.saga()
        assert "outside capture failed at attempt 1: ConnectionError: no answer" in found.reason
        assert [each.attempt for each in found.outside.values()] == [1]
        await stage.at_rest()
        assert await stage.found() == COMPLETED
        assert stage.trouble.met("capture") == 2


async def test_replies_are_unread_until_a_new_saga_starts(tmp_path: Path) -> None:
    """eventuate-tram-sagas#40. The reply came while nobody was there; the next process reads it, and nothing begins."""
    async with on_stage(tmp_path) as stage:
        await stage.start("sales")
        await stage.begin(Place("o-1"))
        await settled(stage.world)
        await stage.stop("sales")
        await stage.start("credit", "till")
        await settled(stage.world)
        assert [each.type for each in await stage.world.messages("sales.replies") if each.type == REPLY] == [REPLY]
        await stage.start("sales")
        await stage.at_rest()
        assert await stage.found() == COMPLETED


async def test_the_reply_or_the_timer_comes_before_the_saga_is_committed(tmp_path: Path) -> None:
    """MassTransit#374, #573 and #1005. As long as its row is not, neither its command nor its timer is there."""
    async with on_stage(tmp_path) as stage:
        stage.deaths["sales"] = Death("consumer.checkpoint_written", lambda: stage.trouble.met("create") > 0)
        await stage.start()
        await stage.begin(Place("o-1"))
        await stage.dies("sales")
        assert [each for each in await stage.world.messages("credit.commands") if each.type != TICK] == []
        store = stage.store_of("sales")
        await store.open()
        assert await store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9) == []
        await store.close()
        await stage.start("sales")
        await stage.at_rest()
        assert await stage.found() == COMPLETED


# ------------------------------------------------------------------------------------------------------------- timers


async def test_a_timer_is_lost_at_a_restart(tmp_path: Path) -> None:
    """Automatonymous#50. The process stops while the saga sleeps, and another one wakes it."""
    async with on_stage(tmp_path) as stage:
        await resting(stage)
        await stage.stop("sales")
        await stage.start("sales")
        await stage.wait(DAY)
        assert await stage.found() == COMPLETED


async def test_overdue_timers_go_off_three_times(tmp_path: Path) -> None:
    """wolverine#1272. It is due for a week while nobody is there; then it goes off, once."""
    async with on_stage(tmp_path) as stage:
        await resting(stage)
        await stage.stop("sales")
        assert stage.clock is not None
        stage.clock.put_to(stage.clock.now() + 7 * DAY)
        await stage.start("sales")
        await until(lambda: stage.trouble.met("woke") > 0, stage.world)
        await stage.at_rest()
        assert (await stage.found(), stage.dropped) == (COMPLETED, 0)
        woken = [each for each in await stage.world.messages("sales.replies") if b'"kind":"due"' in each.data]
        assert len(woken) == 1


async def test_a_sleep_begins_anew_after_a_crash(tmp_path: Path) -> None:
    """dbos-transact-ts#451. Half of it is over when the process dies; the other half is left."""
    async with on_stage(tmp_path) as stage:
        await resting(stage)
        due = await first_due(stage.world.runtimes["sales"].store)
        await stage.wait(DAY / 2)
        await stage.stop("sales")
        await stage.start("sales")
        assert await first_due(stage.world.runtimes["sales"].store) == due
        await stage.wait(DAY / 2 - 60)
        assert (await stage.saga()).waits_for == "sleep"
        await stage.wait(61)
        assert await stage.found() == COMPLETED


async def test_a_reply_or_a_time_limit_comes_after_the_end(tmp_path: Path) -> None:
    """wolverine#1095, MassTransit#4947. Neither changes a saga that has ended, nor begins one; both are counted."""
    async with on_stage(tmp_path) as stage:
        await stage.start()
        await stage.begin(Place("o-1"))
        ended = await stage.at_rest()
        async with stage.shop.credit.step() as step:
            step.emit("sales.replies", REPLY, "place:o-1", 9, write_reply(Reply("1-2", failure="cash.NotYet")))
        async with stage.shop.sales.step() as step:
            step.wake("place:o-1", write_wake(Wake("due", number=2)))
            step.wake("place:o-9", write_wake(Wake("due", number=2)))
        await settled(stage.world)
        assert stage.dropped == 3
        found = await stage.saga()
        assert (found.revision, found.updated_at) == (ended.revision, ended.updated_at)
        assert await stage.shop.sales.runtime.context.books.saga("place:o-9") is None
        assert await stage.world.dead_letters(stage.shop.sales) == []


# ------------------------------------------------------------------------------------------------------------ undoing


async def test_what_never_happened_is_undone(tmp_path: Path) -> None:
    """eventuate-tram-sagas#75. It is cancelled while it waits for what is refused then; the undo does nothing."""
    async with on_stage(tmp_path) as stage:
        await stage.start("sales")
        await stage.begin(Place("o-1", total=5_000))
        await settled(stage.world)
        await stage.people("cancel")
        await stage.start("credit", "till")
        await stage.at_rest()
        assert await stage.found() == ("UNDONE", "REJECTED", "", False, "")
        assert (stage.trouble.met("reserve"), stage.trouble.met("release")) == (1, 1)
        assert await stage.rows(stage.shop.credit, Customer) == {}


async def test_it_is_undone_before_it_is_done(tmp_path: Path) -> None:
    """eventuate-tram-sagas#75. The participant is away for longer than the limit, and gets first things first."""
    async with on_stage(tmp_path) as stage:
        await stage.start("sales")
        await stage.begin(Place("o-1"))
        await stage.wait(301)
        sent = [each for each in await stage.world.messages("credit.commands") if each.type != TICK]
        assert [each.type for each in sent] == ["credit.commands.Reserve.v1", "credit.commands.Release.v1"]
        assert len({(each.partition, each.source, each.key) for each in sent}) == 1
        await stage.start("credit", "till")
        await stage.at_rest()
        [ann] = (await stage.rows(stage.shop.credit, Customer)).values()
        assert (ann.left, ann.reserved) == (1000, " ")


async def test_it_is_undone_twice(tmp_path: Path) -> None:
    """eventuate-tram-sagas#75. Each record about the undo comes twice, and the process dies in the middle of it."""
    async with on_stage(tmp_path) as stage:
        stage.lines["sales"].repeats = lambda entry: b"Release" in entry.envelope
        stage.lines["credit"].repeats = lambda entry: True
        stage.deaths["sales"] = Death("consumer.committed", lambda: stage.trouble.met("release") > 0)
        await stage.start()
        await stage.begin(Place("o-1", changes_mind=True))
        await stage.dies("sales")
        await stage.start("sales")
        await stage.at_rest()
        assert await stage.found() == ("UNDONE", "REJECTED", "VOID", False, "")
        assert (stage.trouble.met("release"), stage.trouble.met("reject")) == (1, 1)
        assert stage.lines["sales"].repeated >= 1
