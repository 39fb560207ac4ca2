"""The shell completes commands and options: `ensue --install-completion`, or `--show-completion` to look first."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import ROOT, Ended
from typer.main import get_command

from ensue.cli.bash_words import joined
from ensue.cli.completing import services_here
from ensue.cli.main import app, main


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command answers to a shell, which asks by the environment."""

    def asked(**environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return asked


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_of_its_own(told: Callable[..., str], shell: str) -> None:
    script = told(_ENSUE_COMPLETE=f"source_{shell}")
    assert f"complete_{shell}" in script
    assert "ensue" in script


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ensue dead", {"dead-letters"}),
        ("ensue dead-letters re", {"retry"}),
        ("ensue run --rel", {"--reload", "--reload-dir"}),
    ],
)
def test_commands_and_options_are_completed(told: Callable[..., str], typed: str, completed: set[str]) -> None:
    words = typed.split()
    said = told(_ENSUE_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    assert set(said.split()) == completed


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


@pytest.mark.parametrize(
    ("typed", "whole", "kept"),
    [
        (["shop", ":", "or"], ["shop:or"], "shop:"),
        (["shop", ":"], ["shop:"], "shop:"),
        (["shop:or"], ["shop:or"], ""),  # COMP_WORDBREAKS without the colon
        (["a", ":", "b", "shop", ":"], ["a:b", "shop:"], "shop:"),
        (["a", ":", "b", ""], ["a:b", ""], ""),
        (["--readers", "=", "shop", ":", "o"], ["--readers=shop:o"], "shop:"),
        (["--http", "=:", "80"], ["--http=:80"], ":"),
        (["--by", "=", "an"], ["--by=an"], ""),  # what completes a value does not say the option again
        ([""], [""], ""),
    ],
)
def test_words_that_bash_has_cut_are_whole_again(typed: list[str], whole: list[str], kept: str) -> None:
    assert joined(["ensue", *typed], len(typed)) == (["ensue", *whole], len(whole), kept)


def test_bash_completes_a_service_beyond_its_colon(told: Callable[..., str], tmp_path: Path) -> None:
    """In a bash that reads from a terminal, as somebody types: only that cuts words as bash does."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text("orders = Service('orders')\n")
    (tmp_path / "ensue").write_text(f'#!/bin/sh\nexec {sys.executable} -m ensue "$@"\n')
    (tmp_path / "ensue").chmod(0o755)
    script = told(_ENSUE_COMPLETE="source_bash")
    (tmp_path / "rc").write_text(f"PS1='$ '\nbind 'set enable-bracketed-paste off'\n{script}")
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "TERM": "dumb",
    }
    del environment["_ENSUE_COMPLETE"]
    bash = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", "rc", "-i"], cwd=tmp_path, env=environment,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        os.write(ours, b"ensue status shop.orders:\t")
        shown = b""
        while not shown.endswith(b"$ ensue status shop.orders:orders "):  # a space, once there is but one
            assert len(shown) < 10_000
            assert select.select([ours], [], [], 30)[0], shown
            shown += os.read(ours, 1000)
    finally:
        bash.kill()
        bash.wait()
        os.close(ours)


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
