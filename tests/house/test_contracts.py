"""The shop's committed schemas are what its code says, and every reader in it reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMAS = "examples/shop/schemas"
SERVICES = [f"shop.{name}:{name}" for name in ("orders", "customers", "payments", "order_history")]


def ensue(*arguments: str, placement: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "SHOP_PLACEMENT": placement,
        "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("src", "examples")),
    }
    command = [sys.executable, "-m", "ensue", "schemas", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("placement", ["choreography", "orchestration"])
def test_the_shop_keeps_its_contracts(placement: str) -> None:
    for arguments in (("export", "--check", "--to", SCHEMAS), ("check", "--against", SCHEMAS)):
        done = ensue(*arguments, *SERVICES, placement=placement)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "nothing has changed" in done.stdout
