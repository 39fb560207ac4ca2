"""Queries on entities without SQL: by id and by a lookup, a page at a time, committed rows only."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from random import Random

import pytest

from ensue.conformance.store_suite import AMOUNTS, ITEMS, StoreSuite, Undo
from ensue.errors import EnsueError, RowConflict
from ensue.ports import Lookup, Store
from ensue.tables import ANSWERS, CLAIMS, LEASES

BY_OWNER, ALL, OWNERS = ITEMS.lookups
Row = tuple[str, str | None, int, str]


class Reading(StoreSuite):
    async def found(self, store: Store, lookup: Lookup = ALL, *equal: object, **where: object) -> list[str]:
        """Ids in the order found."""
        limits = {"limit": 1000, **where}
        return [row[0] for row in await store.rows().find(ITEMS, lookup, equal, **limits)]  # type: ignore[arg-type]  # by name

    async def test_rows_are_found_by_id(self, store: Store) -> None:
        rows: list[Row] = [("a", "ann", 1, "x"), ("b", "bob", 2, ""), ("c", None, -3, "ü'\"$")]
        await self.put(store, ITEMS, rows)
        reader = store.rows()
        found = await reader.get(ITEMS, ["c", "a", "nobody", "a"])
        assert sorted(map(tuple, found)) == [rows[0], rows[2]], "each row once, as it was inserted"
        assert list(await reader.get(ITEMS, [])) == []
        many = [*(f"nobody-{number}" for number in range(2000)), "b"]
        assert [tuple(row) for row in await reader.get(ITEMS, many)] == [rows[1]]

    async def test_rows_of_one_place_come_in_the_order_of_the_index(self, store: Store) -> None:
        rows: list[Row] = [("e", "ann", 10, ""), ("d", "ann", 9, ""), ("c", "bob", -1, ""), ("b", "ann", 9, "")]
        await self.put(store, ITEMS, rows)
        assert await self.found(store, BY_OWNER, "ann") == ["b", "d", "e"]
        assert await self.found(store, BY_OWNER, "an") == []
        assert await self.found(store) == ["c", "b", "d", "e"]
        assert await self.found(store, BY_OWNER, "ann", limit=2) == ["b", "d"]

    async def test_a_page_begins_where_it_is_told(self, store: Store) -> None:
        await self.put(store, ITEMS, [(f"i{number}", "ann", number // 2, "") for number in range(8)])
        assert await self.found(store, BY_OWNER, "ann", since=[2]) == ["i4", "i5", "i6", "i7"]
        assert await self.found(store, BY_OWNER, "ann", since=[2, "i5"]) == ["i5", "i6", "i7"]
        assert await self.found(store, BY_OWNER, "ann", after=[2, "i5"]) == ["i6", "i7"]
        assert await self.found(store, since=[3], after=[1, "i2"]) == ["i6", "i7"]
        assert await self.found(store, since=[1], after=[2, "i4"], limit=1) == ["i5"]
        assert await self.found(store, after=[9, ""]) == []

    async def test_pages_put_together_are_everything_in_order(self, store: Store) -> None:
        seed = 20260101
        random = Random(seed)
        rows: list[Row] = [
            (f"{random.randrange(10**9)}-{number}", random.choice(("ann", "bob")), random.randrange(-20, 20) ** 5, "")
            for number in range(60)
        ]
        await self.put(store, ITEMS, rows)
        expected = [row[0] for row in sorted(rows, key=lambda row: (row[2], row[0])) if row[1] == "ann"]
        pages: list[str] = []
        after: list[object] = []
        while page := await store.rows().find(ITEMS, BY_OWNER, ["ann"], after=after, limit=7):
            pages += [row[0] for row in page]
            after = [page[-1][2], page[-1][0]]
        assert pages == expected, f"seed {seed}"

    async def test_nothing_comes_first_and_pages_go_on_after_it(self, store: Store) -> None:
        owners = [None, "ann", None, "bob", None]
        await self.put(store, ITEMS, [(f"i{number}", owner, number // 2, "") for number, owner in enumerate(owners)])
        expected = ["i0", "i2", "i4", "i1", "i3"]
        assert await self.found(store, OWNERS) == expected
        for number, place in enumerate(expected[:-1]):
            row = int(place[1:])
            after = [owners[row], row // 2, place]
            assert await self.found(store, OWNERS, after=after) == expected[number + 1 :], f"after {after}"
            assert await self.found(store, OWNERS, since=after, limit=2) == expected[number : number + 2]
        assert await self.found(store, OWNERS, since=[None, 1]) == expected[1:]

    async def test_the_last_rows_are_found_from_the_end(self, store: Store) -> None:
        owners = [None, "ann", None, "bob", None, "ann"]
        await self.put(store, ITEMS, [(f"i{number}", owner, number // 2, "") for number, owner in enumerate(owners)])
        expected = ["i3", "i5", "i1", "i4", "i2", "i0"]
        assert await self.found(store, OWNERS, backward=True) == expected
        assert await self.found(store, BY_OWNER, "ann", limit=1, backward=True) == ["i5"]
        for number, place in enumerate(expected):
            row = int(place[1:])
            before = [owners[row], row // 2, place]
            rest = expected[number + 1 :]
            assert await self.found(store, OWNERS, after=before, backward=True) == rest, f"before {before}"
            assert await self.found(store, OWNERS, after=before, limit=1, backward=True) == rest[:1]
        ends = await self.found(store, OWNERS, since=["ann"], after=["bob", 1, "i3"], backward=True)
        assert ends == ["i5", "i1"]
        assert await self.found(store, after=[1, "i2"], backward=True) == ["i1", "i0"], "without what may be nothing"

    async def test_decimals_are_in_the_order_of_their_numbers(self, store: Store) -> None:
        texts = ["-20.0000", "-3.5000", "0.0000", "0.0500", "9.0000", "10.0000", "10.0000", "100.2500"]
        rows = [(f"i{number}", text) for number, text in enumerate(texts)]
        await self.put(store, AMOUNTS, [*reversed(rows), ("none", None)])
        [by_amount] = AMOUNTS.lookups
        found = await store.rows().find(AMOUNTS, by_amount, [], limit=99)
        assert [row[0] for row in found] == ["none", *(row[0] for row in rows)]
        assert [Decimal(str(row[1])) for row in found[1:]] == [Decimal(text) for text in texts]
        rest = await store.rows().find(AMOUNTS, by_amount, [], after=["10", "i5"], limit=99)
        assert [row[0] for row in rest] == ["i6", "i7"], "the same number in another spelling"

    async def test_a_row_that_changes_moves_in_every_index(self, store: Store) -> None:
        await self.put(store, ITEMS, [("a", "ann", 1, ""), ("b", "ann", 2, ""), ("c", "bob", 3, "")])
        async with store.transaction() as transaction:
            await transaction.load_rows(ITEMS, ["a"])
            await transaction.update_rows(ITEMS, [("a", "bob", 9, "moved")])
        assert await self.found(store, BY_OWNER, "ann") == ["b"]
        assert await self.found(store, BY_OWNER, "bob") == ["c", "a"]
        assert await self.found(store) == ["b", "c", "a"]
        assert [await store.rows().count(ITEMS, BY_OWNER, [owner]) for owner in ("ann", "bob", "eve")] == [1, 2, 0]

    async def test_rows_are_counted(self, store: Store) -> None:
        await self.put(store, ITEMS, [(str(number), "ann" if number % 3 else None, 0, "") for number in range(9)])
        reader = store.rows()
        assert await reader.count(ITEMS, ALL, []) == 9
        assert await reader.count(ITEMS, BY_OWNER, ["ann"]) == 6
        assert await reader.count(ITEMS, BY_OWNER, [None]) == 3
        assert len(await self.found(store, BY_OWNER, None)) == 3

    async def test_a_query_sees_committed_rows_only(self, store: Store) -> None:
        await self.put(store, ITEMS, [("a", "ann", 1, "")])
        try:
            async with store.transaction() as transaction:
                await transaction.load_rows(ITEMS, ["a"])
                await transaction.update_rows(ITEMS, [("a", "bob", 2, "")])
                async with asyncio.timeout(self.patience_s):
                    assert [tuple(row) for row in await store.rows().get(ITEMS, ["a"])] == [("a", "ann", 1, "")]
                    assert await self.found(store, BY_OWNER, "bob") == []
                    assert await store.rows().count(ITEMS, BY_OWNER, ["ann"]) == 1
                raise Undo
        except Undo:
            pass
        assert await self.found(store, BY_OWNER, "ann") == ["a"]
        assert await self.found(store, BY_OWNER, "bob") == []

    # --- rows of Ensue's own tables: what is expected of them

    async def test_a_row_that_is_as_expected_changes_and_goes(self, store: Store) -> None:
        await self.put(store, LEASES, [("x", 1, "one")])
        async with store.transaction() as transaction:
            await transaction.update_rows(LEASES, [("x", 2, "two")], expect=[1])
        assert [tuple(row) for row in await store.rows().get(LEASES, ["x"])] == [("x", 2, "two")]
        async with store.transaction() as transaction:
            await transaction.delete_rows(LEASES, ["x"], expect=[2])
        assert list(await store.rows().get(LEASES, ["x"])) == []

    @pytest.mark.parametrize("expected", [0, 2])
    async def test_a_row_that_is_not_as_expected_dooms_the_step(self, store: Store, expected: int) -> None:
        """Whatever becomes of the error: a caught one must not let half of a step commit."""
        await self.put(store, LEASES, [("x", 1, "one")])
        for change in ("update", "delete"):
            with pytest.raises(EnsueError):
                async with store.transaction() as transaction:
                    await self.leave(transaction, "never")
                    with contextlib.suppress(RowConflict):
                        if change == "update":
                            await transaction.update_rows(LEASES, [("x", 9, "other")], expect=[expected])
                        else:
                            await transaction.delete_rows(LEASES, ["x"], expect=[expected])
        assert [tuple(row) for row in await store.rows().get(LEASES, ["x"])] == [("x", 1, "one")]
        assert await self.traces(store) == []

    async def test_a_row_that_is_gone_is_not_as_expected(self, store: Store) -> None:
        for change in ("update", "delete"):
            with pytest.raises(RowConflict):
                async with store.transaction() as transaction:
                    if change == "update":
                        await transaction.update_rows(LEASES, [("x", 2, "")], expect=[1])
                    else:
                        await transaction.delete_rows(LEASES, ["x"], expect=[1])

    async def test_an_own_row_that_is_there_already_dooms_the_step(self, store: Store) -> None:
        await self.put(store, LEASES, [("x", 1, "one")])
        with pytest.raises(EnsueError):
            async with store.transaction() as transaction:
                await self.leave(transaction, "never")
                with contextlib.suppress(RowConflict):
                    await transaction.insert_rows(LEASES, [("x", 1, "two")])
        assert [tuple(row) for row in await store.rows().get(LEASES, ["x"])] == [("x", 1, "one")]
        assert await self.traces(store) == []

    async def test_rows_are_deleted_and_missing_ones_passed_over(self, store: Store) -> None:
        rows = [(f"k{number:04}", float(number)) for number in range(1200)]
        async with store.transaction() as transaction:
            await transaction.insert_rows(CLAIMS, rows)
        async with store.transaction() as transaction:
            await transaction.delete_rows(CLAIMS, [*(row[0] for row in rows[:1100]), "missing"])
            left = [each for each, _ in await transaction.load_rows(CLAIMS, ["k0000", "k1100"])]
            assert left == ["k1100"], "a step does not see what it deleted itself"
        [by_time] = CLAIMS.lookups
        found = await store.rows().find(CLAIMS, by_time, (), limit=1000)
        assert [tuple(row) for row in found] == rows[1100:]
        assert await store.rows().count(CLAIMS, by_time, ()) == 100

    async def test_of_steps_that_expect_one_revision_exactly_one_commits(self, store: Store, other: Store) -> None:
        await self.put(store, LEASES, [("x", 0, "")])

        async def step(number: int) -> None:
            async with (other if number % 2 else store).transaction(upkeep=number > 1) as transaction:
                await transaction.update_rows(LEASES, [("x", 1, str(number))], expect=[0])

        async with asyncio.timeout(self.patience_s):
            outcomes = await asyncio.gather(*map(step, range(4)), return_exceptions=True)
        winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
        assert len(winners) == 1, outcomes
        assert all(isinstance(outcome, RowConflict) for outcome in outcomes if outcome is not None), outcomes
        assert [tuple(row) for row in await store.rows().get(LEASES, ["x"])] == [("x", 1, str(winners[0]))]

    async def test_own_rows_hold_any_text_and_bytes(self, store: Store) -> None:
        text = "quote ' \" ` backslash \\ percent % colon :a ? dollar $1 newline \n tab \t euro \u20ac emoji \U0001f600"
        raw = bytes(range(256)) * 3
        row = ("odd'id\\", text, text, -(2**63), text, raw, -0.125)
        await self.put(store, ANSWERS, [row])
        [found] = await store.rows().get(ANSWERS, [row[0]])
        assert [bytes(value) if isinstance(value, memoryview) else value for value in found] == list(row)
        async with store.transaction() as transaction:
            [loaded] = await transaction.load_rows(ANSWERS, [row[0]])
        assert tuple(loaded) == row
