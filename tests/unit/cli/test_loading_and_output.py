from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.unit.cli.harness import LEDGER, TILL, Ended

from ensue.addresses import masked
from ensue.cli.loading import load_service, load_services
from ensue.cli.main import main
from ensue.cli.output import complain, print_json, print_table, say, shown_data
from ensue.errors import UsageError


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("tests.unit.cli.services", "write MODULE:SERVICE"),
        (":till", "write MODULE:SERVICE"),
        ("no_such_module:till", "no module 'no_such_module' in"),
        ("services.py:till", "did you mean services:till?"),
        ("./unit/services.py:till", "did you mean unit.services:till?"),
        ("tests.unit.cli.services.deeper:till", "no module 'tests.unit.cli.services.deeper'"),
        ("tests.unit.cli.services:tilll", "is not there, expected a service; there is tests.unit.cli.services:till, "),
        ("tests.unit.cli.services:not_a_service", "is a str, expected a service"),
        ("json:loads", "and there is no service in it"),
    ],
)
def test_a_target_that_names_no_service_is_refused_with_what_is_there(home: Path, target: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_service(target)
    assert says in str(refused.value)


@pytest.mark.parametrize("target", ["tills", "tills.py", "tills:"])
def test_a_module_without_a_service_s_name_is_told_what_its_file_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "tills.py").write_text(
        "raise SystemExit('this was run')\nfirst = Service('a')\nsecond = Service('b')\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="write MODULE:SERVICE, there is tills:first, tills:second"):
        load_service(target)


def test_a_module_that_is_broken_inside_fails_with_the_lines_of_the_users_files_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_inside.py").write_text("import a_library_that_is_missing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^module broken_inside cannot be imported: ModuleNotFoundError") as refused:
        load_service("broken_inside:service")
    [first, place, code] = str(refused.value).splitlines()
    assert "a_library_that_is_missing" in first
    assert f'"{tmp_path / "broken_inside.py"}", line 1' in place
    assert code.strip() == "import a_library_that_is_missing"


def test_the_version_is_shown(ensue: Callable[..., Ended]) -> None:
    ended = ensue("--version")
    assert (ended.code, ended.out) == (0, f"ensue {version('ensue')}\n")


def test_a_service_named_twice_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="service till is named twice"):
        load_services([TILL, LEDGER, TILL])


def test_passwords_in_urls_are_never_shown() -> None:
    text = "cannot reach postgresql://shop:s3cret@db:5432/orders?sslpassword=s3cret&sslmode=on or nats://tok3n@mq"
    assert masked(text) == ("cannot reach postgresql://***@db:5432/orders?sslpassword=***&sslmode=on or nats://***@mq")


def test_a_password_in_a_setting_is_in_no_error(ensue: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_TILL_DATABASE", "oracle://till:s3cret@db/till")
    ended = ensue("status", TILL)
    assert ended.code == 1
    assert "s3cret" not in ended.out + ended.err
    monkeypatch.setenv("ENSUE_TILL_DATABASE", "sqlite://till:s3cret@db/till")
    ended = ensue("status", TILL)
    assert ended.code == 1
    assert "s3cret" not in ended.out + ended.err


def test_what_a_message_brings_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "red \x1b[31m\r\u2028\u202e\x9b ü 漢"
    say(f"key {text}\nforged", text)
    print_table(text, ("key",), [(f"{text}\nforged",)])
    complain(f"key {text}\nforged")
    print_json({"key": f"{text}\nforged", text: 1})
    printed = capsys.readouterr()
    for line in (printed.out + printed.err).split("\n"):
        assert line.isprintable()
        assert not line.startswith("forged")
    shown = "red \\x1b[31m\\r\\u2028\\u202e\\x9b ü 漢"
    assert printed.out.startswith(f"key {shown}\\nforged\n{shown}\n")
    assert printed.err == f"ensue: key {shown}\n  forged\n"
    assert json.loads(printed.out[printed.out.index("{") :]) == {"key": f"{text}\nforged", text: 1}


def test_data_is_shown_as_json_or_as_its_bytes() -> None:
    assert shown_data(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
    assert shown_data(b"\xff{") == "b'\\xff{'"


def test_a_command_line_that_makes_no_sense_is_status_2(ensue: Callable[..., Ended]) -> None:
    assert ensue("dance").code == 2
    assert ensue("run").code == 2
    assert ensue("dead-letters", "list", TILL, "--limit", "many").code == 2


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run"], ["status"], ["topology"], ["dead-letters", "show"], ["gaps", "accept"], ["db", "check"]):
        with pytest.raises(SystemExit) as ending:
            main([*command, "--help"])
        assert ending.value.code == 0
        assert "SERVICE" in capsys.readouterr().out
