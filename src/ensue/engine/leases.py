"""Who works on which partition: a pure rule of fair shares. Leases only spare work; checkpoints keep things correct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ensue.message import LeaseTable


class Wish(NamedTuple):
    """What a worker should try to get and what it should give up."""

    acquire: tuple[str, ...]
    release: tuple[str, ...]


def fair_share(names: Sequence[str], table: LeaseTable, worker: str) -> Wish:
    """Return this worker's wish so that living workers end with equal shares of `names` (they differ by one at most).

    A worker with too many gives up its last ones; one with too few wants what nobody living holds.

    >>> from ensue.message import Lease
    >>> fair_share(["a", "b"], LeaseTable(("w",), ()), "w")
    Wish(acquire=('a', 'b'), release=())
    """
    workers = sorted({*table.workers, worker})
    holder = {lease.name: lease.owner for lease in table.leases}
    mine = [name for name in names if holder.get(name) == worker]
    base, extra = divmod(len(names), len(workers))
    # The extra ones go to whoever holds more already, so that nothing moves for the sake of evenness.
    held = {each: sum(holder.get(name) == each for name in names) for each in workers}
    richest = sorted(workers, key=lambda each: (-held[each], each))
    quota = base + (worker in richest[:extra])
    release = tuple(mine[quota:])
    free = [name for name in names if holder.get(name) not in workers]
    start = workers.index(worker) * len(free) // len(workers)  # begin at different places: fewer races
    acquire = tuple((free[start:] + free[:start])[: max(quota - len(mine), 0)])
    return Wish(acquire, release)


#: After a lease's end; and the shortest pause between two heartbeats.
_MARGIN_S = 0.02


def until_next(table: LeaseTable, worker: str, pause_s: float) -> float:
    """Return how long `worker` may sleep before its next heartbeat: pause_s, or less when a lease ends sooner.

    A living worker renews its leases well before they end. So one of another's that ends within pause_s belongs to a
    worker that has missed a heartbeat, and if it is dead, its partitions need not wait for ours.

    >>> from ensue.message import Lease
    >>> until_next(LeaseTable(("a", "b"), (Lease("x", "a", 0.5),)), "b", 1.0)
    0.52
    """
    others = (lease.expires_in_s for lease in table.leases if lease.owner != worker)
    return min(pause_s, max(min(others, default=pause_s), 0.0) + _MARGIN_S)
