"""Kafka as the log: `kafka://host:9092`. See `KafkaBroker` for the URL's options."""

from __future__ import annotations

from ensue.brokers.kafka.broker import KafkaBroker

__all__ = ["KafkaBroker"]
