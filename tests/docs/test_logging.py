"""The page on logging quotes lines that Ensue does log, at the levels that it says, and loggers that there are."""

from __future__ import annotations

import ast
import json
import logging.config
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/logging.md").read_text()
_PLACE = re.compile(r"%[-.\d]*[sdgfr]")


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def logged() -> Iterator[tuple[str, str]]:
    """Level and text of each call of a logger in the package, `…` for its arguments."""
    for file in (ROOT / "src/ensue").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            if call.func.attr in ("info", "warning", "error", "critical", "exception"):
                text = call.args[0]
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    level = "error" if call.func.attr == "exception" else call.func.attr
                    yield level.upper(), _PLACE.sub("…", text.value)


def test_lines_are_logged_as_the_page_says() -> None:
    there = list(logged())
    for line, level, _ in rows("What a line means"):
        quoted = line.strip("`")
        fits = [each for each, text in there if text == quoted or text.startswith(quoted.removesuffix("…"))]
        assert fits, f"nobody logs {quoted}"
        assert level in fits, f"{quoted} is logged at {fits}"


def test_loggers_are_there() -> None:
    made = set()
    for file in (ROOT / "src/ensue").rglob("*.py"):
        made |= set(re.findall(r'logger\("(ensue[\w.]*)"\)', file.read_text()))
    named = {name for cell, _ in rows("Loggers") for name in re.findall(r"`([\w.]+)`", cell)}
    assert "ensue.run" in named
    assert named <= made


def test_the_configuration_for_uvicorn_is_one() -> None:
    [text] = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    read = json.loads(text)
    assert logging.config.DictConfigurator(read).config["root"]["handlers"] == ["stderr"]
    assert not read["disable_existing_loggers"]  # Ensue's loggers exist by then
