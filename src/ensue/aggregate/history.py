"""What has happened to an aggregate: its events as they were published, for whoever asks."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from ensue.aggregate.kind import AggregateKind, rows_between
from ensue.aggregate.streams import read_event
from ensue.codec import decode_envelope
from ensue.ports import RowReader
from ensue.tables import STREAMS

_PAGE = 500


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
