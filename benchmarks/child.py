"""The environment of processes that a benchmark starts: they find the same code, and no settings of Ensue's."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    paths = [str(_ROOT), str(_ROOT / "src"), str(_ROOT / "examples"), found.get("PYTHONPATH", "")]
    return found | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
