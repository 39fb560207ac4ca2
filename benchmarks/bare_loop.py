"""What somebody would write by hand for one consumer and its relay: the batched statements and nothing else.

No partitions, no leases, no gap check, no retry, no other process. Same rows, same synchronous levels as Ensue.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from benchmarks import bare_files as files
from benchmarks.bare_files import BareFiles, Headers
from benchmarks.workload import IN, OUT, Account, BalanceChanged, TransferMade, balance_changed

Row = Sequence[Any]

_encode = msgspec.json.Encoder().encode
_headers = msgspec.json.Decoder(Headers).decode
_event = msgspec.json.Decoder(TransferMade).decode
UPDATE_ACCOUNT = "UPDATE accounts SET owner = ?, balance = ?, changes = ? WHERE id = ?"


class Outbox:
    """Makes outbox rows: the counters that a hand-written relay needs, and the same envelope as Ensue's."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._position = 0

    def row(self, incoming: Headers, event: BalanceChanged, now: float, stamp: str) -> tuple[Any, ...]:
        previous, self._position = self._position, self._position + 1
        kind = "accounts.BalanceChanged.v1"
        headers = Headers(f"89abcdef01234567-{next(self._ids):x}", kind, stamp, incoming.correlationid, incoming.id)
        return self._position, previous, OUT, 0, event.account_id, _encode(headers), _encode(event), now


def drain(open_files: BareFiles, batch_records: int, apply: Callable[[Sequence[Row], Outbox], None]) -> None:
    """Read the log batch by batch, let `apply` commit each, relay what it put into the outbox, until all is read."""
    outbox = Outbox()
    offset = relayed = 0
    while rows := open_files.log.execute(files.READ_LOG, (offset, files.OUT_BASE, batch_records)).fetchall():
        apply(rows, outbox)
        offset = rows[-1][0]
        relayed = relay(open_files, relayed, batch_records)


def relay(open_files: BareFiles, after: int, limit: int) -> int:
    """Copy one batch of the outbox into the log; return its last position."""
    service, log = open_files
    found = service.execute(files.READ_OUTBOX, (after, limit)).fetchall()
    now = time.time()
    log.execute("BEGIN IMMEDIATE")
    log.execute(files.TAKE_OFFSETS, (len(found), OUT))
    log.executemany(
        files.APPEND,
        [
            (files.OUT_BASE + position, key, "bench/00000000", position, previous, now, envelope, data)
            for position, previous, key, envelope, data in found
        ],
    )
    log.execute("COMMIT")
    return int(found[-1][0])


def apply_with_statements(open_files: BareFiles) -> Callable[[Sequence[Row], Outbox], None]:
    """One transaction a batch: SELECT its accounts, change them, UPDATE, INSERT outbox, UPDATE checkpoint, COMMIT."""
    service = open_files.service
    revision = 0

    def apply(rows: Sequence[Row], outbox: Outbox) -> None:
        nonlocal revision
        service.execute("BEGIN IMMEDIATE")
        now, stamp = moment()
        events = [_event(row[6]) for row in rows]
        ids = list({event.account_id: None for event in events})
        marks = ",".join("?" * len(ids))
        select = f"SELECT id, owner, balance, changes FROM accounts WHERE id IN ({marks})"
        accounts = {row[0]: Account(*row) for row in service.execute(select, ids)}
        outgoing = []
        for row, event in zip(rows, events, strict=True):
            account = accounts[event.account_id]
            account.add(event.amount)
            outgoing.append(outbox.row(_headers(row[5]), balance_changed(account, event), now, stamp))
        service.executemany(
            UPDATE_ACCOUNT, [(each.owner, each.balance, each.changes, each.id) for each in accounts.values()]
        )
        service.executemany(files.INSERT_OUTBOX, outgoing)
        service.execute(files.SAVE_CHECKPOINT, (rows[-1][0], rows[-1][3], IN, revision))
        revision += 1
        service.execute("COMMIT")

    return apply


def moment() -> tuple[float, str]:
    """Now, as a number and as RFC 3339."""
    now = time.time()
    return now, datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
