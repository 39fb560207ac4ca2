"""The documents run as tests: each Python block of README.md and docs/ is executed, in order, one namespace a page.

A block fenced as `output` must equal what the Python block before it printed. Blocks in other languages are only shown.
Each page runs in a new empty directory and may declare event types that another page or test has declared too.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.integration.pytest import SybilFile, SybilItem
from sybil.parsers.markdown import CodeBlockParser

from ensue.event import _declared

_PRINTED = "__printed__"
_ASIDE = "__aside__"
_evaluate = PythonEvaluator()


def run_python(example: Example) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _evaluate(example)
    example.namespace[_PRINTED] = printed.getvalue()


def compare_output(example: Example) -> str | None:
    expected, found = (_stripped(text) for text in (example.parsed, example.namespace.get(_PRINTED, "")))
    return None if found == expected else f"expected:\n{expected}\nprinted:\n{found}"


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def begin_page(namespace: dict[str, Any]) -> None:
    namespace[_ASIDE] = (os.getcwd(), tempfile.mkdtemp(prefix="ensue-docs-"), dict(_declared))
    _declared.clear()
    os.chdir(namespace[_ASIDE][1])


def end_page(namespace: dict[str, Any]) -> None:
    before, directory, declared = namespace[_ASIDE]
    os.chdir(before)
    shutil.rmtree(directory)
    _declared.clear()
    _declared.update(declared)


documents = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=run_python),
        CodeBlockParser(language='python title="shop.py"', evaluator=run_python),
        CodeBlockParser(language="output", evaluator=compare_output),
    ],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=begin_page,
    teardown=end_page,
)


class Block(SybilItem):
    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        try:
            return super()._traceback_filter(excinfo)
        except IndexError:  # not raised by the block itself: a resource that it left open, found by pytest afterwards
            return excinfo.traceback


class Page(SybilFile):
    def collect(self) -> Iterator[Block]:
        for item in super().collect():  # type: ignore[no-untyped-call]
            yield Block.from_parent(self, sybil=documents, example=item.example)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Page | None:
    page: Page | None = None
    if documents.should_parse(file_path):
        page = Page.from_parent(parent, path=file_path, sybils=[documents])
    return page
