"""NATS JetStream as the partitioned log: a stream for each partition of a topic. See ADR 23."""

from __future__ import annotations

from ensue.brokers.nats.broker import NatsBroker

__all__ = ["NatsBroker"]
