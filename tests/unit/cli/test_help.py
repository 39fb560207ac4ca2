"""What `--help` and questions look like, at whatever width and with nobody at the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main
from tests.unit.cli.harness import TILL, Ended

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
