"""`ensue views check` and `at`, where their caller goes on living. What they say: `tests/views`, the how-to page."""

from __future__ import annotations

import logging

import pytest

from ensue.cli.view_check import _quietly


def test_who_calls_a_check_hears_of_other_things_as_before(caplog: pytest.LogCaptureFixture) -> None:
    """It had kept warnings from the whole process for good."""
    said = logging.getLogger("ensue.relay")
    with _quietly():
        said.warning("a fold's own news")
    said.warning("news")
    assert caplog.messages == ["news"]
