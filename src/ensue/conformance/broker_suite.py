"""What the parts of the Broker suite share: how an adapter is made, and records to send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
import pytest_asyncio

from ensue.codec import encode_envelope
from ensue.message import Envelope, Garbage, Message, OutboxRecord
from ensue.ports import Broker, Capabilities

SOURCE = "orders/1"
TOPIC = "orders"


def entry(position: int, *, key: str = "key", data: bytes | None = None, previous: int | None = None) -> OutboxRecord:
    """One record of a chain; its id tells its position."""
    return OutboxRecord(
        topic=TOPIC,
        partition=0,
        key=key,
        envelope=encode_envelope(Envelope(id=f"id-{position}", type="OrderCreated", time="2024-01-01T00:00:00Z")),
        data=b'{"n":%d}' % position if data is None else data,
        position=position,
        previous=position - 1 if previous is None else previous,
    )


def entries(first: int, count: int) -> list[OutboxRecord]:
    """A chain of `count` records whose first has the position `first`."""
    return [entry(position) for position in range(first, first + count)]


def positions(records: Sequence[Message | Garbage]) -> list[int]:
    """The positions of messages; garbage fails the test that asks."""
    found = []
    for record in records:
        assert isinstance(record, Message), f"expected messages only, found {record}"
        found.append(record.position)
    return found


async def read(
    broker: Broker, topic: str, partition: int, after: int, limit: int, wait_s: float
) -> Sequence[Message | Garbage]:
    """One read, by a reader of its own."""
    reader = broker.reader(topic, partition, after)
    try:
        return await reader.read(limit, wait_s)
    finally:
        await reader.close()


class BrokerSuite:
    """Subclass it as `Test…`, say what the adapter can do, and how to make one.

    Each test runs on a fresh instance of the class and wants a log without topics (a new file, or topic names of its
    own by a prefix). patience_s: how long something may take that should take milliseconds. Its fixture `broker` is the
    name of what is open in a test: keep what you make under another.
    """

    pytestmark = pytest.mark.asyncio

    capabilities: ClassVar[Capabilities]
    patience_s: float = 10.0

    async def make_broker(self) -> Broker:
        """Return a new adapter, not open, on this test's log. Called several times in a test: always the same log."""
        raise NotImplementedError

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        """Append one record that is no message, as a stranger would. Skipped where nobody can."""
        pytest.skip("this adapter's test does not say how to put a stranger's bytes in the log")

    async def limit_records(self, broker: Broker, topic: str, partition: int) -> int:
        """Make the log refuse larger records in that partition, as an administrator would; return how many bytes of
        data are too many. Skipped where nobody can."""
        pytest.skip("this adapter's test does not say how to set a limit for records")

    # --- helpers

    def needs_pruning(self) -> None:
        if not self.capabilities.prunes:
            pytest.skip("capabilities.prunes is false")

    @asynccontextmanager
    async def opened(self, partitions: int = 2) -> AsyncIterator[Broker]:
        """An open broker with the topic `orders`."""
        broker = await self.make_broker()
        await broker.open()
        try:
            await broker.ensure_topic(TOPIC, partitions)
            yield broker
        finally:
            await broker.close()

    @pytest_asyncio.fixture(loop_scope="function")
    async def broker(self) -> AsyncIterator[Broker]:
        async with self.opened() as broker:
            yield broker

    async def read_through(
        self, broker: Broker, last: int, *, topic: str = TOPIC, partition: int = 0, after: int = 0, limit: int = 100
    ) -> list[Message | Garbage]:
        """Read, as a subscriber does, from `after` until the offset `last` has come."""
        reader = broker.reader(topic, partition, after)
        found: list[Message | Garbage] = []
        async with asyncio.timeout(self.patience_s):
            while reader.after < last:
                batch = await reader.read(limit, self.patience_s)
                assert len(batch) <= limit, "a read returned more than its limit"
                for record in batch:
                    assert record.offset > after, f"offset {record.offset} came after offset {after}"
                    after = record.offset
                assert reader.after == after, f"the reader says that it is at {reader.after}, found {after}"
                found += batch
        await reader.close()
        return found

    async def everything(self, broker: Broker, *, topic: str = TOPIC, partition: int = 0) -> list[Message | Garbage]:
        """All that is in a partition now."""
        last = (await broker.bounds(topic, partition)).last
        return await self.read_through(broker, last, topic=topic, partition=partition)


def later() -> float:
    """A time before which everything was appended, whatever the broker's clock says."""
    return time.time() + 3600
