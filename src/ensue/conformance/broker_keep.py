"""Keeping: topics, bounds, retention, restarts, and every kind of record as it was sent."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from ensue.codec import decode_envelope, encode_envelope
from ensue.conformance.broker_suite import SOURCE, TOPIC, BrokerSuite, entries, entry, later, positions, read
from ensue.errors import TopicMismatch
from ensue.message import Envelope, Garbage, Message, OutboxRecord
from ensue.ports import Broker
from ensue.seal import damage, sealed, signed_bytes
from ensue.signatures import Key, Trust


class Keeping(BrokerSuite):
    # --- partitions and topics

    async def test_partitions_and_topics_are_independent(self, broker: Broker) -> None:
        await broker.ensure_topic("other", 2)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        await broker.append(TOPIC, 1, SOURCE, entries(4, 2))
        await broker.append("other", 0, SOURCE, entries(6, 1))
        assert positions(await self.everything(broker, partition=0)) == [1, 2, 3]
        assert positions(await self.everything(broker, partition=1)) == [4, 5]
        assert positions(await self.everything(broker, topic="other")) == [6]
        assert list(await read(broker, "other", 1, 0, 10, 0.0)) == []

    async def test_ensuring_a_topic_again_changes_nothing(self) -> None:
        async with self.opened(partitions=3) as broker:
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
            await broker.ensure_topic(TOPIC, 3)
            assert await broker.partitions(TOPIC) == 3
            assert positions(await self.everything(broker)) == [1]

    async def test_another_number_of_partitions_is_refused_with_both_numbers(self) -> None:
        async with self.opened(partitions=3) as broker:
            with pytest.raises(TopicMismatch) as caught:
                await broker.ensure_topic(TOPIC, 5)
            assert caught.value.values == {"topic": TOPIC, "expected": 5, "found": 3}
            assert all(word in str(caught.value) for word in (TOPIC, "3", "5"))
            assert await broker.partitions(TOPIC) == 3

    async def test_brokers_that_race_to_create_a_topic_agree(self) -> None:
        async with AsyncExitStack() as stack:
            brokers = [await stack.enter_async_context(self.opened()) for _ in range(4)]
            for round_ in range(5):
                await asyncio.gather(*(broker.ensure_topic(f"race-{round_}", 4) for broker in brokers))
            outcomes = await asyncio.gather(
                *(broker.ensure_topic("unlike", number) for number, broker in enumerate(brokers, 1)),
                return_exceptions=True,
            )
            assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
            assert sum(isinstance(outcome, TopicMismatch) for outcome in outcomes) == 3
            for broker in brokers:
                assert [await broker.partitions(f"race-{round_}") for round_ in range(5)] == [4] * 5

    async def test_topics_are_listed_with_their_partitions(self) -> None:
        async with self.opened(partitions=2) as broker:
            await broker.ensure_topic("customers", 5)
            topics = await broker.topics()
            assert (topics[TOPIC], topics["customers"]) == (2, 5)
            assert await broker.partitions("nobody-made-this") == 0
            assert "nobody-made-this" not in await broker.topics()

    # --- bounds and retention

    async def test_bounds_tell_first_and_last_offset(self, broker: Broker) -> None:
        empty = await broker.bounds(TOPIC, 0)
        assert empty.last == empty.first - 1
        assert empty.first >= 1
        await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        first, last = await broker.bounds(TOPIC, 0)
        offsets = [record.offset for record in await self.everything(broker)]
        assert (first, last) == (offsets[0], offsets[-1])
        assert await broker.bounds(TOPIC, 1) == empty

    async def test_pruning_takes_the_oldest_and_no_more_than_its_limit(self, broker: Broker) -> None:
        self.needs_pruning()
        for first in (1, 6):  # the limit falls within the first batch, then within the second
            await broker.append(TOPIC, 0, SOURCE, entries(first, 5))
        await broker.append(TOPIC, 1, SOURCE, entries(11, 2))
        last = (await broker.bounds(TOPIC, 0)).last
        assert await broker.prune(TOPIC, 0, later(), 3) == 3
        assert positions(await self.everything(broker)) == [4, 5, 6, 7, 8, 9, 10]
        assert await broker.prune(TOPIC, 0, later(), 4) == 4
        assert positions(await self.everything(broker)) == [8, 9, 10]
        first, same_last = await broker.bounds(TOPIC, 0)
        assert first == (await self.everything(broker))[0].offset
        assert same_last == last
        assert positions(await self.everything(broker, partition=1)) == [11, 12]

    async def test_pruning_spares_what_is_young(self, broker: Broker) -> None:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        assert await broker.prune(TOPIC, 0, time.time() - 3600, 100) == 0
        assert positions(await self.everything(broker)) == [1, 2, 3, 4, 5]

    async def test_pruning_everything_keeps_the_last_offset(self, broker: Broker) -> None:
        self.needs_pruning()
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 5))
        assert await broker.prune(TOPIC, 0, later(), 100) == 5
        assert await broker.prune(TOPIC, 0, later(), 100) == 0
        assert tuple(await broker.bounds(TOPIC, 0)) == (last + 1, last)
        assert list(await read(broker, TOPIC, 0, 0, 10, 0.0)) == []
        assert await broker.append(TOPIC, 0, SOURCE, entries(6, 1)) > last
        assert positions(await self.everything(broker)) == [6]

    async def test_a_reader_below_what_was_pruned_goes_on_with_what_is_left(self, broker: Broker) -> None:
        self.needs_pruning()
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
        await broker.prune(TOPIC, 0, later(), 6)
        assert positions(await self.read_through(broker, last, after=2)) == [7, 8, 9, 10]

    # --- several brokers, restarts

    async def test_what_was_appended_is_there_after_close_and_open(self) -> None:
        if not self.capabilities.survives_restart:
            pytest.skip("capabilities.survives_restart is false")
        async with self.opened() as broker:
            last = await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
            pruned_last = await broker.append(TOPIC, 1, SOURCE, entries(11, 5))
            pruned = await broker.prune(TOPIC, 1, later(), 100)
            assert pruned == (5 if self.capabilities.prunes else 0)
        async with self.opened() as broker:
            assert await broker.partitions(TOPIC) == 2
            assert positions(await self.everything(broker)) == list(range(1, 11))
            assert await broker.append(TOPIC, 0, SOURCE, entries(11, 1)) > last
            assert await broker.append(TOPIC, 1, SOURCE, entries(16, 1)) > pruned_last
            assert positions(await self.everything(broker, partition=1)) == [*range(11 + pruned, 17)]

    async def test_a_log_exists_once_it_has_a_topic_and_asking_makes_none(self) -> None:
        looking = await self.make_broker()
        assert await looking.exists() == await looking.exists()
        async with self.opened():
            assert await looking.exists()

    async def test_a_broker_opens_again_after_it_was_closed(self) -> None:
        broker = await self.make_broker()
        for position in (1, 2):
            await broker.open()
            try:
                await broker.ensure_topic(TOPIC, 1)
                last = await broker.append(TOPIC, 0, SOURCE, entries(position, 1))
                assert positions(await self.read_through(broker, last, after=last - 1)) == [position]
            finally:
                await broker.close()

    # --- what records may hold

    async def test_a_foreign_cloudevent_without_a_chain_is_carried_faithfully(self, broker: Broker) -> None:
        envelope = Envelope(
            id="A234-1234-1234",
            type="com.example.someevent",
            time="2018-04-05T17:31:00Z",
            correlation_id="flow-1",
            causation_id="cause-1",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            content_type="text/xml",
            extensions={"comexampleextension1": "value", "othervalue": "5"},
        )
        foreign = OutboxRecord(TOPIC, 0, "subject", encode_envelope(envelope), b"<much wow='xml'/>")
        await broker.append(TOPIC, 0, "/mycontext", [foreign])
        [message] = await self.everything(broker)
        assert isinstance(message, Message)
        assert (message.position, message.previous, message.source) == (0, 0, "/mycontext")
        assert message.envelope == envelope
        assert (message.key, message.data) == ("subject", b"<much wow='xml'/>")

    async def test_the_seal_of_a_record_comes_back_and_what_it_covers(self, broker: Broker) -> None:
        """Not a byte of what a checksum and a signature cover may change, whatever the attributes hold."""
        trust = Trust(keys=(Key("orders", "k1", "x" * 40),), signed=True)
        plain, rich = Envelope("1", "t"), Envelope(
            "ü/2", "T .v1", "2024-01-01T00:00:00Z", "flow 1", 'cause "1"', "00-0a-0b-01",
            extensions={"a": "% é", "b": " x "},
        )  # fmt: skip
        written = [OutboxRecord(TOPIC, 0, "k %25", encode_envelope(each), b"\x00d") for each in (plain, rich)]
        for number, record in enumerate(written, 1):
            record.position, record.previous = number, number - 1
        signs = (None, trust.signer("orders"))
        entries = [sealed(TOPIC, 0, "orders/1", each, sign) for each in written for sign in signs]
        await broker.append(TOPIC, 0, "orders/1", entries)
        found = await self.everything(broker)
        assert [each.envelope.crc for each in found if isinstance(each, Message)] == [
            decode_envelope(each.envelope).crc for each in entries
        ]
        assert [damage(each) for each in found if isinstance(each, Message)] == [""] * 4
        refused = [trust.refusal(each, signed_bytes) for each in found if isinstance(each, Message)]
        assert refused == ["it is not signed", ""] * 2

    async def test_keys_of_any_text_come_back(self, broker: Broker) -> None:
        keys = ["", " ", "a" * 1000, "Straße 1", "顧客-42", "🛒", "a\nb\tc", "o'neil\"; --", "é", "e\u0301"]
        await broker.append(
            TOPIC, 0, "bestellungen-ü/1", [entry(number, key=key) for number, key in enumerate(keys, 1)]
        )
        records = await self.everything(broker)
        assert [record.key for record in records] == keys
        assert {record.source for record in records if isinstance(record, Message)} == {"bestellungen-ü/1"}

    async def test_any_data_comes_back_empty_binary_or_a_megabyte(self, broker: Broker) -> None:
        bodies = [b"", b"\x00", bytes(range(256)), b"\xff\xfe", b'{"a":' + b"x" * 1024 * 1024]
        await broker.append(TOPIC, 0, SOURCE, [entry(number, data=body) for number, body in enumerate(bodies, 1)])
        assert [record.data for record in await self.everything(broker)] == bodies

    async def test_large_positions_come_back(self, broker: Broker) -> None:
        await broker.append(TOPIC, 0, SOURCE, [entry(2**62, previous=2**62 - 7)])
        [message] = await self.everything(broker)
        assert isinstance(message, Message)
        assert (message.position, message.previous) == (2**62, 2**62 - 7)

    async def test_garbage_comes_with_its_offset_and_stops_nobody(self, broker: Broker) -> None:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
        await self.inject_garbage(broker, TOPIC, 0)
        await broker.append(TOPIC, 0, SOURCE, entries(2, 1))
        before, garbage, behind = await self.everything(broker)
        assert isinstance(garbage, Garbage)
        assert (garbage.topic, garbage.partition) == (TOPIC, 0)
        assert before.offset < garbage.offset < behind.offset
        assert garbage.reason
        assert positions([before, behind]) == [1, 2]
