"""Outside effects in their service: called in no transaction, limited, stopped, and found again after a death."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.unit.engine.workbench import LIMIT_S, _until, bench, config, letters, settled, store_of, until

from ensue import EffectKey, Failure, Saga, SagaEnd, Service
from ensue.adapters import make_store
from ensue.errors import StoreUnavailable
from ensue.saga.instance import Instance
from ensue.tables import TIMERS
from ensue.testing import World, run


@dataclass(frozen=True)
class Pay:
    how: str = ""
    attempts: int = 3
    limit_s: float = 20.0


class NoMoney(Failure):
    reason: str


class Shop:
    """Its provider counts by key what it was asked, and lets a test say what it answers."""

    def __init__(self, outside_max: int = 50) -> None:
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0
        self.answers: dict[str, Any] = {}  # by `how`: an error, or an event to wait for
        self.stubborn = asyncio.Event()
        self.service = shop = Service("shop", outside_max=outside_max)

        @shop.outside
        async def charge(how: str, key: EffectKey) -> str:
            self.asked[key] += 1
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                answer = self.answers.get(how)
                if isinstance(answer, BaseException):
                    raise answer
                if isinstance(answer, asyncio.Event):
                    await answer.wait()
                return answer if isinstance(answer, str) else f"charged {how}"
            except asyncio.CancelledError:
                if how != "stubborn":
                    raise
                await self.stubborn.wait()
                return "late"
            finally:
                self.now -= 1

        @shop.outside
        async def refund(how: str, key: EffectKey) -> None:
            self.asked[key] += 1

        @shop.saga
        async def pay(saga: Saga, new: Pay) -> str:
            paid: str = await saga.outside(
                charge, new.how, undo=refund, attempts=new.attempts, limit=timedelta(seconds=new.limit_s)
            )
            if new.how == "undone":
                raise NoMoney(reason=paid)
            return paid

        self.pay = pay
        self.charge = charge

    async def start(self, *requests: Pay) -> None:
        async with self.service.step() as step:
            for number, each in enumerate(requests):
                step.start(self.pay, each, id=number)

    async def end(self, number: int = 0) -> SagaEnd[str]:
        return await self.service.ended(self.pay, number, timeout=LIMIT_S)

    async def saga(self, number: int = 0) -> Instance:
        found = await self.service.runtime.context.books.saga(f"pay:{number}")
        assert found is not None
        return found

    async def bring_timers(self) -> None:
        """As if what waits were due now."""
        store = self.service.runtime.store
        async with store.transaction() as transaction:
            rows = await store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=99)
            await transaction.update_rows(TIMERS, [(each[0], 0.0, *each[2:]) for each in rows])
        self.service.runtime.context.timer_set.set()


@asynccontextmanager
async def running(tmp_path: Path, shop: Shop, url: str = "", stop_limit_s: float = 10.0) -> AsyncIterator[World]:
    store = make_store(url, "shop") if url else store_of(tmp_path, "shop")
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, shop.service, stores={"shop": store}, engine=config(stop_limit_s=stop_limit_s)) as world,
    ):
        yield world


async def timers(shop: Shop) -> int:
    return len(await shop.service.runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=99))


async def test_it_is_called_once_under_its_key_and_its_timer_goes(sql_database: str, tmp_path: Path) -> None:
    shop = Shop()
    async with running(tmp_path, shop, sql_database) as world:
        shop.answers["no"] = ExceptionGroup("of a task group", [NoMoney(reason="no money")])
        await shop.start(Pay("yes"), Pay("no"), Pay("undone"))
        assert await shop.end(0) == SagaEnd("COMPLETED", "charged yes", None)
        end = await shop.end(1)
        assert isinstance(end.failure, NoMoney)
        assert end.failure.reason == "no money"
        assert (await shop.end(2)).status == "UNDONE"
        await settled(world)
        assert shop.asked == {
            "shop:pay:0:1": 1, "shop:pay:1:1": 1, "shop:pay:2:1": 1, "shop:pay:2:1:undo": 1,
        }  # fmt: skip
        assert await timers(shop) == 0
        assert await letters(world, shop.service) == []


async def test_no_more_than_its_limit_are_called_at_once_and_who_waits_is_not_lost(tmp_path: Path) -> None:
    shop = Shop(outside_max=2)
    gate = shop.answers["waits"] = asyncio.Event()
    async with running(tmp_path, shop) as world:
        outside = world.runtimes["shop"].worker.loops.outside  # type: ignore[union-attr]  # it runs
        await shop.start(*[Pay("waits", attempts=1)] * 5)
        await until(lambda: outside.busy == 5 and shop.now == 2, world)
        # Neither one at work nor one that waits for its turn is taken for dead because its timer goes off.
        await shop.bring_timers()

        async def armed_anew() -> bool:
            rows = await shop.service.runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=99)
            return len(rows) == 5 and all(each[1] > 0 for each in rows)

        await _until(armed_anew, world, "five timers set anew")
        assert (shop.now, outside.busy) == (2, 5)
        gate.set()
        for number in range(5):
            assert (await shop.end(number)).status == "COMPLETED"
        assert shop.most == 2
        assert set(shop.asked.values()) == {1}


async def test_what_raises_is_tried_again_and_parked_past_its_attempts(tmp_path: Path) -> None:
    shop = Shop()
    shop.answers["broken"] = RuntimeError("no answer, \ud800")
    shop.answers["exits"] = SystemExit(3)
    async with asyncio.timeout(LIMIT_S * 2), run(shop.service) as world:
        await shop.start(Pay("broken"), Pay("exits", attempts=1))
        await world.settle()
        assert "outside charge failed at attempt 1: RuntimeError: no answer, \\ud800" in (await shop.saga(0)).reason
        assert "RuntimeError: outside function shop.charge raised SystemExit(3)" in (await shop.saga(1)).reason
        await world.advance(seconds=10)
        parked = await shop.saga(0)
        assert (parked.status, shop.asked["shop:pay:0:1"]) == ("PARKED", 3)
        assert "test_outside.py" in parked.reason, "where it was raised"
        del shop.answers["broken"], shop.answers["exits"]
        async with shop.service.step() as step:
            step.retry_saga(shop.pay, 0)
            step.retry_saga(shop.pay, 1)
        assert await shop.end(0) == SagaEnd("COMPLETED", "charged broken", None)
        assert (await shop.end(1)).status == "COMPLETED"


async def test_an_outside_function_may_open_steps_and_ask_other_services(tmp_path: Path) -> None:
    shop = Shop()

    @shop.service.outside
    async def starts(number: int) -> None:
        async with shop.service.step() as step:
            step.start(shop.pay, Pay("inner"), id=number)
        await shop.service.ended(shop.pay, number, timeout=LIMIT_S)

    @shop.service.saga
    async def outer(saga: Saga, new: Pay) -> None:
        saga.pivot()
        await saga.outside(starts, 7)

    async with running(tmp_path, shop):
        async with shop.service.step() as step:
            step.start(outer, Pay(), id=1)
        assert (await shop.service.ended(outer, 1, timeout=LIMIT_S)).status == "COMPLETED"
        assert await shop.end(7) == SagaEnd("COMPLETED", "charged inner", None)


async def test_a_result_that_cannot_be_kept_is_a_failed_attempt(tmp_path: Path) -> None:
    shop = Shop()
    shop.answers["large"] = "x" * 3_000_000
    async with asyncio.timeout(LIMIT_S * 2), run(shop.service) as world:
        await shop.start(Pay("large", attempts=1))
        await world.settle()
        parked = await shop.saga()
        assert parked.status == "PARKED"
        assert "EventTooLarge" in parked.reason


async def test_what_takes_too_long_is_cancelled_and_has_failed_whatever_it_makes_of_that(tmp_path: Path) -> None:
    shop = Shop()
    shop.answers["slow"] = shop.answers["stubborn"] = asyncio.Event()
    async with running(tmp_path, shop) as world:
        outside = world.runtimes["shop"].worker.loops.outside  # type: ignore[union-attr]  # it runs
        await shop.start(Pay("slow", attempts=1, limit_s=0.01), Pay("stubborn", attempts=1, limit_s=0.01))
        await until(lambda: bool(shop.asked) and not outside.busy, world)
        await settled(world)
        assert [(await shop.saga(each)).status for each in (0, 1)] == ["PARKED", "PARKED"]
        assert "TimeoutError: it did not return within its limit of 0.01 s" in (await shop.saga(0)).reason
        assert "and goes on although it was cancelled" in (await shop.saga(1)).reason
        assert shop.now == 1
        shop.stubborn.set()


async def test_a_stop_waits_for_what_is_at_work(tmp_path: Path) -> None:
    shop = Shop()
    gate = shop.answers["waits"] = asyncio.Event()
    async with running(tmp_path, shop) as world:
        await shop.start(Pay("waits"))
        await until(lambda: shop.now == 1, world)
        asyncio.get_running_loop().call_soon(gate.set)
    async with running(tmp_path, shop):
        assert (await shop.end()).status == "COMPLETED"
    assert shop.asked == {"shop:pay:0:1": 1}


async def test_what_a_stop_cuts_short_and_what_had_no_turn_begin_again_and_count_for_nothing(tmp_path: Path) -> None:
    shop = Shop(outside_max=1)
    gate = shop.answers["waits"] = asyncio.Event()
    async with running(tmp_path, shop, stop_limit_s=0.01) as world:
        outside = world.runtimes["shop"].worker.loops.outside  # type: ignore[union-attr]  # it runs
        await shop.start(Pay("waits", attempts=1), Pay("waits", attempts=1))
        await until(lambda: shop.now == 1 and outside.busy == 2, world)
    assert shop.now == 0
    gate.set()
    async with running(tmp_path, shop) as world:
        for number in (0, 1):
            assert (await shop.end(number)).status == "COMPLETED"
        await settled(world)
        assert await timers(shop) == 0
    assert sum(shop.asked.values()) == 3, "the second attempt at one of them, and the first at the other"


async def test_without_a_worker_that_knows_of_it_its_timer_brings_it(tmp_path: Path) -> None:
    shop = Shop()
    async with running(tmp_path, shop) as world:
        sagas = world.runtimes["shop"].context.dispatcher.sagas
        begin, lost = sagas.begin, list[Any]()
        sagas.begin = lost.extend  # as a process that dies right after its commit
        await shop.start(Pay())
        await until(lambda: bool(lost), world)
        sagas.begin = begin
        await shop.bring_timers()
        assert (await shop.end()).status == "COMPLETED"
    assert shop.asked == {"shop:pay:0:1": 1}


async def test_what_came_of_it_is_kept_once_the_database_is_back(tmp_path: Path, monkeypatch: Any) -> None:
    shop = Shop()
    async with running(tmp_path, shop) as world:
        outside = world.runtimes["shop"].worker.loops.outside  # type: ignore[union-attr]  # it runs
        write, tries = outside._write, 0

        async def away(told: Any, trace: Any = None) -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise StoreUnavailable("the database is away")
            await write(told, trace)

        monkeypatch.setattr(outside, "_write", away)
        await shop.start(Pay())
        assert (await shop.end()).status == "COMPLETED"
    assert (tries, shop.asked) == (3, {"shop:pay:0:1": 1})


async def test_what_follows_from_a_message_that_failed_at_first_is_called_at_once(tmp_path: Path) -> None:
    shop = Shop()
    fails = [True]

    @shop.service.local
    def prepare(how: str) -> None:
        while fails:
            fails.pop()
            raise RuntimeError("at first")

    @shop.service.saga
    async def late(saga: Saga, new: Pay) -> None:
        saga.pivot()
        await saga.local(prepare, new.how)
        await saga.outside(shop.charge, new.how, limit=timedelta(hours=1))

    async with running(tmp_path, shop):
        async with shop.service.step() as step:
            step.start(late, Pay(), id=1)
        assert (await shop.service.ended(late, 1, timeout=LIMIT_S)).status == "COMPLETED"


async def waiting(shop: Shop, world: World) -> Any:
    """One attempt is at work, another one waits for its turn."""
    loops = world.runtimes["shop"].worker.loops  # type: ignore[union-attr]  # it runs
    await shop.start(Pay("first"), Pay("second"))
    await until(lambda: shop.now == 1 and loops.outside.busy == 2, world)
    return world.runtimes["shop"].context.dispatcher.sagas


async def timer_of(shop: Shop, number: int) -> Any:
    name = next(iter((await shop.saga(number)).timers.values()))
    [found] = await shop.service.runtime.store.rows().get(TIMERS, [name])
    return found


async def test_what_begins_late_has_its_whole_limit_before_its_timer_goes_off(
    tmp_path: Path, sql_database: str
) -> None:
    shop = Shop(outside_max=1)
    first, second = shop.answers["first"], shop.answers["second"] = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, shop, sql_database) as world:
        await waiting(shop, world)
        store = shop.service.runtime.store
        row = await timer_of(shop, 1)
        soon = await store.now() + 5
        async with store.transaction() as transaction:  # as if it had waited for so long
            await transaction.update_rows(TIMERS, [(row[0], soon, *row[2:])])
        first.set()
        await until(lambda: shop.asked["shop:pay:1:1"] == 1, world)
        later = await timer_of(shop, 1)
        assert later[1] > soon + 14, "its limit of 20 s begins with it, whichever process has the saga by then"
        assert (later[0], *later[2:]) == (row[0], *row[2:])
        second.set()
        assert (await shop.end(1)).status == "COMPLETED"
        await settled(world)
        assert await timers(shop) == 0


async def test_what_begins_late_since_its_transaction_took_long_has_its_whole_limit_too(tmp_path: Path) -> None:
    shop = Shop()
    gate = shop.answers["waits"] = asyncio.Event()
    async with running(tmp_path, shop) as world:
        sagas = world.runtimes["shop"].context.dispatcher.sagas
        begin, late = sagas.begin, list[Any]()
        sagas.begin = late.extend
        await shop.start(Pay("waits"))
        await until(lambda: bool(late), world)
        before = await timer_of(shop, 0)
        begin([dataclasses.replace(each, since=each.since - 60) for each in late])  # as if it had begun a minute ago
        await until(lambda: shop.now == 1, world)
        assert (await timer_of(shop, 0))[1] > before[1]
        gate.set()
        assert (await shop.end(0)).status == "COMPLETED"


async def test_what_another_process_has_given_up_meanwhile_is_not_begun(tmp_path: Path) -> None:
    shop = Shop(outside_max=1)
    first, second = shop.answers["first"], shop.answers["second"] = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, shop) as world:
        sagas = await waiting(shop, world)
        sagas.at_work.clear()  # as another process, which knows of neither
        for _ in range(2):  # the first time it looks once more
            before = (await timer_of(shop, 1))[0]
            await shop.bring_timers()

            async def set_anew(before: str = before) -> bool:
                return before not in (await shop.saga(1)).timers.values()

            await _until(set_anew, world, "its timer is another one")
        assert (await shop.saga(1)).outside[1].attempt == 2
        first.set()
        second.set()
        assert (await shop.end(1)).status == "COMPLETED"
        loops = world.runtimes["shop"].worker.loops  # type: ignore[union-attr]  # it runs
        await until(lambda: not loops.outside.busy, world)
        assert shop.asked["shop:pay:1:1"] == 1, "the first attempt was given up before it had its turn"


async def test_what_has_its_turn_while_its_timer_is_on_its_way_is_begun_by_the_next_attempt(tmp_path: Path) -> None:
    shop = Shop(outside_max=1)
    first, second = shop.answers["first"], shop.answers["second"] = asyncio.Event(), asyncio.Event()
    async with running(tmp_path, shop) as world:
        await waiting(shop, world)
        row = await timer_of(shop, 1)
        async with shop.service.runtime.store.transaction() as transaction:
            await transaction.delete_rows(TIMERS, [row[0]])  # it is in the outbox, and not read yet
        first.set()
        await until(lambda: shop.asked["shop:pay:1:1"] == 1, world)
        found = (await shop.saga(1)).outside[1]
        assert (found.attempt, found.last) == (2, 4), "the first one was not made, and counts for nothing"
        second.set()
        assert (await shop.end(1)).status == "COMPLETED"
