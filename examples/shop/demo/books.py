"""The engine's books, read from its tables in the services' databases: what was sent, applied, is missing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from shop.demo.databases import Databases, Reader
from shop.demo.services import SERVICES, SUBSCRIBES
from shop.demo.snapshot import Stream, Traffic

#: States of dead letters that have attempts left, or are being tried again.
UNDECIDED = {"retrying", "released"}


@dataclasses.dataclass(frozen=True, slots=True)
class Books:
    """streams: for each subscriber, each partition of each source it reads. published: records by topic.

    undecided: messages set aside that will be tried again, by subscriber. last: each service's last position.
    """

    streams: list[Stream]
    traffic: list[Traffic]
    published: dict[str, int]
    undecided: dict[str, int]
    last: dict[str, int]


def read_books(databases: Databases, *, count_published: bool = True) -> Books:
    """Read all three databases, each as of one moment of its own. Counting what was published takes a scan."""
    heads: dict[str, dict[tuple[str, int], int]] = {}  # by source
    published: Counter[str] = Counter()
    last: dict[str, int] = {}
    for service in SERVICES:
        with databases[service].reading() as reader:
            of_service = heads[reader.source()] = reader.heads()
            last[service] = max(of_service.values(), default=0)
            if count_published:
                published.update(reader.published())
    streams: list[Stream] = []
    traffic: list[Traffic] = []
    undecided: dict[str, int] = {}
    for service in SERVICES:
        with databases[service].reading() as reader:
            streams += _streams(reader, service, heads)
            letters = reader.letters()
            traffic.append(_traffic(reader, service, letters))
            undecided[service] = sum(letters.get(state, 0) for state in UNDECIDED)
    return Books(streams, traffic, dict(published), undecided, last)


def _streams(reader: Reader, subscriber: str, heads: Mapping[str, Mapping[tuple[str, int], int]]) -> list[Stream]:
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
        if topic in SUBSCRIBES[subscriber]
    ]  # fmt: skip


def _traffic(reader: Reader, subscriber: str, letters: Mapping[str, int]) -> Traffic:
    total: Counter[str] = Counter()
    for each in reader.progress():
        total.update(each.counters)  # `since`, a moment, is summed too and not used
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


def read_live(databases: Databases) -> Live:
    """Cheap enough for a few times a second."""
    published: dict[str, int] = {}
    dealt_with: dict[str, int] = {}
    applied = 0
    statuses: Counter[str] = Counter()
    for service in SERVICES:
        with databases[service].reading() as reader:
            # Positions have no holes, so the last one is also how many there were.
            published[service] = max(reader.heads().values(), default=0)
            traffic = _traffic(reader, service, {})
            applied += traffic.applied
            dealt_with[service] = traffic.applied + traffic.unknown + traffic.dead_letters
            if service == "orders":
                statuses.update(reader.statuses())
    lag = {
        # Each service publishes to the topic of its own name. Read at different moments, so never below nothing.
        service: max(0, sum(published[topic] for topic in SUBSCRIBES[service]) - dealt_with[service])
        for service in SERVICES
    }
    return Live(statuses, sum(published.values()), applied, lag)
