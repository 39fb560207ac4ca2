"""Events, commands and failures of tests, benchmarks and the shop meet in one process, where a name is one class's.

A test run that collects all of them declares all of them; a part of it does not, and passes alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The directories whose modules one process may import together.
FOLDERS = ("tests", "benchmarks", "examples/shop")


def failures_of(tree: ast.Module) -> Iterator[str]:
    """The names on the wire of the failures that a module declares as it is imported."""
    for each in tree.body:
        if isinstance(each, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Failure" for b in each.bases):
            given = [k.value for k in each.keywords if k.arg == "type_name"]
            yield given[0].value if given and isinstance(given[0], ast.Constant) else each.name  # type: ignore[misc]


def test_no_two_modules_declare_a_failure_of_one_name() -> None:
    found: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in failures_of(ast.parse(path.read_text())):
                found.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert found
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
