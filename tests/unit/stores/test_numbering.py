"""Positions are dense and in order, and each record names the one before it in its partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ensue.conformance.store_suite import check_chain, positions, record
from ensue.stores.numbering import Place, begin_after, number

PARTITIONS = st.lists(st.integers(0, 2), max_size=12)


@given(st.lists(PARTITIONS, max_size=4), st.lists(PARTITIONS, max_size=4))
def test_batches_of_any_transactions_are_one_chain(first: list[list[int]], second: list[list[int]]) -> None:
    heads: dict[Place, int] = {}
    last = 0
    found = []
    for transaction in (first, second):
        moved: dict[Place, int] = {}
        before = dict(heads)
        for partitions in transaction:
            batch = [record(partition=each) for each in partitions]
            last = number(batch, last, heads, moved)
            found += batch
        assert heads == before, "what a transaction knew is there for it when it is undone"
        heads |= moved
    assert positions(found) == list(range(1, last + 1))
    check_chain(found)
    assert heads == {(each.topic, each.partition): each.position for each in found}


def test_the_first_records_of_an_epoch_follow_on_nothing() -> None:
    batch = [record(), record(), record(partition=1)]
    number(batch, 7, {("orders", 0): 3, ("orders", 1): 6}, {})
    begin_after(batch, 5)
    assert [each.previous for each in batch] == [0, 8, 6]
