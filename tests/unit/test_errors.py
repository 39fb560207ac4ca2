"""An error has the attributes that its class declares: every place that makes one gives those that have no default."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import ensue
from ensue import errors
from ensue.stores.postgres.by_stamp import Switched

DECLARED = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, errors.EnsueError) and inspect.get_annotations(cls)
}


def made() -> Iterator[tuple[str, str, set[str]]]:
    """Where, which error, with which attributes."""
    for path in Path(ensue.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DECLARED:
                yield f"{path.name}:{node.lineno}", node.func.id, {each.arg or "**" for each in node.keywords}


def test_every_error_is_made_with_the_attributes_that_its_class_declares() -> None:
    found = list(made())
    assert {name for _, name, _ in found} == set(DECLARED)
    for where, name, given in found:
        declared = inspect.get_annotations(DECLARED[name])
        needed = {each for each in declared if not hasattr(DECLARED[name], each)}
        assert needed <= given <= set(declared), where


def test_attributes_are_the_values_that_were_given() -> None:
    with pytest.raises(errors.TopicMismatch) as caught:
        raise errors.TopicMismatch("text", topic="orders", expected=8, found=4)
    assert (caught.value.topic, caught.value.expected, caught.value.found) == ("orders", 8, 4)
    assert caught.value.values == {"topic": "orders", "expected": 8, "found": 4}


@pytest.mark.parametrize("error", [errors.BrokerUnavailable("away", place="here"), Switched("wal")], ids=type)
def test_an_error_again_is_another_one_that_says_the_same(error: errors.EnsueError) -> None:
    other = error.again()
    assert other is not error
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
    assert other.__cause__ is error
