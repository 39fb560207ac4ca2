"""What `--help` and questions look like, at whatever width and with nobody at the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main
from rich.console import Console
from tests.unit.cli.harness import TILL, Ended

from ensue.cli import output
from ensue.cli.main import app


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(f"{path} {name}", child)


def test_each_command_and_option_says_what_it_is_for_in_paragraphs_that_the_terminal_breaks() -> None:
    found = dict(commands("ensue", typer.main.get_command(app)))
    assert {"ensue run", "ensue dead-letters retry"} <= found.keys()
    for path, command in found.items():
        assert command.help, path
        assert all("\n" not in each for each in command.help.split("\n\n")), path
        shown = [each for each in command.params if not getattr(each, "hidden", False)]
        assert [each.name for each in shown if not each.help] == [], path


def test_what_may_be_given_several_times_has_one_ellipsis(ensue: Callable[..., Ended]) -> None:
    usage = next(line for line in ensue("status", "--help").out.splitlines() if "Usage" in line)
    assert usage.count("...") == 1


@pytest.mark.parametrize(("width", "intact"), [(80, True), (200, False)])
def test_on_a_narrow_terminal_rows_are_lines_so_that_ids_can_be_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, intact: bool
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(markup=False, width=width))
    row = ("payments/0:1", *(f"{number}-{'x' * 30}" for number in range(6)))
    output.print_table("letters", ("id", *(f"column {number}" for number in range(6))), [row, row])
    lines = capsys.readouterr().out.splitlines()
    assert (lines.count("id        payments/0:1"), lines.count(f"column 5  {row[6]}")) == ((2, 2) if intact else (0, 0))
    assert sum("payments/0:1" in line for line in lines) == 2


@pytest.mark.parametrize(("answer", "says"), [("", "nobody answers the question here; --yes goes on without it"),
                                              ("n\n", "Aborted")])  # fmt: skip
def test_a_question_that_nobody_answers_says_how_to_do_without(
    ensue: Callable[..., Ended], sell: Callable[..., None], answer: str, says: str
) -> None:
    sell()  # its database is there
    ended = ensue("publish", TILL, "Sold", '{"customer": "ann", "amount": 1}', answer=answer)
    assert ended.code == 1
    assert says in ended.err
    assert ("Aborted" in ended.err) is bool(answer)
    assert ensue("outbox", "list", TILL, "--json").json["records"] == []
