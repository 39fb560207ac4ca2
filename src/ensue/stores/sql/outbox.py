"""The seam between a store and where its positions come from: stamping (MariaDB's in `stamped.py`, PostgreSQL's in
`postgres/polled.py`) or a tail of the database's log.

A store has one `Outbox`, chosen by its URL (`?outbox=poll|wal` on PostgreSQL). The store calls it as written
here; what an implementation may use of the store is in `OutboxContext`. How records lie in the database and what a
position is are the implementation's own business, the promises of `ensue.ports.Store` about them are not.

The name of the mode is kept in `ensue_meta.outbox_mode`. A store that opens with another mode than the stored one
switches by itself when everything is sent (a new epoch begins), else it refuses and says how (see `switching.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from ensue.message import OutboxRecord
from ensue.stores.identity import Identity
from ensue.stores.sql import schema
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.wakeup import Notifier, Wakeup


class Current:
    """Who a store is, as last read. Its `published_from` bounds what the present epoch may return."""

    def __init__(self, service: str) -> None:
        self.identity = Identity(service, "", 0)

    async def refresh(self, link: Link) -> Identity:
        """Read it anew."""
        self.identity = await schema.identity(link, self.identity.service)
        return self.identity

    def note(self, epoch: str, published_from: int) -> Identity:
        """Take note of what was read together with something else."""
        self.identity = self.identity._replace(epoch=epoch, published_from=published_from)
        return self.identity


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxContext:
    """What a store lends its outbox.

    relay_pool: connections for the relay's own work, in a transaction (`run`) or without (`read`); never those of
    steps. wakeup: `wakeup.changed()` ends every wait in this process. notifier: how processes learn of each other's
    commits (`announce()` after one; `wait(timeout_s)` is an outbox's whole `wait`). service: its name. place: host and
    database, for error texts. current: who the store is, as last read; its `published_from` bounds what the present
    epoch may return.
    """

    dialect: Dialect
    relay_pool: Pool
    wakeup: Wakeup
    notifier: Notifier
    service: str
    place: str
    current: Current


class Outbox(Protocol):
    """Where a store's records and their positions are. mode: its name in the URL and in `ensue_meta.outbox_mode`."""

    mode: str

    async def open(self) -> None:
        """Begin to work; the tables are there and the stored mode is this one. Raises StoreUnavailable, UsageError."""

    async def close(self) -> None:
        """Release everything; safe to repeat; called before the store's connections are closed."""

    async def prepare(self, link: Link) -> None:
        """Make what this mode needs in the database (a publication, a table), inside the caller's transaction.

        Called when the tables are created, and when a store switches to this mode. Safe to repeat.
        """

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        """Put records into the open transaction of `link`, in order; one round trip however many.

        The caller has the locks of the entities that the records speak of. now: the database's clock.
        """

    def committed(self) -> None:
        """A transaction that added records has committed in this process. Called on the loop; must not wait."""

    async def after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        """See `Store.outbox_after`. Refreshes the store's identity, and calls `wakeup.looked()` before it looks."""

    async def of(self, topic: str, partition: int, after: int, through: int, limit: int) -> Sequence[OutboxRecord]: ...

    async def heads(self) -> Mapping[tuple[str, int], int]: ...

    async def wait(self, timeout_s: float) -> None:
        """See `Store.outbox_wait`: ends soon after a commit by anyone, or after timeout_s."""

    async def prune(self, before_s: float, through: int, limit: int) -> int: ...

    async def begin_epoch(self, link: Link, epoch: str, published_through: int, ends: str) -> None:
        """Write the new epoch, in the caller's transaction: see `Store.new_epoch`. ends: the old epoch, which is
        compared under the lock with which the new one is written (`check_ends`)."""

    async def unsent(self, link: Link, mode: str) -> int:
        """How many committed records the relay's stored position does not cover. 0: the mode may be switched.

        mode: in which they are read until now. Raises UsageError for one that this database does not have.
        """

    async def warnings(self, link: Link) -> Sequence[str]:
        """What holds back this outbox in particular (a slot that keeps log, say), one line each."""
