"""The pages that compare claim nothing for ours without a test, and nothing for others without a source."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["sagas-compared", "views-compared"]


def page(name: str) -> str:
    return (ROOT / f"docs/explanation/{name}.md").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    found: list[list[str]] = []
    for is_table, lines in groupby(page(name).splitlines(), lambda line: line.startswith("|")):
        if is_table:
            _, _, *body = lines
            found += [line.strip("| ").split(" | ") for line in body]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("name", PAGES)
def test_every_row_of_ours_names_a_test_that_there_is(name: str) -> None:
    code = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    for point, ours, *_ in rows(name):
        named = re.findall(r"`(test_[a-z0-9_]+)`", ours)
        assert named, f"{point}: no test is named"
        for each in named:
            assert re.search(rf"def {each}\(", code), f"{point}: there is no {each}"


def test_every_claim_about_another_says_where_it_is_from() -> None:
    for point, _, *others in rows("views-compared"):
        for each in others:
            assert re.search(r"\[\[[A-Z]\d\]\]|\]\(https://|^not described$|^our own design$", each), (point, each)


@pytest.mark.parametrize("name", PAGES)
def test_every_source_that_is_referred_to_is_listed_and_the_other_way_round(name: str) -> None:
    tables, _, sources = page(name).partition("## Sources")
    assert set(re.findall(r"\[\[([A-Z]\d)\]\]", tables)) == set(re.findall(r"\b([A-Z]\d) \[", sources))
