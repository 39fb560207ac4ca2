"""The page of fault points lists those that there are, and each of them is passed somewhere in the code."""

from __future__ import annotations

import re
from pathlib import Path

from ensue.engine.faults import POINTS

ROOT = Path(__file__).parents[2]


def test_the_page_lists_every_fault_point() -> None:
    page = (ROOT / "docs/reference/fault-points.md").read_text()
    assert dict(re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", page, re.MULTILINE)) == POINTS


def test_every_fault_point_is_passed_somewhere() -> None:
    code = "".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    assert [name for name in POINTS if f'point("{name}")' not in code] == []
