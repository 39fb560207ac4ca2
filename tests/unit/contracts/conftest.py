"""Failures that other tests in this process declare are no business of the services here."""

from __future__ import annotations

import pytest

from ensue.failure import _declared


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: cls for name, cls in _declared.items() if cls.__module__.startswith((__package__ or "", "ensue."))}
    monkeypatch.setattr("ensue.contracts.described._failures", ours)
