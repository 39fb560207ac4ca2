"""The NATS adapter and a real server: strangers, holes, what a server refuses or drops, loss and return, secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from servers import NatsServer
from servers.base import free_port
from tests.unit.brokers.opened import with_topic

from ensue.brokers.nats import NatsBroker
from ensue.conformance.broker import SOURCE, TOPIC, entries, entry, positions, read
from ensue.errors import BrokerUnavailable, TopicMismatch, UsageError
from ensue.message import Garbage, Message

LIMIT_S = 20.0


def opened(url: str, partitions: int = 1) -> AbstractAsyncContextManager[NatsBroker]:
    return with_topic(NatsBroker(url), partitions)


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def url(nats_server: NatsServer, prefix: str) -> str:
    return f"{nats_server.url()}?prefix={prefix}&timeout_s=3"


@asynccontextmanager
async def stranger(server: NatsServer, **options: Any) -> AsyncIterator[Client]:
    """A program of somebody else's, which uses nats-py."""
    client = await nats.connect(server.url(), **options)
    try:
        yield client
    finally:
        await client.close()


async def everything(broker: NatsBroker) -> list[Message | Garbage]:
    found: list[Message | Garbage] = []
    last = (await broker.bounds(TOPIC, 0)).last
    async with asyncio.timeout(LIMIT_S):
        while not found or found[-1].offset < last:
            found += await read(broker, TOPIC, 0, found[-1].offset if found else 0, 500, LIMIT_S)
    return found


# --- strangers


async def test_a_strangers_events_in_both_modes_are_read_and_anything_else_is_garbage(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    attributes = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.paid", "subject": "c-1"}
    async with opened(url) as broker, stranger(nats_server) as client:
        jetstream, subject = client.jetstream(), f"{prefix}.{TOPIC}.0"
        binary = {f"ce-{name}": value for name, value in attributes.items()} | {"content-type": "text/plain"}
        await jetstream.publish(subject, b"hello", headers=binary | {"ce-note": "Stra%C3%9Fe%201"})
        await jetstream.publish(subject, json.dumps(attributes | {"data": {"n": 1}}).encode(), headers={
            "Content-Type": "application/cloudevents+json"})  # fmt: skip
        await jetstream.publish(subject, b"nothing of this kind")
        await jetstream.publish(subject, b"x", headers={"ce-id": "1"})
        one, two, three, four = await everything(broker)
        assert isinstance(one, Message)
        assert isinstance(two, Message)
        assert (one.id, one.source, one.type, one.key, one.position) == ("1", "/shop", "com.example.paid", "c-1", 0)
        assert (one.data, one.envelope.content_type, two.data) == (b"hello", "text/plain", b'{"n": 1}')
        assert one.envelope.extensions == {"subject": "c-1", "note": "Straße 1"}
        assert isinstance(three, Garbage)
        assert isinstance(four, Garbage)
        assert "ce-specversion" in four.reason


async def test_a_stranger_reads_our_records_as_cloudevents(nats_server: NatsServer, url: str, prefix: str) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        await broker.append(TOPIC, 0, SOURCE, [entry(1, key="Straße 1", data=b'{"a":1}')])
        subscription = await client.jetstream().subscribe(f"{prefix}.{TOPIC}.*", ordered_consumer=True)
        message = await subscription.next_msg(timeout=LIMIT_S)
        assert message.data == b'{"a":1}'
        assert message.headers == {
            "ce-specversion": "1.0", "ce-id": "id-1", "ce-source": "orders/1", "ce-type": "OrderCreated",
            "ce-time": "2024-01-01T00:00:00Z", "ce-partitionkey": "Stra%C3%9Fe%201", "ce-ensuepartition": "0",
            "ce-ensueposition": "1", "ce-ensueprevious": "0", "content-type": "application/json",
        }  # fmt: skip


# --- holes and retention


async def test_deleted_records_are_not_waited_for_wherever_they_were(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
        for sequence in (1, 4, 5, 10):
            await client.jetstream().delete_msg(f"{prefix}-{TOPIC}-0", sequence)
        found: list[Message | Garbage] = []
        async with asyncio.timeout(LIMIT_S):
            while len(found) < 6:
                found += await read(broker, TOPIC, 0, found[-1].offset if found else 0, 100, LIMIT_S)
        assert positions(found) == [2, 3, 6, 7, 8, 9]
        started = time.monotonic()
        assert not await read(broker, TOPIC, 0, 9, 100, 0.0)
        assert time.monotonic() - started < LIMIT_S / 4
        assert tuple(await broker.bounds(TOPIC, 0)) == (2, 10)


async def test_a_prune_counts_records_and_not_the_holes_between_them(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 12))
        for sequence in (2, 3, 4, 8):
            await client.jetstream().delete_msg(f"{prefix}-{TOPIC}-0", sequence)
        later = time.time() + 60
        assert await broker.prune(TOPIC, 0, later, 3) == 3
        assert positions(await everything(broker)) == [7, 9, 10, 11, 12]
        assert await broker.prune(TOPIC, 0, later, 2) == 2
        assert positions(await everything(broker)) == [10, 11, 12]
        assert await broker.prune(TOPIC, 0, later, 100) == 3
        assert (await broker.bounds(TOPIC, 0)).last == 12


async def test_a_prune_goes_by_the_time_of_each_append(url: str) -> None:
    async with opened(url) as broker:
        times = []
        for first in range(1, 22, 3):
            await broker.append(TOPIC, 0, SOURCE, entries(first, 3))
            await asyncio.sleep(0.02)
            times.append(time.time())
            await asyncio.sleep(0.02)
        pruned = 0
        for number in (0, 3, 3, 5):
            pruned += await broker.prune(TOPIC, 0, times[number], 100)
            assert pruned == 3 * (number + 1)
            assert positions(await everything(broker)) == list(range(pruned + 1, 22))


# --- what a server refuses, drops, or keeps for somebody else


async def test_a_setting_that_an_old_server_drops_without_a_word_is_an_error(url: str) -> None:
    async with stranger_version(url) as version:
        if version >= (2, 10):
            pytest.skip("this server knows compression")
    async with opened(f"{url}&compression=s2", partitions=0) as broker:
        with pytest.raises(UsageError, match=r"compression: asked for 's2', came back None.*too old"):
            await broker.ensure_topic(TOPIC, 1)


@asynccontextmanager
async def stranger_version(url: str) -> AsyncIterator[tuple[int, int]]:
    client = await nats.connect(url.partition("?")[0])
    version = client.connected_server_version
    await client.close()
    yield version.major, version.minor


async def test_a_stream_of_somebody_else_is_left_alone(nats_server: NatsServer, url: str, prefix: str) -> None:
    async with stranger(nats_server) as client, opened(url, partitions=0) as broker:
        await client.jetstream().add_stream(name=f"{prefix}-{TOPIC}-0", subjects=[f"{prefix}.else"])
        with pytest.raises(UsageError, match="not Ensue's"):
            await broker.ensure_topic(TOPIC, 1)


async def test_a_subject_that_another_stream_keeps_is_an_error_that_names_it(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with stranger(nats_server) as client, opened(url) as broker:
        await client.jetstream().delete_stream(f"{prefix}-{TOPIC}-0")
        await client.jetstream().add_stream(name=f"{prefix}all", subjects=[f"{prefix}.>"])
        with pytest.raises(UsageError, match=f"kept by stream {prefix}all"):
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))


async def test_a_topic_cannot_be_made_where_another_stream_keeps_its_subject(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with stranger(nats_server) as client, opened(url, partitions=0) as broker:
        await client.jetstream().add_stream(name=f"{prefix}all", subjects=[f"{prefix}.{TOPIC}.1"])
        with pytest.raises(UsageError, match=rf"{prefix}-{TOPIC}-1 cannot be made: .* belongs to stream {prefix}all"):
            await broker.ensure_topic(TOPIC, 3)


async def test_services_that_start_together_make_the_same_topics(url: str) -> None:
    """While one makes a stream, the server tells the other that its subject is taken: one topic in a hundred."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(opened(url, partitions=0)) for _ in range(6)]
        for round_ in range(40):
            await asyncio.gather(*(broker.ensure_topic(f"race-{round_}", 8) for broker in brokers))
        assert await brokers[0].topics() == {f"race-{round_}": 8 for round_ in range(40)}


async def test_a_record_that_is_too_large_is_refused_with_both_sizes_and_nothing_is_sent(url: str) -> None:
    async with opened(url) as broker:
        with pytest.raises(UsageError, match="max_payload"):
            await broker.append(TOPIC, 0, SOURCE, [entry(1), entry(2, data=b"x" * (8 << 20))])
        assert (await broker.bounds(TOPIC, 0)).last == 0
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))


async def test_a_full_stream_is_unavailable_and_loses_nothing(nats_server: NatsServer, url: str, prefix: str) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        jetstream = client.jetstream()
        info = await jetstream.stream_info(f"{prefix}-{TOPIC}-0")
        await jetstream.update_stream(info.config, max_msgs=5, discard="new")
        with pytest.raises(BrokerUnavailable, match="maximum messages exceeded"):
            await broker.append(TOPIC, 0, SOURCE, entries(1, 10))
        assert positions(await everything(broker)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("topic", ["a.b", "a", "a.0", "ü ber", "a*", "x>", "..", "a=b", "$sys"])
async def test_any_name_of_a_topic_is_kept_apart_from_every_other(url: str, topic: str) -> None:
    others = ["a", "a.b", "a-b", "a=2Eb", "ü"]
    async with opened(url, partitions=0) as broker:
        for number, name in enumerate([topic, *(other for other in others if other != topic)], 1):
            await broker.ensure_topic(name, 1)
            await broker.append(name, 0, SOURCE, entries(number, 1))
        assert positions(await read(broker, topic, 0, 0, 10, LIMIT_S)) == [1]
        assert set(await broker.topics()) == {topic, *others}


async def test_a_topic_whose_first_stream_is_gone_still_knows_its_partitions(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with opened(url, partitions=3) as broker, stranger(nats_server) as client:
        await client.jetstream().delete_stream(f"{prefix}-{TOPIC}-0")
        async with opened(url, partitions=0) as other:
            assert await other.partitions(TOPIC) == 3
            assert await other.topics() == {TOPIC: 3}
            with pytest.raises(TopicMismatch):
                await other.ensure_topic(TOPIC, 4)
            assert await other.partitions(TOPIC) == 3
        with pytest.raises(BrokerUnavailable, match="lost the stream"):
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))


# --- loss and return


async def test_a_stream_that_is_gone_is_told_by_every_call_and_made_again(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        for call in (
            lambda: broker.append(TOPIC, 0, SOURCE, entries(1, 3)),
            lambda: broker.bounds(TOPIC, 0),
            lambda: broker.prune(TOPIC, 0, time.time(), 5),
            lambda: read(broker, TOPIC, 0, 0, 5, LIMIT_S),
        ):
            await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
            await client.jetstream().delete_stream(f"{prefix}-{TOPIC}-0")
            with pytest.raises(BrokerUnavailable, match="lost the stream"):
                await call()
            with pytest.raises(BrokerUnavailable, match="lost the stream"):
                await broker.bounds(TOPIC, 0)
            await broker.ensure_topic(TOPIC, 1)


async def test_a_waiting_reader_whose_consumer_is_lost_gets_another_and_misses_nothing(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with opened(url) as broker, stranger(nats_server) as client:
        reader = broker.reader(TOPIC, 0, 0)
        reading = asyncio.create_task(reader.read(5, LIMIT_S))
        jetstream, stream = client.jetstream(), f"{prefix}-{TOPIC}-0"
        async with asyncio.timeout(LIMIT_S):
            while not (consumers := await jetstream.consumers_info(stream)):
                pass
            await jetstream.delete_consumer(stream, consumers[0].name)
            await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
            assert positions(await reading) == [1]
            # One that nobody reads from at the time, as after a handler that took longer than the server waits.
            for consumer in await jetstream.consumers_info(stream):
                await jetstream.delete_consumer(stream, consumer.name)
            await broker.append(TOPIC, 0, SOURCE, entries(2, 1))
            assert positions(await reader.read(5, 0.0)) == [2]


async def consumers_of(jetstream: Any, stream: str) -> int:
    """How many there are: their list has a hole where the server deletes one meanwhile, unreadable to the client."""
    return int((await jetstream.stream_info(stream)).state.consumer_count)


async def test_readers_have_one_consumer_each_and_leave_none_behind(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    async with stranger(nats_server) as client:
        jetstream = client.jetstream()
        async with opened(url) as broker:
            await broker.append(TOPIC, 0, SOURCE, entries(1, 20))
            kept = broker.reader(TOPIC, 0, 0)
            for after in range(15):
                assert positions(await read(broker, TOPIC, 0, after, 1, LIMIT_S)) == [after + 1]
                assert positions(await kept.read(1, LIMIT_S)) == [after + 1]
            async with asyncio.timeout(LIMIT_S):
                while await consumers_of(jetstream, f"{prefix}-{TOPIC}-0") > 1:
                    pass
            assert await kept.read(1, LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            while await consumers_of(jetstream, f"{prefix}-{TOPIC}-0"):
                pass


async def test_a_server_that_is_down_is_unavailable_within_bounds_and_shows_no_secret() -> None:
    broker = NatsBroker(f"nats://shop:s3cret@127.0.0.1:{free_port()},127.0.0.1:{free_port()}?timeout_s=2")
    for ask in (broker.open, broker.exists):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="cannot be reached") as caught:
            await ask()
        assert time.monotonic() - started < 5
        assert "s3cret" not in str(caught.value)
    await broker.close()


async def for_ever(call: Callable[[], Awaitable[object]]) -> None:
    """Until it fails: a stop signal may take a moment to reach all threads of a server."""
    while True:
        await call()


async def test_a_server_that_stands_still_is_unavailable_within_bounds(start: Callable[..., Any]) -> None:
    server: NatsServer = start(NatsServer)
    async with opened(f"{server.url()}?timeout_s=1") as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        server.pause()
        try:
            for call in (
                lambda: broker.append(TOPIC, 0, SOURCE, entries(4, 3)),
                lambda: broker.bounds(TOPIC, 0),
                lambda: read(broker, TOPIC, 0, last, 5, 0.0),
                lambda: broker.ensure_topic("new", 1),
                lambda: broker.topics(),
            ):
                async with asyncio.timeout(8):
                    with pytest.raises(BrokerUnavailable):
                        await for_ever(call)
        finally:
            server.resume()
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await broker.append(TOPIC, 0, SOURCE, entries(4, 1))
                    break
                except BrokerUnavailable:
                    continue


async def test_after_a_kill_the_same_broker_goes_on_where_it_was(start: Callable[..., Any]) -> None:
    server: NatsServer = start(NatsServer)
    async with opened(f"{server.url()}?timeout_s=2") as broker:
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        reading = asyncio.create_task(read(broker, TOPIC, 0, last, 5, LIMIT_S))
        await asyncio.sleep(0.05)  # time to begin to wait
        await asyncio.to_thread(server.kill)
        with pytest.raises(BrokerUnavailable):
            await reading
        with pytest.raises(BrokerUnavailable):
            await broker.append(TOPIC, 0, SOURCE, entries(4, 1))
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    await broker.append(TOPIC, 0, SOURCE, entries(4, 1))
                    break
                except BrokerUnavailable:
                    continue
            assert positions(await everything(broker))[-1] == 4


async def test_a_cancelled_call_leaves_nothing_behind(url: str) -> None:
    async with opened(url, partitions=2) as broker:
        wire = await broker._link.wire()
        for turns in range(12):
            for call in (
                broker.append(TOPIC, 0, SOURCE, entries(1, 300)),
                read(broker, TOPIC, 1, turns, 5, LIMIT_S),
                broker.bounds(TOPIC, 0),
            ):
                task = asyncio.ensure_future(call)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait((task,))
            reader = broker.reader(TOPIC, 1, 0)
            reading = asyncio.create_task(reader.read(5, LIMIT_S))
            for _ in range(turns):
                await asyncio.sleep(0)
            await reader.close()
            await asyncio.gather(reading, return_exceptions=True)
        assert not wire.answers
        assert not wire.subscriptions
        assert await broker._link.wire() is wire


async def test_many_waiting_readers_cost_the_server_next_to_nothing(
    nats_server: NatsServer, url: str, prefix: str
) -> None:
    """Readers of 24 partitions that wait a second send a handful of messages each, however long nothing happens."""
    async with opened(url, partitions=24) as broker:
        readers = [broker.reader(TOPIC, number, 0) for number in range(24)]
        await asyncio.gather(*(reader.read(10, 0.0) for reader in readers))
        before = nats_server.monitored("/varz")["in_msgs"]
        await asyncio.gather(*(reader.read(10, 1.0) for reader in readers))
        assert nats_server.monitored("/varz")["in_msgs"] - before < 24 * 3


# --- who may connect


@pytest.mark.parametrize("kind", ["user and password", "token"])
async def test_credentials_are_sent_and_wrong_ones_named_without_showing_them(
    start: Callable[..., Any], kind: str
) -> None:
    secret = "s3:cr@t/%"
    if kind == "token":
        setting, right = f'authorization {{ token: "{secret}" }}', "s3%3Acr%40t%2F%25@"
    else:
        setting, right = f'authorization {{ user: shop, password: "{secret}" }}', "shop:s3%3Acr%40t%2F%25@"
    server: NatsServer = start(NatsServer, settings=[setting])
    place = server.url().removeprefix("nats://")
    async with opened(f"nats://{right}{place}") as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
    for wrong in ("", "shop:wr0ng@", "wr0ng@"):
        with pytest.raises(BrokerUnavailable, match=r"(?i)authorization|authentication") as caught:
            await NatsBroker(f"nats://{wrong}{place}?timeout_s=2").open()
        assert "wr0ng" not in str(caught.value)


def certificates(directory: Path) -> None:
    """A certificate authority of our own, and a certificate for localhost that it signed."""
    for command in (
        "-x509 -days 1 -subj /CN=test-ca -keyout ca.key -out ca.pem",
        "-subj /CN=localhost -keyout server.key -out server.csr",
    ):
        new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        subprocess.run(["openssl", *f"{new} {command}".split()], cwd=directory, check=True, capture_output=True)
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names -out server.pem"
    subprocess.run(["openssl", *sign.split()], cwd=directory, check=True, capture_output=True)


async def test_tls_is_spoken_with_a_server_that_the_given_authority_vouches_for(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    certificates(tmp_path)
    server: NatsServer = start(
        NatsServer, settings=[f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}']
    )
    for scheme in ("tls", "nats"):  # the server asks for it
        async with opened(f"{scheme}://127.0.0.1:{server.port}?tls_ca={tmp_path}/ca.pem&prefix={scheme}") as broker:
            await broker.append(TOPIC, 0, SOURCE, [*entries(1, 300), entry(301, data=b"x" * (1 << 20))])
            assert positions(await everything(broker)) == list(range(1, 302))
    with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
        await NatsBroker(f"tls://127.0.0.1:{server.port}?timeout_s=3").open()
    with pytest.raises(UsageError, match="TLS files"):
        await NatsBroker(f"tls://127.0.0.1:{server.port}?tls_ca={tmp_path}/none.pem").open()


async def test_tls_is_insisted_on_when_the_url_says_so(nats_server: NatsServer) -> None:
    with pytest.raises(BrokerUnavailable, match="no TLS"):
        await NatsBroker(f"tls://127.0.0.1:{nats_server.port}?timeout_s=2").open()


async def test_a_server_without_jetstream_is_told_from_one_that_is_down(start: Callable[..., Any]) -> None:
    server: NatsServer = start(NatsServer, settings=[
        "accounts: { A: { users: [ { user: a, password: a } ] } }"])  # fmt: skip
    with pytest.raises(BrokerUnavailable, match="JetStream"):
        await NatsBroker(f"nats://a:a@127.0.0.1:{server.port}?timeout_s=2").open()


async def test_a_creds_file_signs_the_servers_nonce(start: Callable[..., Any], tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys", reason="creds files need nkeys (pip install nkeys)")

    def pair(kind: int) -> Any:
        return nkeys.from_seed(nkeys.encode_seed(secrets.token_bytes(32), kind))

    def token(issuer: Any, subject: Any, claims: dict[str, Any]) -> str:
        def part(value: object) -> bytes:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

        body = {"jti": secrets.token_hex(8), "iat": int(time.time()), "iss": issuer.public_key.decode(),
                "sub": subject.public_key.decode(), "name": "test", "nats": claims | {"version": 2}}  # fmt: skip
        signed = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(body)
        return (signed + b"." + base64.urlsafe_b64encode(issuer.sign(signed)).rstrip(b"=")).decode()

    operator, account, user = pair(nkeys.PREFIX_BYTE_OPERATOR), pair(nkeys.PREFIX_BYTE_ACCOUNT), pair(20 << 3)
    system = pair(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    storage = ("mem_storage", "disk_storage", "streams", "consumer")
    plain = dict.fromkeys(limits, -1) | {"wildcards": True}
    account_token = token(operator, account, {"type": "account", "limits": plain | dict.fromkeys(storage, -1)})
    system_token = token(operator, system, {"type": "account", "limits": plain})
    server: NatsServer = start(NatsServer, settings=[
        f"operator: {token(operator, operator, {'type': 'operator'})}", "resolver: MEMORY",
        f"system_account: {system.public_key.decode()}",
        f"resolver_preload: {{ {account.public_key.decode()}: {account_token}",
        f"{system.public_key.decode()}: {system_token} }}"])  # fmt: skip
    creds = tmp_path / "user.creds"
    creds.write_text(
        "-----BEGIN NATS USER JWT-----\n"
        + token(account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
        + "\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n"
        + user.seed.decode()
        + "\n------END USER NKEY SEED------\n"
    )
    place = f"{server.url()}?timeout_s=3"
    async with opened(f"{place}&creds={creds}") as broker:
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
    with pytest.raises(BrokerUnavailable, match=r"(?i)authorization"):
        await NatsBroker(place).open()
    creds.write_text("nothing of this kind")
    with pytest.raises(UsageError, match="JWT and its seed"):
        await NatsBroker(f"{place}&creds={creds}").open()
