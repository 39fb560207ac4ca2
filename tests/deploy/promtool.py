"""Prometheus itself says what its rules and queries come to, by Debian's promtool (`make servers`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # see documents.py
from tests.conftest import required


def promtool(*arguments: str | Path) -> None:
    """Run it. The test is skipped where it is not installed, and fails there in continuous integration."""
    found = shutil.which("promtool")
    required("" if found else "promtool is not installed (apt-get install prometheus)")
    assert found is not None
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_queries(
    directory: Path,
    series: Mapping[str, str],
    queries: Sequence[tuple[str, str, float]],
    rules: Sequence[Path] = (),
) -> None:
    """Each of `queries`, (expression, labels, value), comes to that after a quarter of an hour of these series, which
    have a value a minute as promtool writes them. directory: for a file of it."""
    tests = {
        "rule_files": [str(each) for each in rules],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {"expr": expression, "eval_time": "15m", "exp_samples": [{"labels": labels, "value": value}]}
                    for expression, labels, value in queries
                ],
            }
        ],
    }
    file = directory / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool("test", "rules", file)


def check_alerts(directory: Path, series: Mapping[str, str], rules: Path, fires: set[str], quiet: set[str]) -> None:
    """Each of `fires` fires once by then, and none of `quiet` does."""

    def firing(name: str) -> tuple[str, str, Any]:
        asked = f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)'
        return asked, "{}", int(name in fires)

    check_queries(directory, series, [firing(name) for name in sorted(fires | quiet)], [rules])
