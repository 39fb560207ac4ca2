"""Applications that are not ours read our Kafka topics and write to them: plain confluent-kafka, and FastStream."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path
from typing import Any, cast

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer, Producer
from servers import KafkaServer
from tests.interop.shop_events import (
    PATIENCE_S,
    make_service,
    place_orders,
    printed_event,
    run_script,
    running,
    settled,
    wait_for_payment,
)

_numbers = itertools.count(1)


class Where:
    """A prefix of topics on the shared server, for one test."""

    def __init__(self, server: KafkaServer) -> None:
        self.servers = f"127.0.0.1:{server.port}"
        self.prefix = f"interop-{os.getpid()}-{next(_numbers)}."
        self.url = f"{server.url()}?timeout_s=30&prefix={self.prefix}"


@pytest.fixture
def where(kafka_server: KafkaServer) -> Where:
    return Where(kafka_server)


async def test_a_plain_consumer_reads_our_events_as_cloudevents(where: Where, tmp_path: Path) -> None:
    service = make_service(tmp_path, where.url)
    async with service.running():
        await place_orders(service, "order-1", "order-2")
        consumer = Consumer(
            {"bootstrap.servers": where.servers, "group.id": where.prefix, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([where.prefix + "orders"])
        found: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE_S
        while len(found) < 2 and time.monotonic() < until:
            record = await asyncio.to_thread(consumer.poll, 0.1)
            if record is None or record.error():
                continue
            headers = cast(dict[str, bytes], dict(record.headers() or []))
            event = from_binary(KafkaMessage(headers, record.key(), record.value() or b""), JSONFormat())
            if str(event.get_type()).startswith("ensue."):
                continue
            assert event.get_type() == "orders.OrderPlaced.v1"
            assert event.get_specversion() == "1.0"
            assert event.get_source().startswith("shop/")
            assert event.get_datacontenttype() == "application/json"
            assert event.get_time() is not None
            assert event.get_extension("partitionkey") == (record.key() or b"").decode()
            assert event.get_extension("ensuepartition") == str(record.partition())
            assert int(event.get_extension("ensueposition")) > int(event.get_extension("ensueprevious"))
            data: Any = event.get_data()
            found[data["order_id"]] = data
        consumer.close()
    assert found == {name: {"order_id": name, "total": "12.50"} for name in ("order-1", "order-2")}


async def test_the_reader_of_the_page_prints_our_events(where: Where, tmp_path: Path) -> None:
    service = make_service(tmp_path, where.url)
    async with service.running():
        await place_orders(service, "order-1")
        async with running("read_kafka.py", tmp_path, where.servers, where.prefix + "orders") as reader:
            line = await printed_event(reader)
    assert line.startswith("orders.OrderPlaced.v1 ")
    assert line.endswith('{"order_id":"order-1","total":"12.50"}')


async def test_an_event_that_another_application_wrote_twice_takes_effect_once(where: Where, tmp_path: Path) -> None:
    service = make_service(tmp_path, where.url)
    topic = where.prefix + "payments"
    async with service.running() as runtime:
        for _ in range(2):
            await run_script("write_kafka.py", tmp_path, where.servers, topic, "payment-1", "order-1")
        # Behind it in its partition, so that what came twice has been dealt with when this one takes effect.
        await run_script("write_kafka.py", tmp_path, where.servers, topic, "payment-2", "order-1")
        await run_script("write_kafka.py", tmp_path, where.servers, topic, "payment-3", "order-9")
        await wait_for_payment(service, "order-9")
        found = await settled(service, "order-1", 2)
        assert found == {"order-1": 2, "order-9": 1}
        assert not await runtime.store.dead_letters()


async def test_an_event_in_structured_mode_takes_effect_and_what_is_none_becomes_a_dead_letter(
    where: Where, tmp_path: Path
) -> None:
    service = make_service(tmp_path, where.url)
    async with service.running() as runtime:
        producer = Producer({"bootstrap.servers": where.servers})
        topic = where.prefix + "payments"
        producer.produce(topic, b"\x00\x01", partition=0)
        producer.produce(
            topic,
            b'{"specversion":"1.0","id":"p-1","source":"/elsewhere","type":"payments.PaymentReceived.v1",'
            b'"data":{"order_id":"order-5","amount":"1.00"}}',
            partition=0,
            headers={"content-type": "application/cloudevents+json"},
        )
        assert producer.flush(PATIENCE_S) == 0
        producer.close()
        assert await wait_for_payment(service, "order-5") == {"order-5": 1}
        [letter] = await runtime.store.dead_letters()
        assert "ce_specversion" in letter.error


async def test_faststream_reads_our_topics_without_anything_from_us(where: Where, tmp_path: Path) -> None:
    service = make_service(tmp_path, where.url)
    async with service.running():
        await place_orders(service, "order-1")
        async with running("faststream_kafka.py", tmp_path, where.servers, where.prefix + "orders") as reader:
            line = await printed_event(reader)
    assert line.startswith("orders.OrderPlaced.v1 ")
    assert line.endswith("{'order_id': 'order-1', 'total': '12.50'}")
