"""The pipeline on real servers: both sides do their work on each pair, for a few events; how fast, no test asks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from benchmarks.engines.bare_side import BareSide
from benchmarks.engines.entities import run
from benchmarks.engines.pairs import PAIRS, running
from benchmarks.workload import transfers
from tests.conftest import required


@pytest.mark.parametrize("name", PAIRS)
def test_both_sides_work_off_the_backlog_on_each_pair(name: str) -> None:
    required(PAIRS[name].missing)
    report = run(True, [name])
    assert len(report.figures) == 7
    assert all(figure.value > 0 for figure in report.figures)


def test_a_pair_whose_server_is_not_installed_is_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(PAIRS["nats"], store=_Absent)  # type: ignore[arg-type]  # only asked whether it is there
    monkeypatch.setitem(PAIRS, "nats", absent)
    [figure] = run(True).figures
    assert "is not there" in figure.name


def test_a_loop_that_leaves_out_an_event_does_not_count() -> None:
    required(PAIRS["postgres"].missing)

    def forgetful(database: Any) -> Any:
        async def apply(records: Any) -> None:
            await database.apply(records)
            await database.steps.execute("UPDATE accounts SET changes = changes - 1 WHERE changes = 1")

        return apply

    with running(PAIRS["postgres"]) as servers, pytest.raises(AssertionError, match="expected"):
        BareSide(servers, list(transfers(20))).run(10, forgetful)


class _Absent:
    @staticmethod
    def missing() -> str:
        return "the server is not there"
