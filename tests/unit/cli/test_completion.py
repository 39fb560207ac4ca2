"""The shell completes commands and options: `ensue --install-completion`, or `--show-completion` to look first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import ROOT, Ended
from typer.main import get_command

from ensue.cli.completing import services_here
from ensue.cli.main import app


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


def test_services_are_completed_from_files_that_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("shop/__init__.py", "raise SystemExit('this was run')\nall_of_it = Service('all')\n")
    write(
        "shop/orders/service.py",
        'import ensue\norders: Final = ensue.Service("orders")\nx = 1\nlist = View(\n    "l")\n',
    )
    write("shop/payments.py", "payments = Service('payments')\nmade = make(Service('no'))\n# late = Service('no')\n")
    write("src/other.py", "other = Service('other')\n")
    write("shop/test_payments.py", "tested = Service('tested')\n")
    write(".venv/lib/hidden.py", "hidden = Service('hidden')\n")
    write("venv/more.py", "more = Service('more')\n")
    write("broken.py", "\xff\0 syntax = error(\nbroken = Service('broken')\n")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/src:/elsewhere")
    shop = ["shop.orders.service:list", "shop.orders.service:orders", "shop.payments:payments", "shop:all_of_it"]
    assert services_here("") == ["broken:broken", "other:other", *shop, "src.other:other"]
    assert services_here("shop") == shop
    assert services_here("shop:") == ["shop:all_of_it"]
    assert services_here("shop.orders.service:o") == ["shop.orders.service:orders"]
    assert services_here("nothing") == []


def test_the_shell_is_told_of_services_where_a_command_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text("orders = Service('orders')\n")
    monkeypatch.chdir(tmp_path)
    done = run(_ENSUE_COMPLETE="complete_bash", COMP_WORDS="ensue dead-letters list sh", COMP_CWORD="3")
    assert (done.returncode, done.stdout.split()) == (0, ["shop:orders"])


def test_every_command_that_takes_a_service_completes_it() -> None:
    def all_of(command: Any) -> Iterator[Any]:
        yield command
        for each in getattr(command, "commands", {}).values():
            yield from all_of(each)

    wants = [
        (command.name, parameter)
        for command in all_of(get_command(app))
        for parameter in command.params
        if (parameter.metavar or "").startswith("SERVICE")
    ]
    assert len(wants) > 30
    assert [name for name, parameter in wants if parameter._custom_shell_complete is None] == []


def test_the_help_says_how_to_have_it(ensue: Callable[..., Ended]) -> None:
    ended = ensue("--help")
    assert "--install-completion" in ended.out
    assert "--show-completion" in ended.out
    assert "--install-completion" not in ensue("run", "--help").out
