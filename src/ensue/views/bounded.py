"""A log that ends where one wants it to: what a fold up to certain positions sees of each record. Pure rules.

The consumer stays as it is: chains, duplicates, gaps, and messages that come too early for their row. What a bounded
fold is not to apply comes to it as a record of a type that nobody handles.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ensue.message import LOST, TICK, WHO, Envelope, Flaw, Garbage, Message

Where = tuple[str, int]
"""A topic and the number of a partition."""

#: No handler takes it.
UNSEEN = "ensue.unseen"
_CONTROL = (TICK, LOST, WHO)


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition is folded.

    through: by source, its last position that is applied; nothing of a source that is missing. offset: the last one of
    the log from which what has no chain is applied. without: (source, position) of what was set aside, which has taken
    no effect; without a chain (source, -offset). key: of whose messages alone something is made; None: of all.
    """

    through: Mapping[str, int] = {}
    offset: int = 0
    without: frozenset[tuple[str, int]] = frozenset()
    key: str | None = None


def seen(record: Message | Garbage, bound: Bound) -> Message | Garbage:
    """Return the record as the fold is to see it.

    >>> message = Message("t", 0, 9, "k", "s/1", 7, 5, Envelope("m", "t.E.v1"), b"")
    >>> seen(message, Bound(through={"s/1": 7})) is message
    True
    >>> beyond = seen(message, Bound(through={"s/1": 5}))
    >>> beyond.type, beyond.position
    ('ensue.unseen', 0)
    >>> aside = seen(message, Bound(through={"s/1": 7}, without=frozenset({("s/1", 7)})))
    >>> aside.type, aside.position  # its chain goes on, and nothing is made of it
    ('ensue.unseen', 7)
    """
    if isinstance(record, Garbage):
        # Of a stranger's bytes a letter was made, and no row; what is damaged is passed over anyway.
        return msgspec.structs.replace(record, flaw=Flaw.DAMAGED)
    envelope = Envelope(record.envelope.id, UNSEEN, record.envelope.time)
    chained = record.position > 0
    beyond = record.position > bound.through.get(record.source, 0) if chained else record.offset > bound.offset
    if beyond or record.envelope.type in _CONTROL:
        return msgspec.structs.replace(record, position=0, previous=0, envelope=envelope)
    aside = (record.source, record.position if chained else -record.offset) in bound.without
    if aside or (bound.key is not None and record.key != bound.key):
        return msgspec.structs.replace(record, envelope=envelope)
    return record
