"""Who works on which partition: pure rules of leases and fair shares.

Leases only spare work; checkpoints keep things correct. All of them are one value, which is read, changed by the rules
here, and written back if nobody else has changed it meanwhile (see `books.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ensue.message import Busy, Lease, LeaseTable, Stranger, Told

#: How long it is told that a worker was not let in, seconds.
_NOTED_S = 3600.0


class Held(msgspec.Struct, frozen=True):
    """What is stored of workers and leases. Times by the database's clock, seconds since the epoch."""

    workers: dict[str, float] = {}
    """name -> until when it counts as living."""
    leases: dict[str, tuple[str, float]] = {}
    """name -> its worker, and until when."""
    handles: dict[str, dict[str, tuple[str, ...]]] = {}
    """name of a worker -> by topic, the event types that its version of the service handles."""
    suspects: tuple[str, ...] = ()
    """Names whose worker ended, or seems to have, without giving them up: what it was at may have killed it."""
    busy: dict[str, tuple[float, str]] = {}
    """worker -> since when its transaction at hand has been running, when that is long, and what it is."""
    told: dict[str, Told] = {}
    """worker -> what it tells of itself."""
    stranger: tuple[str, str, float] | None = None
    """The last worker that was not let in, its log, and when."""
    paused: tuple[str, ...] = ()
    """Names that nobody is to take until a person says so."""
    released: dict[str, str] = {}
    """name -> the worker that is to give it up, because a person said so."""

    def beat(
        self,
        worker: str,
        now: float,
        ttl_s: float,
        acquire: Sequence[str] = (),
        release: Sequence[str] = (),
        handles: Mapping[str, Sequence[str]] | None = None,
        *,
        cleared: Sequence[str] = (),
        busy: tuple[float, str] | None = None,
        told: Told | None = None,
    ) -> Held:
        """This worker lives for ttl_s more, keeps its leases, gives up `release`, takes those of `acquire` that are
        free or expired, and not paused.

        One that comes in with another log than one that lives is not let in: nothing changes but that it is noted. Else
        each would send and read a part of the events in its own log.

        No other worker or lease lives for longer than ttl_s from now after it, or a clock that was set back would keep
        a dead worker alive. cleared: those of its names that are suspect no longer. busy: for how many seconds its
        transaction at hand has been running, and what it is.

        >>> Held().beat("a", 10.0, 3.0, ["x"]).beat("b", 11.0, 3.0, ["x", "y"]).leases
        {'x': ('a', 13.0), 'y': ('b', 14.0)}
        >>> Held().beat("a", 10.0, 3.0, ["x"]).beat("b", 14.0, 3.0, ["x"]).suspects
        ('x',)
        >>> held = Held().beat("a", 10.0, 3.0, told=Told(log="one")).beat("b", 11.0, 3.0, told=Told(log="two"))
        >>> sorted(held.workers), held.stranger
        (['a'], ('b', 'two', 11.0))
        """
        comes_in = self.workers.get(worker, now) <= now
        if told is not None and comes_in and disagreeing(self.table(now), worker, told):
            return msgspec.structs.replace(self, stranger=(worker, told.log, now))
        until = now + ttl_s
        suspects = set(self.suspects)
        leases: dict[str, tuple[str, float]] = {}
        for name, (owner, end) in self.leases.items():
            if owner == worker:
                if name not in release:
                    leases[name] = (owner, until)  # also one that ran out, as long as nobody else took it
            elif end > now:
                leases[name] = (owner, min(end, until))
            else:
                suspects.add(name)
        for name in acquire:
            if name not in self.paused:
                leases.setdefault(name, (worker, until))
        suspects -= {name for name in cleared if leases.get(name, ("", 0.0))[0] == worker}
        workers = {name: min(end, until) for name, end in self.workers.items() if end > now} | {worker: until}
        known = {name: kinds for name, kinds in self.handles.items() if name in workers}
        if handles is not None:
            known[worker] = {topic: tuple(kinds) for topic, kinds in handles.items()}
        long = {name: value for name, value in self.busy.items() if name in workers and name != worker}
        if busy is not None:
            long[worker] = (now - busy[0], busy[1])
        tellers = {name: value for name, value in self.told.items() if name in workers}
        if told is not None:
            tellers[worker] = told
        stranger = self.stranger if self.stranger and 0 <= now - self.stranger[2] < _NOTED_S else None
        asked = {name: owner for name, owner in self.released.items() if leases.get(name, ("", 0.0))[0] == owner}
        return Held(workers, leases, known, tuple(sorted(suspects)), long, tellers, stranger, self.paused, asked)

    def without(self, gone: Callable[[str], bool], *, suspect: bool = False) -> Held:
        """Workers of which `gone` is true hold nothing, and do not live. suspect: they have not given up by themselves
        what they held.

        >>> held = Held().beat("a", 10.0, 3.0, ["x"]).without("a".__eq__, suspect=True)
        >>> held == Held(suspects=("x",))
        True
        """
        workers = {name: end for name, end in self.workers.items() if not gone(name)}
        leases = {name: lease for name, lease in self.leases.items() if not gone(lease[0])}
        left = self.leases.keys() - leases.keys() if suspect else ()
        known = {name: kinds for name, kinds in self.handles.items() if name in workers}
        busy = {name: value for name, value in self.busy.items() if not gone(name)}
        told = {name: value for name, value in self.told.items() if name in workers}
        asked = {name: owner for name, owner in self.released.items() if name in leases}
        suspects = tuple(sorted({*self.suspects, *left}))
        return Held(workers, leases, known, suspects, busy, told, self.stranger, self.paused, asked)

    def pause(self, name: str) -> Held:
        """Nobody takes it until `resume`; whoever has it gives it up with its next heartbeat but one, at the latest
        when it has finished what it is at."""
        return msgspec.structs.replace(self, paused=tuple(sorted({*self.paused, name})))

    def resume(self, name: str) -> Held:
        """
        >>> held = Held().pause("x")
        >>> held.beat("a", 10.0, 3.0, ["x"]).leases, held.resume("x").beat("a", 10.0, 3.0, ["x"]).leases
        ({}, {'x': ('a', 13.0)})
        """
        return msgspec.structs.replace(self, paused=tuple(each for each in self.paused if each != name))

    def release(self, name: str) -> Held:
        """Its worker gives it up when it has finished what it is at; whoever has least takes it then.

        >>> held = Held().beat("a", 10.0, 3.0, ["x"]).release("x")
        >>> held.table(10.0).released, held.beat("a", 11.0, 3.0, release=["x"]).released
        (('x',), {})
        """
        owner, _ = self.leases[name]
        return msgspec.structs.replace(self, released={**self.released, name: owner})

    def table(self, now: float) -> LeaseTable:
        """Who lives and holds what at `now`."""
        leases = (Lease(name, owner, end - now) for name, (owner, end) in sorted(self.leases.items()) if end > now)
        workers = tuple(sorted(name for name, end in self.workers.items() if end > now))
        busy = (
            Busy(each, max(now - self.busy[each][0], 0.0), self.busy[each][1]) for each in workers if each in self.busy
        )
        known = {name: self.handles[name] for name in workers if name in self.handles}
        told = {name: self.told[name] for name in workers if name in self.told}
        stranger = None
        if self.stranger is not None:
            name, log, at = self.stranger
            stranger = Stranger(name, log, max(now - at, 0.0))
        return LeaseTable(
            workers, tuple(leases), known, self.suspects, tuple(busy), told, stranger, self.paused,
            tuple(sorted(self.released)),
        )  # fmt: skip


def disagreeing(table: LeaseTable, worker: str, told: Told) -> tuple[str, ...]:
    """Living workers whose log differs from the one of which `worker` tells.

    >>> disagreeing(Held().beat("a", 1.0, 3.0, told=Told(log="one")).table(1.0), "b", Told(log="two"))
    ('a',)
    """
    return tuple(name for name, other in table.told.items() if name != worker and told.differs(other))


class Wish(NamedTuple):
    """What a worker should try to get and what it should give up."""

    acquire: tuple[str, ...]
    release: tuple[str, ...]


def fair_share(names: Sequence[str], table: LeaseTable, worker: str) -> Wish:
    """Return this worker's wish so that living workers end with equal shares of `names`, and of each topic's (they
    differ by one at most): a process with all partitions of the busiest topic would do the work alone.

    names: `<topic>/<number>` each. A topic of which another one handles all that a worker does, and more, is left to
    that other one: of two versions of a service the newer must not find that the older has passed something over.
    Who has too many of a topic gives up its last ones; who has too few wants what nobody living holds.

    >>> from ensue.message import Lease
    >>> fair_share(["a", "b"], LeaseTable(("w",), ()), "w")
    Wish(acquire=('a', 'b'), release=())
    """
    everybody = sorted({*table.workers, worker})
    groups: dict[tuple[str, ...], list[str]] = {}
    for topic, of_topic in _by_topic(names).items():
        groups.setdefault(_with_most(topic, everybody, table), []).extend(of_topic)
    acquire: list[str] = []
    release: list[str] = []
    for workers, group in groups.items():
        wish = _share_of(group, workers, table, worker)
        acquire += wish.acquire
        release += wish.release
    return Wish(tuple(acquire), tuple(release))


def _by_topic(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition("/")[0], []).append(name)
    return found


def _with_most(topic: str, workers: Sequence[str], table: LeaseTable) -> tuple[str, ...]:
    """Those workers of whom no other one handles more of the topic; who did not say what it handles is one of them."""
    told = {each: frozenset(table.handles[each].get(topic, ())) for each in workers if each in table.handles}
    return tuple(each for each in workers if each not in told or not any(told[each] < other for other in told.values()))


def _share_of(names: Sequence[str], workers: Sequence[str], table: LeaseTable, worker: str) -> Wish:
    if worker not in workers:
        return Wish((), tuple(lease.name for lease in table.leases if lease.owner == worker and lease.name in names))
    holder = {lease.name: lease.owner for lease in table.leases}
    topics = _by_topic(names)
    held = {
        topic: {each: sum(holder.get(name) == each for name in of_topic) for each in workers}
        for topic, of_topic in topics.items()
    }
    if _is_fair(held, names, workers):
        return Wish((), ())
    acquire: list[str] = []
    release: list[str] = []
    for topic, quota in _quotas(held, topics, workers, worker).items():
        mine = [name for name in topics[topic] if holder.get(name) == worker]
        release += mine[quota:]
        free = [name for name in topics[topic] if holder.get(name) not in workers]
        start = workers.index(worker) * len(free) // len(workers)  # begin at different places: fewer races
        acquire += (free[start:] + free[:start])[: max(quota - len(mine), 0)]
    return Wish(tuple(acquire), tuple(release))


def _is_fair(held: Mapping[str, Mapping[str, int]], names: Sequence[str], workers: Sequence[str]) -> bool:
    """Whether nothing is free, and shares are equal already: then nothing moves for the sake of another order."""
    sums = {each: sum(of_topic[each] for of_topic in held.values()) for each in workers}
    return sum(sums.values()) == len(names) and all(
        max(shares.values()) - min(shares.values()) <= 1 for shares in (sums, *held.values())
    )


def _quotas(
    held: Mapping[str, Mapping[str, int]], topics: Mapping[str, Sequence[str]], workers: Sequence[str], worker: str
) -> dict[str, int]:
    """By topic, how many are this worker's.

    What a topic has beyond equal shares goes to those who got least of that from the topics before, and of these to
    those who hold most of it already: so the sums differ by one at most as well, and little moves.
    """
    extras = dict.fromkeys(workers, 0)
    found: dict[str, int] = {}
    for topic in sorted(topics):
        base, extra = divmod(len(topics[topic]), len(workers))
        first = [name for _, _, name in sorted((extras[name], -held[topic][name], name) for name in workers)][:extra]
        for each in first:
            extras[each] += 1
        found[topic] = base + (worker in first)
    return found


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
