"""Who decides is told from who does not; and decisions that lie in two places come in one order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ensue import Service
from ensue.adapters import make_store
from ensue.console.changes import standing
from ensue.deciding import ACTOR_CHARS_MAX, REASON_CHARS_MAX, Deciding, Face
from ensue.engine.books import Books
from ensue.errors import UsageError
from ensue.operations.decisions import decisions, last_decisions, newest
from ensue.operations.opening import Opened
from ensue.ports import Table
from ensue.stores.memory import MemoryStore
from ensue.tables import DECISIONS


def test_what_somebody_says_is_one_line() -> None:
    by = Deciding(actor="ann\x1b[2J", origin=Face.CLI, reason="one\ntwo")
    assert (by.actor, by.reason) == (r"ann\x1b[2J", r"one\ntwo")


@pytest.mark.parametrize(
    ("actor", "reason", "said"),
    [
        ("", "", "nobody decides"),
        (" ", "", "nobody decides"),
        ("a" * (ACTOR_CHARS_MAX + 1), "", f"expected a text of at most {ACTOR_CHARS_MAX} characters"),
        ("ann", "r" * (REASON_CHARS_MAX + 1), f"expected a text of at most {REASON_CHARS_MAX} characters"),
    ],
)
def test_nobody_and_too_much_are_refused_before_anything_is_done(actor: str, reason: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Deciding(actor=actor, origin=Face.API, reason=reason)


async def test_decisions_of_two_places_come_in_the_order_in_which_they_were_taken(tmp_path: Path) -> None:
    stores = [make_store(f"sqlite:///{tmp_path}/{name}.db", "desk") for name in ("one", "other")]
    for store in stores:
        await store.open()
    try:
        books = [Books(store, "desk") for store in stores]
        by = Deciding(actor="ann", origin=Face.CONSOLE)
        for number, at in enumerate([0, 1, 1, 0, 0, 1]):
            async with stores[at].transaction() as transaction:
                await books[at].record(transaction, by, "test", str(number))
        found = [each async for each in decisions(books)]
        assert [each.decided_at for each in found] == sorted(each.decided_at for each in found)
        assert {each.target for each in found} == {"0", "1", "2", "3", "4", "5"}
        assert [await newest(books, limit) for limit in (5, 6)] == [(found[1:], True), (found, False)]
        assert await last_decisions(books, 2) == found[-2:]
        assert await last_decisions(books, 9) == found
        assert await last_decisions(books, 2, (found[3].decided_at, found[3].id)) == found[1:3]
        assert [each async for each in decisions(books[:1])] == [each for each in found if each.target in "034"]
    finally:
        for store in stores:
            await store.close()


async def test_the_last_decisions_are_read_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of however many: what is read is what is shown."""
    store = MemoryStore("desk")
    await store.open()
    try:
        books, by, read = Books(store, "desk"), Deciding(actor="ann", origin=Face.CONSOLE), 0
        async with store.transaction() as transaction:
            for number in range(700):
                await books.record(transaction, by, "test", str(number))
        reader = store.rows()
        find = reader.find

        async def counted(*asked: Any, **where: Any) -> Sequence[Any]:
            nonlocal read
            found = await find(*asked, **where)
            read += len(found)
            return found

        monkeypatch.setattr(reader, "find", counted)
        monkeypatch.setattr(store, "rows", lambda: reader)
        last, more = await newest([books], 200)
        assert (len(last), more, read) == (200, True, 201)
        # Nor does an open page of the console, which looks each second whether there are new ones.
        count = reader.count

        async def checked(table: Table, *asked: Any) -> int:
            assert table is not DECISIONS
            return await count(table, *asked)

        monkeypatch.setattr(reader, "count", checked)
        service = Service("desk")
        access, read = Opened(service, service.settings(), store, None), 0
        before = await standing(access)
        assert read < 10
        async with store.transaction() as transaction:
            await books.record(transaction, by, "test", "one more")
        assert await standing(access) != before
    finally:
        await store.close()
