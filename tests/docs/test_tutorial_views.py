"""The tutorial on views as a reader types it: each block that tries something out is a file and a process of its own.

The page itself runs as a test in one process, in which a name of an earlier block is still there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_block_runs_as_a_file_beside_the_shop_as_far_as_that_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs/tutorial-views.md").read_text()
    blocks = re.findall(r"^```(\w+)( title=\"shop.py\")?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment = kept | {"PYTHONPATH": str(ROOT / "src")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    compared, printed = 0, ""
    for number, (language, title, text) in enumerate(blocks):
        if title:
            with (tmp_path / "shop.py").open("a") as shop:
                shop.write(text + "\n\n")
        elif language == "python":
            (tmp_path / f"part_{number}.py").write_text(f"from shop import *\n\n{text}")
            printed = run(f"part_{number}.py")
        elif language == "output":
            assert printed == text
            compared += 1
        else:  # what these print is compared by the page's own test
            for command in re.findall(r"^\$ ensue (.+?)(?: \|\| .+)?$", text, re.MULTILINE):
                if not command.startswith(("views check", "views at")):
                    run("-m", "ensue", *command.split())
    assert compared == 7
