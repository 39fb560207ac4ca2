"""Which NATS server a connection leads to: those of the URL, those that a cluster tells of, not one that is to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from servers import NatsServer
from servers.base import Server
from servers.certificates import certificates
from tests.conftest import required

from ensue.brokers.nats import NatsBroker
from ensue.brokers.nats.link import Link
from ensue.brokers.nats.options import parse_nats_url
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable, UsageError

LIMIT_S = 20.0


async def test_a_server_that_is_about_to_stop_is_left_for_another_and_still_answers_what_it_was_asked(
    start: Callable[..., Any],
) -> None:
    old_server, new_server = start(NatsServer), start(NatsServer)
    link = Link(parse_nats_url(f"nats://127.0.0.1:{old_server.port},127.0.0.1:{new_server.port}?timeout_s=5"))
    await link.open()
    client = await nats.connect(old_server.url())
    try:
        old = await link.wire()
        asked: asyncio.Queue[Any] = asyncio.Queue()
        await client.subscribe("question", cb=asked.put)
        await client.flush()
        answer = asyncio.create_task(old.request("question", b"", LIMIT_S))
        async with asyncio.timeout(LIMIT_S):
            question = await asked.get()
            os.kill(old_server.pid, signal.SIGUSR2)  # lame duck mode: ten seconds of grace, then it closes connections
            while not old.leaving:
                await old.ping()
            while (new := await link.wire()) is old:
                await old.ping()
            await question.respond(b"still here")
            assert (await answer)[1] == b"still here"
        assert (old.address, new.address) == (f"127.0.0.1:{old_server.port}", f"127.0.0.1:{new_server.port}")
        assert old.alive
    finally:
        await client.close()
        await link.close()
    assert not old.alive


async def test_a_single_server_that_is_about_to_stop_is_used_until_it_has(start: Callable[..., Any]) -> None:
    server: NatsServer = start(NatsServer)
    broker = NatsBroker(f"{server.url()}?timeout_s=5")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
        wire = await broker._link.wire()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGUSR2)
        async with asyncio.timeout(LIMIT_S):
            while not wire.leaving:
                await wire.ping()
        assert await broker._link.wire() is wire
    finally:
        await broker.close()


async def test_a_reader_goes_on_at_the_other_server(nats_cluster: Any) -> None:
    broker = NatsBroker(f"{nats_cluster.url()}?prefix=t{secrets.token_hex(6)}&timeout_s=10")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        reader = broker.reader(TOPIC, 0, 0)
        assert positions(await reader.read(2, 10.0)) == [1, 2]
        old = await broker._link.wire()
        old.leaving = True  # as if it had said so
        async with asyncio.timeout(LIMIT_S):
            while await broker._link.wire() is old:
                await old.ping()
            assert positions(await reader.read(2, 10.0)) == [3]
        assert reader._cursor is not None
        assert reader._cursor.wire is not old
        assert (await broker._link.wire()).address != old.address
    finally:
        await broker.close()


def certified(directory: Path, names: str) -> str:
    """A server's setting: a certificate for these names, of the one authority of the directory."""
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    server = Signer(directory)
    made = certificates(server)
    for each in ("server.csr", "server.pem"):
        (directory / each).unlink()
    (directory / "names").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
    key = directory / f"{secrets.token_hex(4)}.key"
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server"
    server.run("openssl", *f"{new} -keyout {key} -out server.csr".split())
    sign = f"x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -out {key}.pem"
    server.run("openssl", *f"{sign} -extfile names".split())
    (directory / "server.pem").touch()  # the authority stays when the next one is made
    assert made.authority.exists()
    return f'tls {{ cert_file: "{key}.pem", key_file: "{key}" }}'


class Signer(Server):
    name = "signer"
    program = "openssl"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._account = {}


@pytest.mark.parametrize(("names", "followed"), [("IP:127.0.0.1", True), ("DNS:localhost", False)])
async def test_with_tls_a_host_that_a_cluster_tells_of_must_have_a_certificate_for_the_name_in_the_url(
    start: Callable[..., Any], tmp_path: Path, names: str, followed: bool
) -> None:
    """Who tells of hosts does it in plain text, so a host's own name, which is in its certificate, proves nothing."""
    first: NatsServer = start(NatsServer, settings=[certified(tmp_path, "IP:127.0.0.1")])
    told: NatsServer = start(NatsServer, settings=[certified(tmp_path, names)])
    link = Link(parse_nats_url(f"nats://127.0.0.1:{first.port}?tls_ca={tmp_path}/authority.pem&timeout_s=4"))
    await link.open()
    try:
        wire = await link.wire()
        wire.info["connect_urls"] = [f"localhost:{told.port}"]
        first.kill()
        async with asyncio.timeout(LIMIT_S):
            await wire._gone.wait()
        if followed:
            assert (await link.wire()).address == f"localhost:{told.port}"
        else:
            with pytest.raises(BrokerUnavailable, match=f"localhost:{told.port}: .*certificate"):
                await link.wire()
    finally:
        await link.close()


async def test_an_nkey_file_signs_the_servers_nonce(start: Callable[..., Any], tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys", reason="nkey files need nkeys (pip install nkeys)")
    users = [nkeys.from_seed(nkeys.encode_seed(secrets.token_bytes(32), 20 << 3)) for _ in range(2)]
    server: NatsServer = start(
        NatsServer, settings=[f"authorization {{ users = [ {{ nkey: {users[0].public_key.decode()} }} ] }}"]
    )
    seed = tmp_path / "orders.nk"
    seed.write_text(f"# of the service orders\n{users[0].seed.decode()}\n")
    place = f"{server.url()}?timeout_s=3"
    broker = NatsBroker(f"{place}&nkey={seed}")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
        assert positions(await read(broker, TOPIC, 0, 0, 10, 5.0)) == [1]
    finally:
        await broker.close()
    seed.write_text(users[1].seed.decode())
    with pytest.raises(BrokerUnavailable, match=r"(?i)authorization"):
        await NatsBroker(f"{place}&nkey={seed}").open()
    seed.write_text(users[1].seed.decode()[:-3])
    with pytest.raises(UsageError, match="a user's seed in it") as caught:
        await NatsBroker(f"{place}&nkey={seed}").open()
    assert users[1].seed.decode()[:20] not in "".join(traceback.format_exception(caught.value))
