"""Adapters of the Broker port: a partitioned log, whatever keeps it. `ensue.adapters` chooses one by URL."""

from __future__ import annotations

from ensue.errors import TopicMismatch, UsageError


def check_partitions(topic: str, expected: int, found: int) -> None:
    """Raise TopicMismatch when a topic has another number of partitions than the one asked for."""
    if found != expected:
        raise TopicMismatch(
            f"topic {topic} has {found} partitions, expected {expected}. The number cannot change, since keys would "
            f"move to other partitions and lose their order: set ENSUE_PARTITIONS={found}, or use another topic",
            topic=topic,
            expected=expected,
            found=found,
        )


def check_partitions_wanted(topic: str, partitions: int) -> None:
    """Raise UsageError when a topic is asked for with no partition at all."""
    if partitions < 1:
        raise UsageError(f"topic {topic}: {partitions} partitions, expected at least 1", topic=topic)


def check_partition(topic: str, partition: int, partitions: int) -> None:
    """Raise UsageError for a partition that does not exist; partitions: how many the topic has, 0 for no such topic."""
    if not partitions:
        text = f"there is no topic {topic}: call ensure_topic first, or start the service that publishes it"
    elif not 0 <= partition < partitions:
        text = f"topic {topic} has no partition {partition}, expected 0 to {partitions - 1}"
    else:
        return
    raise UsageError(text, topic=topic, partition=partition)
