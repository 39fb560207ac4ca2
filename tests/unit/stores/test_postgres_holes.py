"""Which ids of the outbox are read: the rule against a model of transactions that take ids and end in any order."""

from __future__ import annotations

from random import Random

import pytest

from ensue.stores.postgres.holes import Hole, advance


def test_a_missing_id_is_a_hole_until_those_who_might_fill_it_have_ended() -> None:
    seen, holes = advance(0, [], [1, 2, 5], oldest=10, whole=True)
    assert (seen, holes) == (5, [Hole(3, 4, 0)])
    holes = [Hole(3, 4, 20)]  # as it is written down: by transaction 20
    assert advance(5, holes, [6], oldest=19, whole=True) == (6, holes)
    assert advance(5, holes, [4, 6], oldest=19, whole=True) == (6, [Hole(3, 3, 20)])
    assert advance(5, holes, [6], oldest=20, whole=True) == (6, [])


def test_a_hole_of_which_not_everything_visible_was_taken_stays() -> None:
    assert advance(9, [Hole(3, 6, 20)], [4], oldest=30, whole=False) == (9, [Hole(3, 3, 20), Hole(5, 6, 20)])


class Model:
    """Transactions get an id, then take ids of the outbox, then commit or roll back; a reader looks in between."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.busy = True
        self.next_xid = 1
        self.next_id = 1
        self.open: dict[int, list[int]] = {}
        self.visible: set[int] = set()
        self.taken: list[int] = []
        self.seen = 0
        self.holes: list[Hole] = []

    def begin(self) -> None:
        self.open[self.next_xid] = []
        self.next_xid += 1

    def publish(self) -> None:
        if self.open:
            ids = self.open[self.random.choice(list(self.open))]
            for _ in range(self.random.randint(1, 4)):
                ids.append(self.next_id)
                self.next_id += 1

    def end(self) -> None:
        if self.open:
            ids = self.open.pop(self.random.choice(list(self.open)))
            if self.random.random() < 0.7:
                self.visible |= set(ids)

    def look(self, limit: int) -> int:
        """Read and take what the statement of `polled.py` would, in one snapshot; return how many."""
        oldest = min(self.open, default=self.next_xid)
        new = sorted(each for each in self.visible if each > self.seen)[:limit]
        late = sorted(each for each in self.visible if any(hole.first <= each <= hole.last for hole in self.holes))[
            :limit
        ]
        taken = sorted(late + new)[:limit]
        if not taken:
            return 0
        assert not set(taken) & set(self.taken), "a record got two positions"
        if self.busy and self.random.random() < 0.5:  # others begin and publish between the look and what it writes
            self.begin()
            self.publish()
        writer, self.next_xid = self.next_xid, self.next_xid + 1
        self.seen, holes = advance(self.seen, self.holes, taken, oldest, whole=len(late) < limit)
        self.holes = [each if each.before else each._replace(before=writer) for each in holes]
        self.taken += taken
        return len(taken)


@pytest.mark.parametrize("seed", range(200))
def test_every_committed_record_is_read_exactly_once_whenever_it_commits(seed: int) -> None:
    model = Model(Random(seed))
    for _ in range(300):
        step = model.random.choice([model.begin, model.publish, model.publish, model.end, None])
        if step is None:
            model.look(model.random.choice([1, 2, 5, 100]))
        else:
            step()
    model.busy = False
    while model.open:
        model.end()
    while model.look(100):
        pass
    assert sorted(model.taken) == sorted(model.visible), f"seed {seed}"
    for _ in range(2):  # the first one may leave the ids that were rolled back last as a hole, the second drops it
        model.begin()
        model.publish()
        model.visible |= set(model.open.pop(model.next_xid - 1))
        assert model.look(100)
    assert not model.holes, f"seed {seed}: kept though nobody can fill them"
