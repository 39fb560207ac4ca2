"""What a Kafka URL says: servers, options, TLS and SASL on a real listener, and that a password is never shown."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from servers import KafkaServer
from servers.base import free_port

from ensue.adapters import make_broker
from ensue.brokers.kafka import KafkaBroker
from ensue.brokers.kafka.settings import parse_kafka_url
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable, UsageError


def test_servers_get_the_usual_port() -> None:
    assert parse_kafka_url("kafka://a,b:9093,[::1]").servers == "a:9092,b:9093,[::1]:9092"


def test_options_and_properties_reach_librdkafka() -> None:
    settings = parse_kafka_url(
        "kafka://a:1?prefix=shop.&replication=3&timeout_s=5&max_message_bytes=2000000&conf.compression.type=zstd"
    )
    assert (settings.prefix, settings.replication, settings.timeout_s) == ("shop.", 3, 5)
    assert settings.producer()["compression.type"] == "zstd"
    assert settings.producer()["message.timeout.ms"] == 5000
    assert settings.producer()["message.max.bytes"] > 2_000_000


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://a", {"security.protocol": "plaintext"}),
        ("kafkas://a", {"security.protocol": "ssl"}),
        ("kafka://a?security=ssl&ca=/c.pem", {"security.protocol": "ssl", "ssl.ca.location": "/c.pem"}),
        (
            "kafkas://u%40x:p%2Fw@a?mechanism=SCRAM-SHA-256",
            {"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "u@x",
             "sasl.password": "p/w"},
        ),
        (
            "kafkas://a?certificate=/c.pem&key=/k.pem&key_password=s",
            {"security.protocol": "ssl", "ssl.certificate.location": "/c.pem", "ssl.key.location": "/k.pem",
             "ssl.key.password": "s"},
        ),
    ],
)  # fmt: skip
def test_security_follows_from_scheme_user_and_options(url: str, expected: dict[str, str]) -> None:
    assert parse_kafka_url(url).security == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://", "without a server"),
        ("kafka://u:s3cret@a?retention=1", "unknown option 'retention'"),
        ("kafka://u:s3cret@a?security=plaintext", "sasl_"),
        ("kafka://u:s3cret@a?security=tls", "'tls'"),
        ("kafka://u:s3cret@a?replication=0", "replication='0'"),
        ("kafka://u:s3cret@a?conf.acks=0", "acks cannot be set"),
        ("kafka://u:s3cret@a?conf.enable.idempotence=false", "enable.idempotence cannot be set"),
        ("kafka://u:s3cret@a?conf.auto.offset.reset=latest", "auto.offset.reset cannot be set"),
    ],
)
def test_a_url_that_cannot_be_is_refused_in_words_without_its_password(url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        KafkaBroker(url)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_property_that_librdkafka_does_not_know_is_told_at_open() -> None:
    broker = KafkaBroker("kafka://u:s3cret@127.0.0.1:1?conf.no.such.thing=1")
    with pytest.raises(UsageError, match=r"no\.such\.thing"):
        await broker.open()


def test_settings_do_not_show_a_password() -> None:
    assert "s3cret" not in repr(parse_kafka_url("kafka://u:s3cret@a?conf.sasl.oauthbearer.config=s3cret"))


async def test_an_older_library_is_told_at_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.brokers.kafka.broker.version", lambda _: "2.15.3")
    with pytest.raises(UsageError, match=r"2, 15, 3.*pip install"):
        await KafkaBroker("kafka://127.0.0.1:1").open()


class SecuredKafka(KafkaServer):
    """With a second listener that wants TLS and a password."""

    def prepare(self) -> None:
        fresh = not self.data.exists()
        super().prepare()
        if not fresh:
            return
        self.secured = free_port()
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed: no certificate for the TLS listener")
        self.ca = self.directory / "certificate.pem"
        key = self.directory / "key.pem"
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(self.ca),
             "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        (self.directory / "keystore.pem").write_text(key.read_text() + self.ca.read_text())
        path = self.directory / "server.properties"
        login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="s3cret";'
        lines = []
        for line in path.read_text().splitlines():
            if line.startswith(("listeners=", "advertised.listeners=")):
                line += f",SECURED://127.0.0.1:{self.secured}"
            lines.append(line)
        lines += [
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL",
            "listener.name.secured.sasl.enabled.mechanisms=PLAIN",
            f"listener.name.secured.plain.sasl.jaas.config={login}",
            "listener.name.secured.ssl.keystore.type=PEM",
            f"listener.name.secured.ssl.keystore.location={self.directory}/keystore.pem",
        ]
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
async def test_tls_and_a_password_by_url(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server: SecuredKafka = start(SecuredKafka)
    caplog.set_level(logging.DEBUG)
    options = f"ca={server.ca}&timeout_s=20"
    broker = make_broker(f"kafkas://shop:s3cret@127.0.0.1:{server.secured}?{options}")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 3))
        assert positions(await read(broker, TOPIC, 0, 0, 10, 30.0)) == [1, 2, 3]
    finally:
        await broker.close()
    wrong = make_broker(f"kafkas://shop:wr0ng@127.0.0.1:{server.secured}?ca={server.ca}&timeout_s=3")
    with pytest.raises(BrokerUnavailable) as caught:
        await wrong.open()
    await wrong.close()
    untrusted = make_broker(f"kafkas://shop:s3cret@127.0.0.1:{server.secured}?timeout_s=3")
    with pytest.raises(BrokerUnavailable) as distrusted:
        await untrusted.open()
    await untrusted.close()
    # librdkafka writes to standard error unless it is told not to.
    shown = [str(caught.value), str(distrusted.value), caplog.text, *capfd.readouterr()]
    assert not any(password in text for text in shown for password in ("s3cret", "wr0ng"))
    assert shown[-2:] == ["", ""]
