"""The configuration page lists every setting with its default, and no setting that does not exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ensue.config import EngineConfig, Settings, load_settings, log_format
from ensue.retry import Retry

PAGE = (Path(__file__).parents[2] / "docs/reference/configuration.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The first table under a heading: first cell -> the others, without backticks."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [
        [cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line
    ]
    return {name: rest for name, *rest in found[2:]}


def defaults(cls: type, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    instance = cls()
    return {
        field.name: str(getattr(instance, field.name))
        for field in dataclasses.fields(cls)
        if field.name not in leave_out
    }


def test_every_setting_of_the_engine_is_listed_with_its_default() -> None:
    expected = {f"ENSUE_{name.upper()}": value for name, value in defaults(EngineConfig, leave_out=("retry",)).items()}
    assert {name: cells[0] for name, cells in rows("How the loops run").items()} == expected


def test_every_listed_variable_of_the_engine_is_read() -> None:
    for name in rows("How the loops run"):
        # Twice the default is in every bound, and tick_first_s stays below tick_max_s.
        field = name.removeprefix("ENSUE_").lower()
        doubled = 2 * getattr(EngineConfig(), field)
        settings = load_settings("orders", environment={name: str(doubled)})
        assert getattr(settings.engine, field) == doubled


def test_every_field_of_retry_is_listed_with_its_default() -> None:
    found = {name: cells[0] for name, cells in rows("How failed messages are tried again").items()}
    assert found == defaults(Retry)


def test_every_variable_of_trust_is_listed_and_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"customers/1:{'c' * 40}")
    given = {
        "ENSUE_TRUST": "signed", "ENSUE_KEYS": f"orders/1:{'o' * 40}", "ENSUE_KEYS_FILE": str(file),
        "ENSUE_UNSIGNED_TOPICS": "mail", "ENSUE_UNSIGNED_SOURCES": "https://old.example",
    }  # fmt: skip
    assert rows("Who is believed").keys() == given.keys()
    trust = load_settings("orders", environment=given).trust
    assert (trust.signed, len(trust.keys)) == (True, 2)
    assert trust.unsigned_topics | trust.unsigned_sources == {"mail", "https://old.example"}


def test_the_format_of_the_log_is_listed_with_its_default_and_read() -> None:
    assert rows("How it logs")["ENSUE_LOG_FORMAT"][0] == log_format({})
    assert log_format({"ENSUE_LOG_FORMAT": "json"}) == "json"


def test_where_things_are_is_as_listed() -> None:
    listed = rows("Where things are")
    arguments = {cells[0].rstrip("=") for cells in listed.values() if cells[0].endswith("=")}
    assert arguments == {field.name for field in dataclasses.fields(Settings)} - {"engine", "trust"}
    settings = load_settings("orders", environment={"ENSUE_HOME": "/home"})
    assert settings.database == listed["ENSUE_<SERVICE>_DATABASE"][1].replace("<home>", "/home").replace(
        "<service>", "orders"
    )
    assert settings.broker == listed["ENSUE_BROKER"][1].replace("<home>", "/home")
    assert str(settings.partitions) == listed["ENSUE_PARTITIONS"][1]


def test_variables_named_anywhere_in_the_documents_exist() -> None:
    root = Path(__file__).parents[2]
    known = {*rows("Where things are"), *rows("How it logs"), *rows("Who is believed"), *rows("How the loops run")}
    patterns = [re.compile(re.escape(name).replace("<SERVICE>", "[A-Z_]+")) for name in known]
    for page in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for name in re.findall(r"\bENSUE_[A-Z_]*[A-Z]\b", page.read_text()):
            assert any(pattern.fullmatch(name) for pattern in patterns) or name == "ENSUE_", f"{page.name}: {name}"
