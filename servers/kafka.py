"""Kafka (KRaft, one node) from its jars on Maven Central, which `make servers` puts into .servers/kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from servers.base import Server, free_port, home, listens


class KafkaServer(Server):
    """advertised: the port that clients are told to connect to, when that is a proxy's. Set it before the start."""

    name = "kafka"
    program = "java"
    advertised: int | None = None
    ready_s = 90.0
    #: Whether it is measured. Java's second compiler pays after a minute, and a test's broker is gone by then.
    measured: ClassVar[bool] = False

    def __init__(self, *, port: int | None = None, durable: bool = False) -> None:
        super().__init__(port=port, durable=durable)
        self._controller_port = free_port()

    @classmethod
    def missing(cls) -> str:
        if not cls.find("java"):
            return "kafka: java is not installed (make servers)"
        if not list((home() / "kafka").glob("kafka_*.jar")):
            return "kafka: its jars are not there (make servers)"
        return ""

    def prepare(self) -> None:
        if self.data.exists():
            return
        self.make_directory("data")
        (self.directory / "server.properties").write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{self._controller_port}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.advertised or self.port}\n"
            "controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n"
            f"log.dirs={self.data}/log\n"
            "offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n"
            "transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n"
            # A killed broker is let in again when its old session has ended.
            "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n"
            "auto.create.topics.enable=false\nlog.retention.check.interval.ms=300000\n"
            + ("log.flush.interval.messages=1\n" if self.durable else "")
        )
        self.run(
            *self._java("-Xmx128m"), "kafka.tools.StorageTool", "format", "-t", "ZW5zdWUtdGVzdC1jbHVzdA",
            "-c", str(self.directory / "server.properties"),
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        return [*self._java("-Xms256m", "-Xmx512m"), "kafka.Kafka", str(self.directory / "server.properties")]

    def _java(self, *options: str) -> list[str]:
        tuned = ["-XX:+UseSerialGC", f"-XX:TieredStopAtLevel={4 if self.measured else 1}"]
        if (classes := home() / "kafka/classes.jsa").exists():
            tuned += [f"-XX:SharedArchiveFile={classes}", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr"]
        tuned += ["-Dlog4j2.level=WARN", "-Djava.awt.headless=true"]
        return [str(self.find("java")), *options, *tuned, "-cp", f"{home()}/kafka/*"]

    def answers(self) -> bool:
        if not listens(self.port):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def configure(self, topic: str, settings: Mapping[str, str]) -> None:
        """Change settings of a topic, as an administrator would; return when the broker goes by them."""
        # The library does not list what it exports.
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            AdminClient,
            AlterConfigOpType,
            ConfigEntry,
            ConfigResource,
        )

        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
        ]
        changes = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}"})
        [done] = client.incremental_alter_configs([changes]).values()
        done.result(30)
        while True:  # the controller has it before the broker: a poll, since Kafka tells nobody
            [asked] = client.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
            found = asked.result(30)
            if all(found[name].value == value for name, value in settings.items()):
                return
            time.sleep(0.05)

    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"


class MeasuredKafkaServer(KafkaServer):
    measured = True
