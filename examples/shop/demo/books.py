"""The engine's books, read from its tables in the services' SQLite files: what was sent, applied, is missing."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path

from shop.demo.from_databases import reading
from shop.demo.services import SERVICES, SUBSCRIBES
from shop.demo.snapshot import Stream, Traffic

PUBLISHED = "SELECT topic, count(*) FROM ensue_outbox GROUP BY topic"
SOURCE = "SELECT service || '/' || epoch FROM ensue_meta"
HEADS = "SELECT topic, partition, position FROM ensue_outbox_head"
WATERMARKS = "SELECT source, topic, partition, position FROM ensue_watermark WHERE subscription = ?"
CHECKPOINTS = "SELECT topic, partition, counters, gaps FROM ensue_checkpoint WHERE subscription = ?"
LETTERS = "SELECT state, count(*) FROM ensue_dead_letter GROUP BY state"
#: Positions have no holes, so the last one is also how many there were: cheap enough to ask a few times a second.
LAST_POSITION = "SELECT coalesce(max(position), 0) FROM ensue_outbox"
STATUSES = "SELECT status, count(*) FROM orders GROUP BY status"

#: States of dead letters that have attempts left, or are being tried again.
UNDECIDED = {"retrying", "released"}


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """streams: for each subscriber, each partition of each source it reads. published: records by topic.

    undecided: messages set aside that will be tried again, by subscriber.
    """

    streams: list[Stream]
    traffic: list[Traffic]
    published: dict[str, int]
    undecided: dict[str, int]


def read_books(directory: Path, *, count_published: bool = True) -> Books:
    """Read all three databases, each as of one moment of its own. Counting what was published takes a scan."""
    heads: dict[str, dict[tuple[str, int], int]] = {}  # by source
    published: Counter[str] = Counter()
    for service in SERVICES:
        with reading(directory / f"{service}.db") as database:
            (source,) = database.execute(SOURCE).fetchone()
            heads[source] = {(topic, number): position for topic, number, position in database.execute(HEADS)}
            if count_published:
                published.update(dict(database.execute(PUBLISHED)))
    streams: list[Stream] = []
    traffic: list[Traffic] = []
    undecided: dict[str, int] = {}
    for service in SERVICES:
        with reading(directory / f"{service}.db") as database:
            streams += _streams(database, service, heads)
            letters = dict(database.execute(LETTERS))
            traffic.append(_traffic(database, service, letters))
            undecided[service] = sum(letters.get(state, 0) for state in UNDECIDED)
    return Books(streams, traffic, dict(published), undecided)


def _streams(
    database: sqlite3.Connection, subscriber: str, heads: dict[str, dict[tuple[str, int], int]]
) -> list[Stream]:
    watermarks = {
        (source, topic, number): position
        for source, topic, number, position in database.execute(WATERMARKS, (subscriber,))
    }
    gaps = {
        (source, topic, number)
        for topic, number, _, stored in database.execute(CHECKPOINTS, (subscriber,))
        for source in json.loads(stored)
    }
    return [
        Stream(
            subscriber, source, topic, number, head,
            watermark=watermarks.get((source, topic, number), 0), gap=(source, topic, number) in gaps,
        )
        for source, of_source in heads.items()
        for (topic, number), head in sorted(of_source.items())
        if topic in SUBSCRIBES[subscriber]
    ]  # fmt: skip


def _traffic(database: sqlite3.Connection, subscriber: str, letters: dict[str, int]) -> Traffic:
    total: defaultdict[str, int] = defaultdict(int)
    for _, _, counters, _ in database.execute(CHECKPOINTS, (subscriber,)):
        for name, count in json.loads(counters).items():
            total[name] += count
    return Traffic(
        subscriber,
        SUBSCRIBES[subscriber],
        applied=total["applied"],
        unknown=total["unknown"],
        duplicates=total["duplicates"],
        gaps_seen=total["gaps_seen"],
        gaps_healed=total["gaps_healed"],
        retries=total["retries"],
        dead_letters=sum(count for state, count in letters.items() if state != "discarded"),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """A look while things go on. lag: events sent, or waiting to be sent, to each subscriber and not yet dealt with."""

    statuses: Counter[str]
    published: int
    applied: int
    lag: dict[str, int]


def read_live(directory: Path) -> Live:
    """Cheap enough for a few times a second."""
    published: dict[str, int] = {}
    dealt_with: dict[str, int] = {}
    applied = 0
    statuses: Counter[str] = Counter()
    for service in SERVICES:
        with reading(directory / f"{service}.db") as database:
            (published[service],) = database.execute(LAST_POSITION).fetchone()
            traffic = _traffic(database, service, {})
            applied += traffic.applied
            dealt_with[service] = traffic.applied + traffic.unknown + traffic.dead_letters
            if service == "orders":
                statuses.update(dict(database.execute(STATUSES)))
    lag = {
        # Each service publishes to the topic of its own name. Read at different moments, so never below nothing.
        service: max(0, sum(published[topic] for topic in SUBSCRIBES[service]) - dealt_with[service])
        for service in SERVICES
    }
    return Live(statuses, sum(published.values()), applied, lag)
