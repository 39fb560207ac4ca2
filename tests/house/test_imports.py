"""The import contracts can fail: each forbidden import makes `lint-imports` refuse the tree and name the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: (file, import that it must not have, a word of the contract that is broken)
FORBIDDEN = [
    ("src/ensue/chain.py", "from ensue.ports import Broker", "The house"),
    ("src/ensue/brokers/memory.py", "from ensue.engine.clock import rfc3339", "The house"),
    ("src/ensue/stores/sqlite/rows.py", "from ensue import Service", "The house"),
    ("src/ensue/stores/sqlite/rows.py", "from ensue.brokers.memory import MemoryBroker", "The house"),
    ("src/ensue/stores/sqlite/rows.py", "from ensue.step import Step", "Adapters know ports and values only"),
    ("src/ensue/engine/relay.py", "from ensue.brokers.memory import MemoryBroker", "through ports only"),
    ("src/ensue/engine/clock.py", "from ensue.engine.relay import Relay", "in circles"),
    ("src/ensue/something_new.py", "", "The house"),
    ("src/ensue/testing/world.py", "from servers import PostgresServer", "stays in the repository"),
    ("examples/shop/orders/model.py", "from shop.customers.model import Customer", "never another service"),
    ("examples/shop/demo/plan.py", "from shop.orders.model import Order", "from outside"),
]


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    paths = (tree, tree / "src", tree / "examples")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for part in ("src", "examples", "servers"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_the_tree_as_it_is_keeps_every_contract(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"), FORBIDDEN, ids=[f"{file}: {line}" for file, line, _ in FORBIDDEN]
)
def test_a_forbidden_import_is_refused(tree: Path, file: str, line: str, contract: str) -> None:
    path = tree / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint(tree)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert done.returncode == 1, done.stdout
    broken = [words for words in done.stdout.splitlines() if words.endswith("BROKEN")]
    assert any(contract in words for words in broken), done.stdout
