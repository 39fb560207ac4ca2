"""Who takes signed records only believes nobody who lacks a key, whatever is written in whose name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest
from tests.unit.engine.workbench import LIMIT_S, QUICK, store_of, until

from ensue import Event, Service, UsageError
from ensue.brokers.memory import MemoryBroker
from ensue.codec import encode_envelope
from ensue.config import Settings
from ensue.engine.ask import REQUEST, SEEN, ResendRequest
from ensue.engine.books import REFUSED_MAX
from ensue.engine.gauges import REFUSED, measure
from ensue.engine.runtime import Runtime
from ensue.event import event_type
from ensue.message import CONTROL_TOPIC, LOST, TICK, DeadLetterState, Envelope, Message, OutboxRecord
from ensue.seal import Sign, sealed
from ensue.signatures import Key, Trust
from ensue.testing import World

ORDERS, CUSTOMERS, OLD = Key("orders", "new", "o" * 40), Key("customers", "1", "c" * 40), Key("orders", "old", "z" * 40)
KEYS = (ORDERS, OLD, CUSTOMERS)


class SignedOrder(Event, topic="orders", key="customer"):
    customer: str
    number: int


class Shop:
    """Orders publishes, customers reads; a stranger can write to the log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = f"memory:{directory}"
        self.orders, self.customers = Service("orders"), Service("customers")
        self.got: list[tuple[str, int]] = []
        self.world = World(MemoryBroker(self.log))

        @self.customers.on
        async def count(event: SignedOrder) -> None:
            self.got.append((event.customer, event.number))

    @asynccontextmanager
    async def open(self, orders: Trust, customers: Trust | None) -> AsyncIterator[None]:
        """customers: None: they do not run."""
        async with AsyncExitStack() as stack:
            await self.world.broker.open()
            stack.push_async_callback(self.world.broker.close)
            for service, trust in ((self.orders, orders), (self.customers, customers)):
                if trust is None:
                    continue
                runtime = Runtime(
                    service, store_of(self.directory, service.name), MemoryBroker(self.log),
                    Settings(database="", broker="", partitions=1, engine=QUICK, trust=trust),
                    random=Random(0), progress=self.world.progressed,
                )  # fmt: skip
                self.world.runtimes[service.name] = runtime
                await stack.enter_async_context(service.running(runtime))
                await runtime.ready()
            yield

    @property
    def source(self) -> str:
        return self.world.runtimes["orders"].store.source

    async def publish(self, *numbers: int) -> None:
        async with self.orders.step() as step:
            for number in numbers:
                step.publish(SignedOrder(customer="k", number=number))

    async def applied(self, *numbers: int) -> None:
        await until(lambda: len(self.got) >= len(numbers), self.world, f"{self.got}")
        await self.world.settle()
        assert [number for _, number in self.got] == [*numbers]

    async def forge(self, *records: OutboxRecord, source: str = "", sign: Sign | None = None) -> None:
        for each in records:
            where = each.topic, each.partition
            whole = sealed(*where, source or self.source, each, sign)
            await self.world.broker.append(*where, source or self.source, [whole])

    async def refused(self) -> Sequence[str]:
        books = self.world.runtimes["customers"].context.books
        return [each.error for each in await books.letters(None, (DeadLetterState.REFUSED,))]


def forged(position: int = 0, previous: int = 0, kind: str = "", data: bytes = b"", number: int = 666) -> OutboxRecord:
    spec = event_type(SignedOrder)
    envelope = encode_envelope(Envelope(f"forged-{position}-{number}", kind or spec.type, "2026-11-27T02:30:00Z"))
    data = data or spec.write(SignedOrder(customer="k", number=number))
    return OutboxRecord("orders", 0, "k", envelope, data, position, previous)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


SIGNED = Trust(signed=True, keys=KEYS)


async def test_what_is_signed_is_applied_and_what_a_stranger_writes_in_any_name_is_not(shop: Shop) -> None:
    async with shop.open(SIGNED, SIGNED):
        await shop.publish(1, 2)
        await shop.applied(1, 2)
        lost = b'{"after":2,"through":900,"before":9e9}'
        strangers = Trust(keys=(Key("orders", "new", "guessed" * 10),))
        await shop.forge(
            forged(10**15),  # would have moved the watermark
            forged(10**15, 10**15, TICK),
            forged(900, 900, LOST, lost),
            forged(),  # without a chain
        )
        await shop.forge(forged(3, 2), sign=strangers.signer("orders"))
        await shop.forge(forged(3, 2), source="customers/x", sign=SIGNED.signer("orders"))
        await shop.publish(3, 4)
        await shop.applied(1, 2, 3, 4)
        assert len(await shop.refused()) == 6
        context = shop.world.runtimes["customers"].context
        assert (await measure(context, None, database=True))[REFUSED] == {("orders",): 6}
        [checkpoint] = (await context.books.checkpoints()).values()
        assert checkpoint.watermarks == {shop.source: 4}
        assert not checkpoint.gaps
        assert checkpoint.counters.refused == 6


async def test_a_record_that_was_signed_for_another_place_is_not_believed_there(shop: Shop) -> None:
    """A stranger has what is on the log, and can write it again, anywhere."""
    async with shop.open(SIGNED, SIGNED):
        await shop.publish(1, 2)
        await shop.applied(1, 2)
        reader = shop.world.broker.reader("orders", 0, 0)
        first, second, *_ = [each for each in await reader.read(10, 0.0) if isinstance(each, Message)]
        await reader.close()

        def again(message: Message, **changes: object) -> OutboxRecord:
            record = OutboxRecord(
                "orders", 0, message.key, encode_envelope(message.envelope), message.data,
                message.position, message.previous,
            )  # fmt: skip
            return msgspec.structs.replace(record, **changes)

        for record in (
            again(first), again(second, position=3, previous=2), again(second, data=first.data, position=3, previous=2),
            again(second, key="other", position=3, previous=2),
        ):  # fmt: skip
            await shop.world.broker.append("orders", 0, shop.source, [record])
        await shop.publish(3)
        await shop.applied(1, 2, 3)


async def test_a_flood_of_what_is_not_signed_stops_nobody_and_leaves_a_bounded_trace(shop: Shop) -> None:
    async with shop.open(SIGNED, SIGNED):
        records = [forged(10 + number, 9 + number, data=b"x" * 10_000, number=number) for number in range(1_000)]
        whole = [sealed("orders", 0, shop.source, each) for each in records]
        await shop.world.broker.append("orders", 0, shop.source, whole)
        await shop.publish(1)
        await shop.applied(1)
        books = shop.world.runtimes["customers"].context.books
        kept = await books.letters(None, (), 10_000)
        assert len(kept) == REFUSED_MAX
        assert {each.state for each in kept} == {DeadLetterState.REFUSED}
        assert max(len(each.data) for each in kept) <= 4_096
        assert shop.source in kept[0].error


async def test_requests_and_what_subscribers_say_count_only_when_they_are_signed(shop: Shop) -> None:
    async with shop.open(SIGNED, SIGNED):
        await shop.publish(1, 2, 3)
        await shop.applied(1, 2, 3)
        last = (await shop.world.broker.bounds("orders", 0)).last

        def said(kind: str, after: int, message_id: str = "") -> OutboxRecord:
            request = ResendRequest(shop.source, "orders", 0, after, 3, "customers", message_id)
            envelope = encode_envelope(Envelope("forged", kind))
            return OutboxRecord(CONTROL_TOPIC, 0, "", envelope, msgspec.json.encode(request))

        # Believed, the second one would have the publisher refuse its own database.
        await shop.forge(said(REQUEST, 0), said(SEEN, 10**15, "nobody's"), source="customers")
        await shop.forge(said(REQUEST, 0), source="customers", sign=SIGNED.signer("customers"))
        async with asyncio.timeout(LIMIT_S):
            while (await shop.world.broker.bounds("orders", 0)).last < last + 3:
                await shop.world._progress.wait()
                shop.world._progress.clear()
                await asyncio.sleep(0)
        await shop.publish(4)
        await shop.applied(1, 2, 3, 4)


async def test_a_gap_heals_with_signed_requests_and_signed_answers(shop: Shop) -> None:
    async with shop.open(SIGNED, SIGNED):
        await shop.publish(1)
        await shop.applied(1)
    log = shop.world.broker._log  # type: ignore[attr-defined]  # a MemoryBroker
    async with shop.open(SIGNED, SIGNED):
        del log.topics["orders"][0].records[:]
        await shop.publish(2, 3)
        await shop.applied(1, 2, 3)
        assert await shop.refused() == []


async def test_keys_are_changed_one_service_after_the_other(shop: Shop) -> None:
    """First everybody accepts the new one, then its service signs with it, then nobody accepts the old one."""
    for orders, customers in (
        ((OLD, CUSTOMERS), (OLD, CUSTOMERS)),
        ((OLD, CUSTOMERS), (ORDERS, OLD, CUSTOMERS)),
        ((ORDERS, OLD, CUSTOMERS), (ORDERS, OLD, CUSTOMERS)),
        ((ORDERS, CUSTOMERS), (ORDERS, CUSTOMERS)),
    ):
        before = len(shop.got)
        async with shop.open(Trust(signed=True, keys=orders), Trust(signed=True, keys=customers)):
            await shop.publish(before + 1)
            await shop.applied(*range(1, before + 2))
            assert await shop.refused() == []


async def test_signing_comes_before_trusting(shop: Shop) -> None:
    """A publisher that has a key signs, whoever wants it or not; one that wants nothing takes what is signed."""
    async with shop.open(Trust(keys=KEYS), Trust()):
        await shop.publish(1)
        await shop.applied(1)
    async with shop.open(Trust(keys=KEYS), SIGNED):
        await shop.publish(2)
        await shop.applied(1, 2)


async def test_what_was_sent_before_anybody_signed_comes_again_signed(shop: Shop) -> None:
    async with shop.open(Trust(), None):
        await shop.publish(1, 2, 3)
        await shop.world.settle()
    shop.world.runtimes.clear()
    async with shop.open(SIGNED, SIGNED):
        await shop.applied(1, 2, 3)
        assert len(await shop.refused()) >= 3


@pytest.mark.parametrize("exempt", ["topic", "source"])
async def test_an_application_that_does_not_sign_is_heard_where_it_is_named(shop: Shop, exempt: str) -> None:
    told = {"unsigned_topics": frozenset({"orders"})} if exempt == "topic" else {
        "unsigned_sources": frozenset({"https://old.example/shop"})
    }  # fmt: skip
    async with shop.open(SIGNED, Trust(signed=True, keys=KEYS, **told)):
        await shop.forge(forged(number=7), source="https://old.example/shop")
        await shop.applied(7)
        await shop.forge(forged(10**15))  # never in the name of who has a key
        await shop.forge(forged(), source="https://other.example")
        await shop.publish(1)
        await until(lambda: 1 in [number for _, number in shop.got], shop.world)
        await shop.world.settle()
        others = [666] if exempt == "topic" else []
        assert [number for _, number in shop.got] == [7, *others, 1]


async def test_a_service_without_a_key_of_its_own_does_not_start(shop: Shop) -> None:
    with pytest.raises(UsageError, match=r"service customers takes signed records only .* there are keys of: orders"):
        async with shop.open(SIGNED, Trust(signed=True, keys=(ORDERS,))):
            pass


async def test_no_secret_is_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with shop.open(SIGNED, SIGNED):
        await shop.forge(forged(3, 2))
        await shop.publish(1)
        await shop.applied(1)
        shown = f"{shop.world.runtimes['orders'].settings!r} {SIGNED!r} {KEYS!r}"
        assert "1 record(s) of" in caplog.text
        for key in KEYS:
            assert key.secret not in caplog.text + shown
