"""A connection to RabbitMQ: several hosts in the URL, a certificate instead of a password."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import RabbitMqServer
from servers.base import free_port
from servers.certificates import certificates
from servers.tls_front import tls_in_front_of
from tests.conftest import required

from ensue.brokers.rabbitmq import RabbitMqBroker
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable, UsageError


def test_a_url_names_several_hosts_and_shows_no_password() -> None:
    settings = RabbitMqSettings.of("amqp://shop:s3cret@a,b:5673,[::1]/orders?timeout_s=2")
    assert settings.hosts == (("a", 5672), ("b", 5673), ("::1", 5672))
    assert (settings.user, settings.password) == ("shop", "s3cret")
    assert settings.place == "amqp://a:5672,b:5673,::1:5672/orders"
    assert "s3cret" not in repr(settings)
    assert RabbitMqSettings.of("amqp:///").hosts == (("localhost", 5672),)


async def test_the_next_host_is_taken_when_one_does_not_answer(rabbitmq_server: RabbitMqServer) -> None:
    nobody = free_port()
    place = f"amqp://guest:guest@127.0.0.1:{nobody},127.0.0.1:{rabbitmq_server.port}"
    broker = RabbitMqBroker(f"{place}/?timeout_s=20&prefix={secrets.token_hex(4)}.")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        assert positions(await read(broker, TOPIC, 0, 0, 10, 10.0)) == [1, 2, 3]
    finally:
        await broker.close()
    other = free_port()
    with pytest.raises(BrokerUnavailable) as caught:
        await RabbitMqBroker(f"amqp://guest:guest@127.0.0.1:{nobody},127.0.0.1:{other}/?timeout_s=4").open()
    assert str(nobody) in str(caught.value)
    assert str(other) in str(caught.value)


class RabbitMqForCertificates(RabbitMqServer):
    """With a second port that takes TLS alone, and the name in the client's certificate for the user's."""

    def prepare(self) -> None:
        self.secured = free_port()
        super().prepare()
        files = certificates(self)
        (self.directory / "enabled_plugins").write_text("[rabbitmq_stream,rabbitmq_auth_mechanism_ssl].\n")
        with (self.directory / "rabbitmq.conf").open("a") as settings:
            settings.write(
                f"listeners.ssl.1 = 127.0.0.1:{self.secured}\nssl_options.cacertfile = {files.authority}\n"
                f"ssl_options.certfile = {files.certificate}\nssl_options.keyfile = {files.key}\n"
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
                "auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN\nssl_cert_login_from = common_name\n"
            )
        self._own(self.directory)


@pytest.mark.slow
async def test_a_certificate_says_who_we_are(start: Callable[..., Any]) -> None:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    server: RabbitMqForCertificates = start(RabbitMqForCertificates)
    files = certificates(server)
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for name in ("guest", "nobody"):  # the first is a user of the server
        server.run("openssl", *f"{new} -subj /CN={name} -keyout {name}.key -out {name}.csr".split())
        sign = f"x509 -req -in {name}.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2"
        server.run("openssl", *f"{sign} -out {name}.pem".split())

    def by(name: str) -> RabbitMqBroker:
        mine = server.directory / name
        options = f"cafile={files.authority}&certfile={mine}.pem&keyfile={mine}.key&timeout_s=20"
        return RabbitMqBroker(f"amqps://127.0.0.1:{server.secured}/?mechanism=EXTERNAL&{options}")

    broker = by("guest")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 1))
    finally:
        await broker.close()
    with pytest.raises(UsageError, match="403"):
        await by("nobody").open()


async def test_a_server_that_takes_no_certificates_is_told_by_name(
    rabbitmq_server: RabbitMqServer, tmp_path: Path
) -> None:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    files = certificates(rabbitmq_server)
    async with tls_in_front_of(rabbitmq_server.port, files.certificate, files.key) as port:
        options = f"cafile={files.authority}&certfile={files.certificate}&keyfile={files.key}&timeout_s=20"
        with pytest.raises(UsageError, match=r"does not offer EXTERNAL here, but .*PLAIN"):
            await RabbitMqBroker(f"amqps://127.0.0.1:{port}/?mechanism=EXTERNAL&{options}").open()


@pytest.mark.parametrize("url", ["amqps://127.0.0.1/?mechanism=EXTERNAL", "amqps://a:b@h/?mechanism=external"])
def test_a_certificate_is_asked_for_where_it_must_say_who_we_are(url: str) -> None:
    with pytest.raises(UsageError, match="EXTERNAL"):
        RabbitMqBroker(url)
