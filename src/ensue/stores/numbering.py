"""The positions of records: dense, in order, each naming the one before it in its partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping

from ensue.message import OutboxRecord

#: Topic and partition.
Place = tuple[str, int]


def number(
    records: Iterable[OutboxRecord], last: int, heads: Mapping[Place, int], moved: MutableMapping[Place, int]
) -> int:
    """Give the records the positions after `last`, in order; return the last one.

    heads: the last position of each partition, which stays as it is. moved: those that have moved on from there; what
    moves now is added.
    """
    for record in records:
        place = (record.topic, record.partition)
        last += 1
        record.previous = moved.get(place) or heads.get(place, 0)
        record.position = moved[place] = last
    return last


def begin_after(records: Iterable[OutboxRecord], published_from: int) -> None:
    """What an epoch begins with follows on nothing: of an epoch that has ended a `previous` counts as none."""
    for record in records:
        if record.previous <= published_from:
            record.previous = 0
