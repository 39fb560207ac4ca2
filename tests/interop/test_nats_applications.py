"""Applications that are not ours read our NATS streams and write to them: plain nats-py, and FastStream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from servers import NatsServer
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

from ensue.chain import partition_of


async def test_a_plain_client_reads_our_events_as_cloudevents(start: Callable[..., Any], tmp_path: Path) -> None:
    server: NatsServer = start(NatsServer)
    service = make_service(tmp_path, server.url())
    async with service.running():
        await place_orders(service, "order ü")
        connection = await nats.connect(server.url())
        subject = f"ensue.orders.{partition_of('order ü', 8)}"
        subscription = await connection.jetstream().subscribe(subject, ordered_consumer=True)
        message = await subscription.next_msg(timeout=PATIENCE_S)
        await connection.close()
    assert message.headers is not None
    # NATS's binding of CloudEvents is that of HTTP.
    event = from_binary(HTTPMessage(message.headers, message.data), JSONFormat())
    assert (event.get_type(), event.get_specversion()) == ("orders.OrderPlaced.v1", "1.0")
    assert event.get_source().startswith("shop/")
    assert event.get_data() == {"order_id": "order ü", "total": "12.50"}
    assert event.get_extension("partitionkey") == unquote(message.headers["ce-partitionkey"]) == "order ü"


async def test_the_reader_of_the_page_prints_our_events(start: Callable[..., Any], tmp_path: Path) -> None:
    server: NatsServer = start(NatsServer)
    service = make_service(tmp_path, server.url())
    async with service.running():
        await place_orders(service, "order-1")
        async with running("read_nats.py", tmp_path, server.url(), "orders") as reader:
            line = await printed_event(reader)
    assert line.startswith("orders.OrderPlaced.v1 ")
    assert line.endswith('{"order_id":"order-1","total":"12.50"}')


async def test_an_event_that_another_application_wrote_twice_takes_effect_once(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    server: NatsServer = start(NatsServer)
    service = make_service(tmp_path, server.url())
    async with service.running() as runtime:
        for payment, order in (("p-1", "order-1"), ("p-1", "order-1"), ("p-2", "order-1"), ("p-3", "order-9")):
            await run_script("write_nats.py", tmp_path, server.url(), "payments", payment, order)
        await wait_for_payment(service, "order-9")
        assert await settled(service, "order-1", 2) == {"order-1": 2, "order-9": 1}
        assert not await runtime.store.dead_letters()


async def test_faststream_reads_our_streams_without_anything_from_us(start: Callable[..., Any], tmp_path: Path) -> None:
    server: NatsServer = start(NatsServer)
    service = make_service(tmp_path, server.url())
    async with service.running():
        await place_orders(service, "order-1")
        async with running("faststream_nats.py", tmp_path, server.url(), "orders") as reader:
            line = await printed_event(reader)
    assert line.startswith("orders.OrderPlaced.v1 ")
    assert line.endswith("{'order_id': 'order-1', 'total': '12.50'}")
