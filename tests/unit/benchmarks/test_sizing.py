"""The script behind the page on sizing runs, and the page has a place for what it finds."""

from __future__ import annotations

from benchmarks.sizing import PAGE, run


def test_each_place_that_keeps_events_has_a_size() -> None:
    figures = {figure.name: figure.value for figure in run(quick=True).figures}
    assert {"SQLite: outbox", "SQLite: log"} <= figures.keys()
    for name, value in figures.items():
        if "second life" not in name:
            assert 300 < value < 10_000, f"{name}: {value} MB per million events of 300 bytes and an envelope"


def test_the_page_has_a_place_for_the_figures() -> None:
    page = PAGE.read_text()
    assert "<!-- measured: sizing -->" in page
    assert "<!-- measured: machine -->" in page
