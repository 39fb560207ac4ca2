"""TLS by URL, for the brokers on Redis and on RabbitMQ: through a proxy of our own that ends it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import RabbitMqServer, RedisServer
from servers.tls_front import tls_in_front_of

from ensue.adapters import make_broker
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable


class Certificate(NamedTuple):
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of 127.0.0.1, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate to test with")
    directory = tmp_path_factory.mktemp("tls")
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(made.key), "-out", str(made.certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


async def works(url: str) -> None:
    broker = make_broker(url)
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        last = await broker.append(TOPIC, 0, SOURCE, entries(1, 300))
        found = list(await read(broker, TOPIC, 0, 0, 300, 10.0))
        while found[-1].offset < last:
            found += await read(broker, TOPIC, 0, found[-1].offset, 300, 10.0)
        assert positions(found) == list(range(1, 301))
    finally:
        await broker.close()


async def test_redis_speaks_tls_and_checks_the_certificate(redis_server: RedisServer, signed: Certificate) -> None:
    async with tls_in_front_of(redis_server.port, *signed) as port:
        url = f"rediss://127.0.0.1:{port}/0?prefix={secrets.token_hex(6)}:"
        await works(f"{url}&ssl_ca_certs={signed.certificate}")
        with pytest.raises(BrokerUnavailable, match="certificate"):
            await make_broker(url).open()


async def test_rabbitmq_speaks_tls_and_checks_the_certificate(
    rabbitmq_server: RabbitMqServer, signed: Certificate
) -> None:
    async with tls_in_front_of(rabbitmq_server.port, *signed) as port:
        url = f"amqps://guest:guest@127.0.0.1:{port}/?prefix={secrets.token_hex(6)}."
        await works(f"{url}&cafile={signed.certificate}")
        with pytest.raises(BrokerUnavailable, match="certificate"):
            await make_broker(url).open()
