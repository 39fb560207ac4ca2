"""Each benchmark runs and reports; how fast anything is, no test asks."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path

import pytest
from benchmarks.__main__ import NAMES, load, main
from tests.conftest import required

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(300)  # servers with their default durability, on a machine that does other things too
@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_reports_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gc, "collect", lambda: 0
    )  # what is done for fair figures, a hundred times, and none is looked at
    report = load(name)(True)
    assert report.name == name
    for figure in report.figures:
        if figure.name.startswith("left out: "):
            required(figure.name.removeprefix("left out: "))
    assert report.figures
    assert all(math.isfinite(figure.value) for figure in report.figures)
    assert len({figure.name for figure in report.figures}) == len(report.figures)


def test_every_goal_of_a_benchmark_is_in_its_report_and_in_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["codecs", "dispatch", "--quick", "--json", str(tmp_path / "figures.json"), "--markdown"]) == 0
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [each["name"] for each in written["benchmarks"]] == ["codecs", "dispatch"]
    [ratio] = [each for each in written["benchmarks"][1]["figures"] if each["goal"]]
    assert ratio["name"] == "ratio"
    assert isinstance(ratio["met"], bool)
    assert written["machine"]["Python"]
    assert "| ratio |" in capsys.readouterr().out


def test_a_name_that_is_no_benchmark_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pipelin"])
    assert "pipeline_orm" in capsys.readouterr().err


def test_the_page_on_performance_has_a_place_for_each_benchmark() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text()
    assert [name for name in (*NAMES, "machine") if f"<!-- measured: {name} -->" not in page] == []
