"""The documents run as tests: each Python block of README.md and docs/ is executed, in order, one namespace a page.

A Python block with the title of one of `FILES` is a part of that file too; with one of `PROJECT` it is that alone. An
`output` block must equal what the Python block before it printed. In a `console` block each line that begins with `$`
is run by a shell, with `ensue` and `python` as commands, and must print what follows it (`...` stands for anything).
Blocks in other languages are only shown.
Each page runs in a new empty directory and may declare events and failures that another page or test has declared too.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.integration.pytest import SybilFile, SybilItem
from sybil.parsers.markdown import CodeBlockParser

from ensue.event import _declared as _events
from ensue.event import _older as _older_events
from ensue.failure import _declared as _failures

pytest_plugins = ["tests.sampling"]

#: Files that pages are written into.
FILES = ("shop.py", "mail.py", "journal_store.py")
#: Of a page's Django project, which commands run: written, and not run here.
PROJECT = (
    "manage.py", "settings.py", "urls.py",
    *(f"orders/{each}.py" for each in ("events", "models", "views", "handlers", "tests")),
)  # fmt: skip

_PRINTED = "__printed__"
_ASIDE = "__aside__"
_evaluate = PythonEvaluator()
_DECLARED: tuple[dict[str, type[Any]], ...] = (_events, _older_events, _failures)


def run_python(example: Example) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _evaluate(example)
    example.namespace[_PRINTED] = printed.getvalue()


def compare_output(example: Example) -> str | None:
    found = example.namespace.get(_PRINTED, "")
    return None if _equal(example.parsed, found) else f"expected:\n{example.parsed}\nprinted:\n{found}"


def run_python_file(name: str, example: Example) -> None:
    with open(name, "a") as file:
        file.write(example.parsed + "\n\n")
    run_python(example)


def write_project_file(name: str, example: Example) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if path.parent.name:
        (path.parent / "__init__.py").touch()
    with path.open("a") as file:
        file.write(example.parsed + "\n\n")


def run_console(example: Example) -> str | None:
    source = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source / 'src'}{os.pathsep}{source / 'examples'}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n?)*)", example.parsed, re.MULTILINE):
        line = re.sub(r"^((?:[A-Z_]+=\S+ )*)ensue\b", rf"\1{sys.executable} -m ensue", command)
        line = re.sub(r"^python\b", sys.executable, line)
        done = subprocess.run(
            line, shell=True, env=environment, stdin=subprocess.DEVNULL, stdout=-1, stderr=-2, text=True, timeout=60
        )
        if not _equal(expected, done.stdout):
            return f"{command}\nexpected:\n{expected}\nprinted (status {done.returncode}):\n{done.stdout}"
    return None


def _equal(expected: str, found: str) -> bool:
    """Compare without regard to white space; `...` in what is expected stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", found.strip() + "\n", flags)


def begin_page(namespace: dict[str, Any]) -> None:
    namespace[_ASIDE] = (os.getcwd(), tempfile.mkdtemp(prefix="ensue-docs-"), [dict(each) for each in _DECLARED])
    # Classes of a page are told so already; frameworks look up functions in their module as well.
    namespace["__name__"] = "builtins"
    for each in _DECLARED:
        for name in [name for name, cls in each.items() if not cls.__module__.startswith("ensue.")]:
            del each[name]
    os.chdir(namespace[_ASIDE][1])


def end_page(namespace: dict[str, Any]) -> None:
    before, directory, declared = namespace[_ASIDE]
    os.chdir(before)
    shutil.rmtree(directory)
    for each, those in zip(_DECLARED, declared, strict=True):
        each.clear()
        each.update(those)


documents = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=run_python),
        *(CodeBlockParser(f'python title="{name}"', partial(run_python_file, name)) for name in FILES),
        *(CodeBlockParser(f'python title="{name}"', partial(write_project_file, name)) for name in PROJECT),
        CodeBlockParser(language="console", evaluator=run_console),
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
