"""Aggregates outside of a step, as they are committed: what has happened to one, and what each of them is now."""

from __future__ import annotations

import dataclasses
import datetime
from functools import partial
from typing import Any, TypeVar

from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.kind import AggregateKind, rows_between
from ensue.aggregate.streams import folded, read_event
from ensue.codec import decode_envelope
from ensue.ports import RowReader
from ensue.tables import AGGREGATES, STREAMS

A = TypeVar("A", bound=Aggregate)
_PAGE = 500
[_BY_ID] = AGGREGATES.lookups


@dataclasses.dataclass(frozen=True, slots=True)
class Happened:
    """An event of a stream. version: its number there, from 1. time: of the step's transaction, in UTC. message_id,
    correlation_id, causation_id: as it was published; see `Step`."""

    version: int
    event: Any
    time: datetime.datetime
    message_id: str
    correlation_id: str
    causation_id: str


async def history(reader: RowReader, kind: AggregateKind[Any], entity_id: object, after: int = 0) -> list[Happened]:
    """The committed events with a version above `after`, in order."""
    key = kind.key(kind.own_id(entity_id))
    found: list[Happened] = []
    while True:
        wanted = rows_between(key, after, after + _PAGE)
        rows = {row[0]: row for row in await reader.get(STREAMS, wanted)}
        for version, name in enumerate(wanted, after + 1):
            if name not in rows:
                return found
            _, envelope, data = rows[name]
            said = decode_envelope(bytes(envelope))
            event = read_event(kind, key, version, envelope, bytes(data))
            time = datetime.datetime.fromisoformat(said.time)
            found.append(Happened(version, event, time, said.id, said.correlation_id, said.causation_id))
        after += _PAGE


async def current(reader: RowReader, kind: AggregateKind[A], entity_id: object) -> A | None:
    """The aggregate as it is committed; None: it does not exist."""
    rows = await reader.get(AGGREGATES, [kind.key(kind.own_id(entity_id))])
    heads = await folded(kind, rows, partial(reader.get, STREAMS))
    return heads[0].aggregate if heads else None


async def page(reader: RowReader, kind: AggregateKind[A], after: object | None, limit: int) -> list[A]:
    """Up to `limit` aggregates of a kind that come after this id, in the order of their ids' text."""
    behind = [] if after is None else [kind.key(kind.own_id(after))]
    rows = await reader.find(AGGREGATES, _BY_ID, [kind.stream], after=behind, limit=limit)
    return [head.aggregate for head in await folded(kind, rows, partial(reader.get, STREAMS))]
