"""The wheel holds the package and nothing that stays in the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src/ensue").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == package
    templates = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src/ensue").rglob("*.template")}
    assert templates
    assert templates <= names  # what `ensue new` makes a project of
    assets = {f"ensue/console/{name}" for name in ("templates/base.html", "static/console.js", "static/console.css")}
    assert assets <= names
    assert not any(word in name for name in names for word in ("/broken_", "mutant", "/servers/"))
