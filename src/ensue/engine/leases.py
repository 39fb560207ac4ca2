"""Who works on which partition: pure rules of leases and fair shares.

Leases only spare work; checkpoints keep things correct. All of them are one value, which is read, changed by the rules
here, and written back if nobody else has changed it meanwhile (see `books.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from ensue.message import Lease, LeaseTable


class Held(msgspec.Struct, frozen=True):
    """What is stored of workers and leases. Times by the database's clock, seconds since the epoch."""

    workers: dict[str, float] = {}
    """name -> until when it counts as living."""
    leases: dict[str, tuple[str, float]] = {}
    """name -> its worker, and until when."""

    def beat(
        self, worker: str, now: float, ttl_s: float, acquire: Sequence[str] = (), release: Sequence[str] = ()
    ) -> Held:
        """This worker lives for ttl_s more, keeps its leases, gives up `release`, takes those of `acquire` that are
        free or expired.

        No other worker or lease lives for longer than ttl_s from now after it, or a clock that was set back would keep
        a dead worker alive.

        >>> Held().beat("a", 10.0, 3.0, ["x"]).beat("b", 11.0, 3.0, ["x", "y"]).leases
        {'x': ('a', 13.0), 'y': ('b', 14.0)}
        """
        until = now + ttl_s
        leases: dict[str, tuple[str, float]] = {}
        for name, (owner, end) in self.leases.items():
            if owner == worker:
                if name not in release:
                    leases[name] = (owner, until)  # also one that ran out, as long as nobody else took it
            elif end > now:
                leases[name] = (owner, min(end, until))
        for name in acquire:
            leases.setdefault(name, (worker, until))
        workers = {name: min(end, until) for name, end in self.workers.items() if end > now}
        return Held({**workers, worker: until}, leases)

    def without(self, gone: Callable[[str], bool]) -> Held:
        """Workers of which `gone` is true hold nothing, and do not live."""
        workers = {name: end for name, end in self.workers.items() if not gone(name)}
        return Held(workers, {name: lease for name, lease in self.leases.items() if not gone(lease[0])})

    def table(self, now: float) -> LeaseTable:
        """Who lives and holds what at `now`."""
        leases = (Lease(name, owner, end - now) for name, (owner, end) in sorted(self.leases.items()) if end > now)
        return LeaseTable(tuple(sorted(name for name, end in self.workers.items() if end > now)), tuple(leases))


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
