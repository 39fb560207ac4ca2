"""The program in README.md is a file of the examples, and it does what the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples/two_services.py"


def run_program(directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_readme_is_the_file() -> None:
    assert f"```python\n{PROGRAM.read_text()}```\n" in (ROOT / "README.md").read_text()


def test_the_program_opens_an_order_also_when_it_is_run_again(tmp_path: Path) -> None:
    first, second = run_program(tmp_path), run_program(tmp_path)
    for printed in (first, second):
        assert printed.startswith("order ")
        assert printed.endswith(" is OPEN\n")
    assert first != second
    assert {file.name for file in (tmp_path / ".ensue").glob("*.db")} == {"orders.db", "customers.db", "broker.db"}
