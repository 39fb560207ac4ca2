"""Links lead somewhere, every page is in the site's menu, and paths of the repository that a page names exist."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text())):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:src|examples|tests|docs|benchmarks)/[\w/.\-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:engine|stores|brokers|embedded|integrations|cli)/[\w/]+\.py)`", text):
        assert (ROOT / "src/ensue" / name).exists(), name


def test_tests_that_a_page_names_exist() -> None:
    code = "".join(
        file.read_text() for part in ("tests", "src/ensue/conformance") for file in (ROOT / part).rglob("*.py")
    )
    named = {name for page in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text())}
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in code] == []


def test_what_the_reference_is_made_of_can_be_imported() -> None:
    named = [name for page in PAGES for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)]
    assert len(named) > 15
    for name in named:
        pkgutil.resolve_name(name)


def menu(entries: list[Any]) -> set[str]:
    found: set[str] = set()
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found |= menu(value) if isinstance(value, list) else {value}
    return found


def test_every_page_is_in_the_menu() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert menu(project["nav"]) == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


def test_every_decision_is_in_the_list_of_decisions_with_its_date_and_status() -> None:
    expected = []
    for page in sorted((DOCS / "adr").glob("0*.md")):
        title, _, about = page.read_text().split("\n", 3)[:3]
        found = re.fullmatch(r"Date: (\d{4}-\d\d-\d\d)\. Status: (.+)\.", about)
        assert found, f"{page.name}: its third line is {about!r}, expected `Date: 2026-01-31. Status: accepted.`"
        number, _, title = title.removeprefix("# ").partition(". ")
        expected.append(f"| [{number}]({page.name}) | {title} | {found[1]} | {found[2]} |")
    assert (DOCS / "adr/index.md").read_text().splitlines()[-len(expected) :] == expected


def test_decisions_are_numbered_without_a_hole() -> None:
    for number, page in enumerate(sorted((DOCS / "adr").glob("0*.md")), 1):
        assert page.read_text().startswith(f"# {number}. "), page.name
        assert page.name.startswith(f"{number:04}-")


def test_words_of_the_code_in_the_glossary_are_in_the_code() -> None:
    listed = re.findall(r"^\| \*\*(\w+)\*\* \| .+ \| `([\w/.]+)` \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(listed) > 2
    for word, file in listed:
        assert word in (ROOT / "src/ensue" / file).read_text().lower(), f"{word} is not in {file} any more"
