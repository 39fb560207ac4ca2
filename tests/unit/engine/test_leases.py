"""Leases: what a heartbeat does to them; and fair shares: whatever the start, living workers end with equal shares, and
nothing moves that need not."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from ensue.engine.leases import Held, fair_share, until_next
from ensue.message import Lease, LeaseTable


class House:
    """The database's side, as the port promises it, and workers that look before they wish."""

    def __init__(self, names: list[str], owners: dict[str, str]) -> None:
        self.names = names
        self.owners = owners
        self.alive: set[str] = set()
        self.moves = 0

    def table(self) -> LeaseTable:
        workers = tuple(sorted(self.alive))
        return LeaseTable(workers, tuple(Lease(name, owner, 1.0) for name, owner in sorted(self.owners.items())))

    def beat(self, worker: str) -> None:
        self.alive.add(worker)
        wish = fair_share(self.names, self.table(), worker)
        for name in wish.release:
            if self.owners.get(name) == worker:
                del self.owners[name]
                self.moves += 1
        for name in wish.acquire:
            self.owners.setdefault(name, worker)

    def end(self, worker: str) -> None:
        self.alive.discard(worker)
        self.owners = {name: owner for name, owner in self.owners.items() if owner != worker}

    def shares(self) -> list[int]:
        return [sum(owner == worker for owner in self.owners.values()) for worker in sorted(self.alive)]

    def fewest_moves(self) -> int:
        """How many of the leases held must change hands so that shares differ by one at most."""
        held = sorted(self.shares(), reverse=True)
        base, extra = divmod(len(self.names), len(held))
        return sum(max(share - base - (at < extra), 0) for at, share in enumerate(held))


starts = st.tuples(
    st.integers(1, 40), st.integers(1, 7), st.lists(st.integers(0, 7), min_size=40, max_size=40), st.integers(0, 2**32)
)


def house_of(start: tuple[int, int, list[int], int]) -> tuple[House, list[str], Random]:
    size, workers, owned, seed = start
    names = [f"topic/{number}" for number in range(size)]
    alive = [f"worker-{number}" for number in range(workers)]
    # Owner 7 is nobody: a lease that is free.
    owners = {name: f"worker-{owner}" for name, owner in zip(names, owned, strict=False) if owner < workers}
    return House(names, owners), alive, Random(seed)


@settings(max_examples=200, deadline=None)
@given(starts)
def test_from_any_start_the_shares_become_equal_and_stay(start: tuple[int, int, list[int], int]) -> None:
    house, alive, random = house_of(start)
    for _ in range(8):
        for worker in random.sample(alive, len(alive)):
            house.beat(worker)
    assert set(house.owners) == set(house.names)
    assert max(house.shares()) - min(house.shares()) <= 1
    settled, moves = dict(house.owners), house.moves
    for _ in range(3):
        for worker in random.sample(alive, len(alive)):
            house.beat(worker)
    assert (house.owners, house.moves) == (settled, moves)


@settings(max_examples=200, deadline=None)
@given(starts)
def test_when_all_know_of_each_other_nothing_moves_that_need_not(start: tuple[int, int, list[int], int]) -> None:
    house, alive, random = house_of(start)
    house.alive = set(alive)
    fewest = house.fewest_moves()
    for _ in range(8):
        for worker in random.sample(alive, len(alive)):
            house.beat(worker)
    assert house.moves == fewest


@settings(max_examples=200, deadline=None)
@given(starts, st.integers(1, 5))
def test_a_worker_that_ends_or_joins_costs_no_more_moves_than_needed(
    start: tuple[int, int, list[int], int], changes: int
) -> None:
    house, alive, random = house_of(start)
    for change in range(changes):
        for _ in range(6):
            for worker in random.sample(alive, len(alive)):
                house.beat(worker)
        house.moves = 0
        if len(alive) > 1 and random.random() < 0.5:
            house.end(alive.pop(random.randrange(len(alive))))
            fewest = 0  # what it held is free for the others
        else:
            alive.append(f"joined-{change}")
            house.alive.add(alive[-1])
            fewest = house.fewest_moves()
        for _ in range(6):
            for worker in random.sample(alive, len(alive)):
                house.beat(worker)
        assert house.moves == fewest
        assert max(house.shares()) - min(house.shares()) <= 1


@given(starts)
def test_a_worker_never_wants_what_a_living_one_holds_nor_gives_up_and_takes_at_once(
    start: tuple[int, int, list[int], int],
) -> None:
    house, alive, _ = house_of(start)
    house.alive = set(alive)
    for worker in alive:
        wish = fair_share(house.names, house.table(), worker)
        assert not any(house.owners.get(name) in alive for name in wish.acquire)
        assert all(house.owners[name] == worker for name in wish.release)
        assert not (wish.acquire and wish.release)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 5),
    st.lists(st.integers(0, 6), min_size=45, max_size=45),
    st.integers(0, 2**32),
)
def test_each_topic_is_spread_and_the_sums_are_equal_too(
    sizes: list[int], workers: int, owned: list[int], seed: int
) -> None:
    names = [f"topic-{topic}/{number}" for topic, size in enumerate(sizes) for number in range(size)]
    alive, random = [f"worker-{number}" for number in range(workers)], Random(seed)
    owners = {name: f"worker-{owner}" for name, owner in zip(names, owned, strict=False) if owner < workers}
    house = House(names, owners)

    def settle(rounds: int) -> None:
        for _ in range(rounds):
            for worker in random.sample(alive, len(alive)):
                house.beat(worker)

    def shares(start: str) -> list[int]:
        held = [(name, owner) for name, owner in house.owners.items() if name.startswith(start)]
        return [sum(owner == worker for _, owner in held) for worker in alive]

    settle(12)
    assert set(house.owners) == set(names)
    for start in ("topic-", *(f"topic-{topic}/" for topic in range(len(sizes)))):
        assert max(shares(start)) - min(shares(start)) <= 1, start
    settled, moves = dict(house.owners), house.moves
    settle(3)
    assert (house.owners, house.moves) == (settled, moves)


def test_two_topics_of_two_partitions_are_shared_by_two_workers_each_a_half_of_both() -> None:
    names = ["busy/0", "busy/1", "idle/0", "idle/1"]
    leases = tuple(Lease(name, "a" if name.startswith("busy") else "b", 1.0) for name in names)
    assert fair_share(names, LeaseTable(("a", "b"), leases), "a") == ((), ("busy/1",))
    assert fair_share(names, LeaseTable(("a", "b"), leases), "b") == ((), ("idle/1",))


def test_the_next_heartbeat_comes_when_a_lease_of_another_ends_if_that_is_sooner() -> None:
    mine, soon, late = Lease("a", "me", 0.1), Lease("b", "other", 0.4), Lease("c", "third", 2.5)
    assert until_next(LeaseTable(("me",), (mine,)), "me", 1.0) == 1.0
    assert until_next(LeaseTable(("me", "third"), (mine, late)), "me", 1.0) == 1.0
    assert 0.4 < until_next(LeaseTable(("me", "other", "third"), (mine, late, soon)), "me", 1.0) < 0.5
    assert until_next(LeaseTable(("me", "other"), (Lease("b", "other", -1.0),)), "me", 1.0) > 0  # no busy loop


# --- what is stored of them

WORKERS, NAMES = ("ann", "bob", "cleo"), ("p/0", "p/1", "p/2", "relay")
some_names = st.sets(st.sampled_from(NAMES)).map(sorted)
#: (seconds since the one before, which a clock that is set back makes less than none; who; for how long; wish)
beats = st.lists(
    st.tuples(st.integers(-20, 30), st.sampled_from(WORKERS), st.integers(1, 20), some_names, some_names), max_size=30
)


class Desk:
    """The same by hand: one lease and one worker at a time, each asked what becomes of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends: dict[str, float] = {}
        self.owners: dict[str, tuple[str, float]] = {}
        self.suspects: set[str] = set()

    def beat(self, worker: str, ttl_s: float, acquire: list[str], release: list[str]) -> None:
        for each in WORKERS:
            if each == worker:
                self.ends[each] = self.now + ttl_s
            elif self.ends.get(each, 0.0) <= self.now:
                self.ends.pop(each, None)
            else:
                self.ends[each] = min(self.ends[each], self.now + ttl_s)
        for name in NAMES:
            owner, end = self.owners.pop(name, ("", 0.0))
            if owner not in ("", worker) and end <= self.now:
                self.suspects.add(name)
            if owner == worker and name not in release:
                self.owners[name] = (worker, self.now + ttl_s)
            elif owner not in ("", worker) and end > self.now:
                self.owners[name] = (owner, min(end, self.now + ttl_s))
            elif name in acquire:
                self.owners[name] = (worker, self.now + ttl_s)

    def table(self) -> LeaseTable:
        leases = [Lease(name, owner, end - self.now) for name, (owner, end) in self.owners.items() if end > self.now]
        workers = [name for name, end in self.ends.items() if end > self.now]
        by_name = sorted(leases, key=lambda lease: lease.name)
        return LeaseTable(tuple(sorted(workers)), tuple(by_name), suspects=tuple(sorted(self.suspects)))


@settings(max_examples=300, deadline=None)
@given(beats)
def test_whatever_workers_ask_for_each_heartbeat_does_what_it_says(
    beats: list[tuple[int, str, int, list[str], list[str]]],
) -> None:
    held, desk = Held(), Desk()
    for passed_s, worker, ttl_s, acquire, release in beats:
        desk.now += passed_s
        others = {each.name: each.owner for each in held.table(desk.now).leases if each.owner != worker}
        held = msgspec.json.decode(msgspec.json.encode(held.beat(worker, desk.now, ttl_s, acquire, release)), type=Held)
        desk.beat(worker, ttl_s, acquire, release)
        table = held.table(desk.now)
        assert table == desk.table()
        found = {each.name: each.owner for each in table.leases}
        assert worker in table.workers
        assert others.items() <= found.items(), "a lease was taken from one who lives"
        assert set(acquire) <= set(found), "a lease that nobody holds was not given to who asked"
        assert all(each.expires_in_s <= ttl_s for each in table.leases), "a lease from a clock that was set back"
        later = held.table(desk.now + 20.0)
        assert (later.workers, later.leases) == ((), ()), "somebody lives without a heartbeat"


@settings(deadline=None)
@given(beats, st.sets(st.sampled_from(WORKERS)))
def test_workers_that_are_gone_hold_nothing_and_the_others_what_they_held(
    beats: list[tuple[int, str, int, list[str], list[str]]], gone: set[str]
) -> None:
    held, now = Held(), 1000.0
    for passed_s, worker, ttl_s, acquire, release in beats:
        now += abs(passed_s)
        held = held.beat(worker, now, ttl_s, acquire, release)
    before, after = held.table(now), held.without(gone.__contains__).table(now)
    assert after.workers == tuple(each for each in before.workers if each not in gone)
    assert after.leases == tuple(each for each in before.leases if each.owner not in gone)
    assert after.suspects == before.suspects, "who gives up what it held leaves nothing suspect"
    buried = held.without(gone.__contains__, suspect=True)
    left = {name for name, (owner, _) in held.leases.items() if owner in gone}
    assert buried.suspects == tuple(sorted({*before.suspects, *left}))


@settings(deadline=None)
@given(beats)
def test_nobody_gets_a_paused_name_and_what_a_person_said_outlives_all_workers(
    beats: list[tuple[int, str, int, list[str], list[str]]],
) -> None:
    held, now = Held().pause(NAMES[0]), 1000.0
    for passed_s, worker, ttl_s, acquire, release in beats:
        now += abs(passed_s)
        held = msgspec.json.decode(msgspec.json.encode(held.beat(worker, now, ttl_s, acquire, release)), type=Held)
        held = held.without("nobody".__eq__)
    table = held.without(lambda worker: True, suspect=True).table(now)
    assert table.paused == (NAMES[0],)
    assert NAMES[0] not in held.leases
    assert NAMES[0] not in table.suspects
    assert NAMES[0] in held.resume(NAMES[0]).beat("ann", now, 3.0, [NAMES[0]]).leases


def test_who_is_asked_to_release_is_asked_until_it_does_or_has_it_no_more() -> None:
    held = Held().beat("ann", 0.0, 3.0, ["p/0", "p/1"]).release("p/0")
    assert held.beat("ann", 1.0, 3.0).table(1.0).released == ("p/0",)
    assert held.beat("bob", 1.0, 3.0, ["p/0"]).table(1.0).released == ("p/0",), "it is not taken away from who works"
    assert held.beat("ann", 1.0, 3.0, release=["p/0"]).table(1.0).released == ()
    assert held.without("ann".__eq__).table(1.0).released == ()
    assert held.beat("bob", 9.0, 3.0, ["p/0"]).table(9.0).released == (), "its worker had died"


def test_only_who_holds_a_suspect_name_clears_it() -> None:
    held = Held().beat("ann", 0.0, 3.0, ["p/0", "p/1"]).without("ann".__eq__, suspect=True)
    held = held.beat("bob", 1.0, 3.0, ["p/0"]).beat("cleo", 1.0, 3.0, ["p/1"], cleared=["p/0"])
    assert held.table(1.0).suspects == ("p/0", "p/1")
    assert held.beat("bob", 2.0, 3.0, cleared=["p/0", "p/1"]).table(2.0).suspects == ("p/1",)


def test_a_worker_is_busy_since_when_it_says_so_until_it_does_not_or_lives_no_more() -> None:
    held = Held().beat("ann", 100.0, 3.0, busy=(40.0, "a long one")).beat("bob", 101.0, 3.0)
    assert [(each.worker, each.running_s, each.what) for each in held.table(102.0).busy] == [
        ("ann", 42.0, "a long one")
    ]
    assert held.table(110.0).busy == ()
    assert held.beat("ann", 102.0, 3.0).table(102.0).busy == ()
