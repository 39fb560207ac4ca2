"""The engine's books, read from its tables in the services' databases: what was sent, applied, is missing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from shop.demo.databases import Database, Databases, Reader
from shop.demo.services import subscribes
from shop.demo.snapshot import Stream, Traffic

#: States of dead letters that have attempts left, or are being tried again.
UNDECIDED = {"retrying", "released"}


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """streams: for each subscriber, each partition of each source it reads. published: records by topic.

    undecided: messages set aside that will be tried again, by subscriber. last: each service's last position.
    sagas: how many have which status, by service; by orchestration alone.
    """

    streams: list[Stream]
    traffic: list[Traffic]
    published: dict[str, int]
    undecided: dict[str, int]
    last: dict[str, int]
    sagas: dict[str, dict[str, int]]


def read_books(databases: Databases, *, count_published: bool = True) -> Books:
    """Read all databases, each as of one moment of its own. Counting what was published takes a scan."""
    heads: dict[str, dict[tuple[str, int], int]] = {}  # by source
    published: Counter[str] = Counter()
    last: dict[str, int] = {}
    for service in databases:
        with databases[service].reading() as reader:
            of_service = heads[reader.source()] = reader.heads()
            last[service] = max(of_service.values(), default=0)
            if count_published:
                published.update(reader.published())
    streams: list[Stream] = []
    traffic: list[Traffic] = []
    undecided: dict[str, int] = {}
    sagas: dict[str, dict[str, int]] = {}
    topics = subscribes(databases)
    for service in databases:
        with databases[service].reading() as reader:
            streams += _streams(reader, service, topics[service], heads)
            letters = reader.letters()
            traffic.append(_traffic(reader, service, topics[service], letters))
            undecided[service] = sum(letters.get(state, 0) for state in UNDECIDED)
            if "payments" in databases:
                sagas[service] = reader.sagas()
    return Books(streams, traffic, dict(published), undecided, last, sagas)


def _streams(
    reader: Reader, subscriber: str, topics: tuple[str, ...], heads: Mapping[str, Mapping[tuple[str, int], int]]
) -> list[Stream]:
    progress = reader.progress()
    watermarks = {
        (each.topic, each.partition, source): at for each in progress for source, at in each.watermarks.items()
    }
    gaps = {(each.topic, each.partition, source) for each in progress for source in each.gaps}
    return [
        Stream(
            subscriber, source, topic, number, head,
            watermark=watermarks.get((topic, number, source), 0), gap=(topic, number, source) in gaps,
        )
        for source, of_source in heads.items()
        for (topic, number), head in sorted(of_source.items())
        if topic in topics
    ]  # fmt: skip


def _traffic(reader: Reader, subscriber: str, topics: tuple[str, ...], letters: Mapping[str, int]) -> Traffic:
    total: Counter[str] = Counter()
    for each in reader.progress():
        total.update(each.counters)  # `since`, a moment, is summed too and not used
    return Traffic(
        subscriber,
        topics,
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
    """A look while things go on. lag: events sent, or waiting to be sent, to each subscriber and not yet dealt with;
    by orchestration, where services write to many topics, the partitions in which there are some."""

    statuses: Counter[str]
    published: int
    applied: int
    lag: dict[str, int]


def read_live(databases: Databases) -> Live:
    """Cheap enough for a few times a second."""
    topics = subscribes(databases)
    heads: dict[str, dict[tuple[str, int], int]] = {}
    published: dict[str, int] = {}
    dealt_with: dict[str, int] = {}
    applied = 0
    statuses: Counter[str] = Counter()
    for service in databases:
        with databases[service].reading() as reader:
            of_service = reader.heads()
            # Positions have no holes, so the last one is also how many there were.
            published[service] = max(of_service.values(), default=0)
            traffic = _traffic(reader, service, topics[service], {})
            applied += traffic.applied
            dealt_with[service] = traffic.applied + traffic.unknown + traffic.dead_letters
            if service == "orders":
                statuses.update(reader.statuses())
            if "payments" in databases:
                heads[reader.source()] = of_service
    if heads:
        lag = {service: _behind(databases[service], service, topics[service], heads) for service in databases}
    else:
        lag = {
            # Each service publishes to the topic of its own name. Read at different moments, so never below nothing.
            service: max(0, sum(published[topic] for topic in topics[service]) - dealt_with[service])
            for service in databases
        }
    return Live(statuses, sum(published.values()), applied, lag)


def _behind(
    database: Database, service: str, topics: tuple[str, ...], heads: Mapping[str, Mapping[tuple[str, int], int]]
) -> int:
    with database.reading() as reader:
        return sum(each.watermark < each.head for each in _streams(reader, service, topics, heads))
