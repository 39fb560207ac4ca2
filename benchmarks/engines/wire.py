"""What the bare side sends: one JSON document an event, CloudEvents' attributes beside the data (structured mode).

The cheapest way that we know to carry what Ensue's headers carry: one decode and one encode an event, no headers.
Ensue writes attributes as headers (binary mode), so that other programs can route and filter by them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from benchmarks.workload import AnAccount, BalanceChanged, TransferMade, amount_told, balance_changed

encode = msgspec.json.Encoder().encode
#: Key and body of a record; offset and body of one that was read.
Sent = tuple[str, bytes]
Read = tuple[int, bytes]


class Incoming(msgspec.Struct):
    id: str
    source: str
    type: str
    time: str
    correlationid: str
    data: TransferMade


class Outgoing(msgspec.Struct):
    id: str
    source: str
    type: str
    time: str
    correlationid: str
    causationid: str
    data: BalanceChanged


decode = msgspec.json.Decoder(Incoming).decode


def incoming(events: Iterable[TransferMade]) -> Iterator[Sent]:
    """The backlog, with ids as long as those of Ensue's."""
    moment = "2011-12-09T12:50:00.000000Z"
    for number, event in enumerate(events, 1):
        envelope = Incoming(
            f"0123456789abcdef-{number:x}", "source/00000000", "transfers.TransferMade.v1", moment,
            f"fedcba9876543210-{number:x}", event,
        )  # fmt: skip
        yield event.account_id, encode(envelope)


class Writer:
    """Makes the events that go out, with ids by a counter."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._stamp = ""

    def begin(self) -> float:
        """A batch begins: its events have this time (epoch seconds)."""
        now = time.time()
        self._stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return now

    def changed(self, account: AnAccount, cause: Incoming) -> bytes:
        return self._encode(balance_changed(account, cause.data), cause)

    def told(self, cause: Incoming) -> bytes:
        return self._encode(amount_told(cause.data), cause)

    def _encode(self, event: BalanceChanged, cause: Incoming) -> bytes:
        return encode(
            Outgoing(
                f"89abcdef01234567-{next(self._ids):x}", "bench/00000000", "accounts.BalanceChanged.v1", self._stamp,
                cause.correlationid, cause.id, event,
            )
        )  # fmt: skip


def decoded(records: Sequence[Read]) -> list[Incoming]:
    return [decode(body) for _, body in records]
