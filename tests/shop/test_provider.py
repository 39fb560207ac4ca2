"""The payment provider's book: what came under one key is done once, whatever happens to the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from shop.provider.book import Book
from shop.provider.server import TROUBLE, Provider


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with closing(Book(tmp_path / "provider.db")) as found:
        yield found


def of(pence: int, payment: str = "p-1") -> dict[str, Any]:
    return {"payment": payment, "pence": pence}


def test_what_comes_again_under_its_key_is_answered_and_not_done_again(book: Book) -> None:
    assert book.once("k-1", "authorisations", of(500)) == book.once("k-1", "authorisations", of(500))
    [entry] = book.entries()
    assert (entry["pence"], entry["asked"]) == (500, 2)
    assert book.once("k-1", "authorisations", of(501))[0] == 422


def test_its_book_outlives_it(book: Book, tmp_path: Path) -> None:
    first = book.once("k-1", "authorisations", of(500))
    with closing(Book(tmp_path / "provider.db")) as again:
        assert again.once("k-1", "authorisations", of(500)) == first


def test_it_takes_what_is_held_and_gives_back_what_was_taken(book: Book) -> None:
    assert book.once("k-1", "captures", of(500))[0] == 409
    assert book.once("k-2", "authorisations", of(500))[0] == 200
    assert book.once("k-3", "refunds", of(500))[0] == 409
    assert book.once("k-1", "captures", of(500))[0] == 200
    assert book.once("k-3", "refunds", of(500))[0] == 200


def test_a_card_is_good_for_so_much_at_once(book: Book) -> None:
    assert book.once("k-1", "authorisations", of(500_001))[0] == 402
    assert book.once("k-2", "authorisations", of(500_000))[0] == 200


def test_what_was_voided_is_not_held_later(book: Book) -> None:
    """An authorisation that was slow on its way comes behind the void of it."""
    assert book.once("k-1", "voids", {"payment": "p-1"})[0] == 200
    assert book.once("k-2", "authorisations", of(500))[0] == 402
    assert [each["pence"] for each in book.entries() if each["status"] == 200] == [0]


def test_its_trouble_is_the_same_for_a_seed(book: Book) -> None:
    def drawn(seed: int) -> list[str]:
        with Provider(0, book, Random(seed), TROUBLE) as provider:
            return [provider.chance()[0] for _ in range(2000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {*TROUBLE, ""} == set(drawn(1))
