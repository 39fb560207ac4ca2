"""Queries on entities without SQL: by id and by a lookup, a page at a time, committed rows only."""

from __future__ import annotations

import asyncio
from random import Random

from ensue.conformance.store_suite import ITEMS, StoreSuite, Undo
from ensue.ports import Lookup, Store

BY_OWNER, ALL = ITEMS.lookups
Row = tuple[str, str | None, int, str]


class Reading(StoreSuite):
    async def found(self, store: Store, lookup: Lookup = ALL, *equal: object, **where: object) -> list[str]:
        """Ids in the order found."""
        limits = {"limit": 1000, **where}
        return [row[0] for row in await store.rows().find(ITEMS, lookup, equal, **limits)]  # type: ignore[arg-type]  # by name

    async def test_rows_are_found_by_id(self) -> None:
        async with self.opened() as store:
            rows: list[Row] = [("a", "ann", 1, "x"), ("b", "bob", 2, ""), ("c", None, -3, "ü'\"$")]
            await self.put(store, ITEMS, rows)
            reader = store.rows()
            found = await reader.get(ITEMS, ["c", "a", "nobody", "a"])
            assert sorted(map(tuple, found)) == [rows[0], rows[2]], "each row once, as it was inserted"
            assert list(await reader.get(ITEMS, [])) == []
            many = [*(f"nobody-{number}" for number in range(2000)), "b"]
            assert [tuple(row) for row in await reader.get(ITEMS, many)] == [rows[1]]

    async def test_rows_of_one_place_come_in_the_order_of_the_index(self) -> None:
        async with self.opened() as store:
            rows: list[Row] = [("e", "ann", 10, ""), ("d", "ann", 9, ""), ("c", "bob", -1, ""), ("b", "ann", 9, "")]
            await self.put(store, ITEMS, rows)
            assert await self.found(store, BY_OWNER, "ann") == ["b", "d", "e"]
            assert await self.found(store, BY_OWNER, "an") == []
            assert await self.found(store) == ["c", "b", "d", "e"]
            assert await self.found(store, BY_OWNER, "ann", limit=2) == ["b", "d"]

    async def test_a_page_begins_where_it_is_told(self) -> None:
        async with self.opened() as store:
            await self.put(store, ITEMS, [(f"i{number}", "ann", number // 2, "") for number in range(8)])
            assert await self.found(store, BY_OWNER, "ann", since=[2]) == ["i4", "i5", "i6", "i7"]
            assert await self.found(store, BY_OWNER, "ann", since=[2, "i5"]) == ["i5", "i6", "i7"]
            assert await self.found(store, BY_OWNER, "ann", after=[2, "i5"]) == ["i6", "i7"]
            assert await self.found(store, since=[3], after=[1, "i2"]) == ["i6", "i7"]
            assert await self.found(store, since=[1], after=[2, "i4"], limit=1) == ["i5"]
            assert await self.found(store, after=[9, ""]) == []

    async def test_pages_put_together_are_everything_in_order(self) -> None:
        seed = 20260101
        random = Random(seed)
        rows: list[Row] = [
            (f"{random.randrange(10**9)}-{number}", random.choice(("ann", "bob")), random.randrange(-20, 20) ** 5, "")
            for number in range(60)
        ]
        async with self.opened() as store:
            await self.put(store, ITEMS, rows)
            expected = [row[0] for row in sorted(rows, key=lambda row: (row[2], row[0])) if row[1] == "ann"]
            pages: list[str] = []
            after: list[object] = []
            while page := await store.rows().find(ITEMS, BY_OWNER, ["ann"], after=after, limit=7):
                pages += [row[0] for row in page]
                after = [page[-1][2], page[-1][0]]
            assert pages == expected, f"seed {seed}"

    async def test_a_row_that_changes_moves_in_every_index(self) -> None:
        async with self.opened() as store:
            await self.put(store, ITEMS, [("a", "ann", 1, ""), ("b", "ann", 2, ""), ("c", "bob", 3, "")])
            async with store.transaction() as transaction:
                await transaction.load_rows(ITEMS, ["a"])
                await transaction.update_rows(ITEMS, [("a", "bob", 9, "moved")])
            assert await self.found(store, BY_OWNER, "ann") == ["b"]
            assert await self.found(store, BY_OWNER, "bob") == ["c", "a"]
            assert await self.found(store) == ["b", "c", "a"]
            assert [await store.rows().count(ITEMS, BY_OWNER, [owner]) for owner in ("ann", "bob", "eve")] == [1, 2, 0]

    async def test_rows_are_counted(self) -> None:
        async with self.opened() as store:
            await self.put(store, ITEMS, [(str(number), "ann" if number % 3 else None, 0, "") for number in range(9)])
            reader = store.rows()
            assert await reader.count(ITEMS, ALL, []) == 9
            assert await reader.count(ITEMS, BY_OWNER, ["ann"]) == 6
            assert await reader.count(ITEMS, BY_OWNER, [None]) == 3
            assert len(await self.found(store, BY_OWNER, None)) == 3

    async def test_a_query_sees_committed_rows_only(self) -> None:
        async with self.opened() as store:
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
