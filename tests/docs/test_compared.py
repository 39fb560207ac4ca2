"""The page that compares sagas claims nothing for ours without a test, and nothing for others without its source."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/sagas-compared.md").read_text()


def test_every_row_of_ours_names_a_test_that_there_is() -> None:
    code = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    _, _, *rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    for row in rows:
        point, ours, *_ = row.strip("| ").split(" | ")
        named = re.findall(r"`(test_[a-z0-9_]+)`", ours)
        assert named, f"{point}: no test is named"
        for name in named:
            assert re.search(rf"def {name}\(", code), f"{point}: there is no {name}"


def test_every_source_that_is_referred_to_is_listed_and_the_other_way_round() -> None:
    table, _, sources = PAGE.partition("## Sources")
    assert set(re.findall(r"\[\[([A-Z]\d)\]\]", table)) == set(re.findall(r"\b([A-Z]\d) \[", sources))
