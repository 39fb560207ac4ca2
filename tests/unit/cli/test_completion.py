"""The shell completes commands and options: `ensue --install-completion`, or `--show-completion` to look first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.unit.cli.harness import ROOT, Ended


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ensue", *arguments], env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_of_its_own(shell: str) -> None:
    done = run(_ENSUE_COMPLETE=f"source_{shell}")
    assert done.returncode == 0, done.stderr
    assert f"complete_{shell}" in done.stdout
    assert "ensue" in done.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ensue dead", {"dead-letters"}),
        ("ensue dead-letters re", {"retry"}),
        ("ensue run --rel", {"--reload", "--reload-dir"}),
    ],
)
def test_commands_and_options_are_completed(typed: str, completed: set[str]) -> None:
    words = typed.split()
    done = run(_ENSUE_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == completed


def test_the_help_says_how_to_have_it(ensue: Callable[..., Ended]) -> None:
    ended = ensue("--help")
    assert "--install-completion" in ended.out
    assert "--show-completion" in ended.out
    assert "--install-completion" not in ensue("run", "--help").out
