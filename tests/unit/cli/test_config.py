"""`ensue config show`: every setting with where it comes from, and no secret."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import LEDGER, TILL, Ended

from ensue.config import EngineConfig, Settings
from ensue.retry import Retry
from ensue.signatures import Trust

Command = Callable[..., Ended]


def settings_of(ended: Ended) -> dict[str, dict[str, Any]]:
    assert ended.code == 0, ended.err
    return {each["name"]: each for each in ended.json["settings"]}


def test_each_setting_is_shown_with_its_value_and_its_source(
    ensue: Command, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "broker"
    file.write_text("nats://shop:Rec0gnizable@log:4222\n")
    monkeypatch.setenv("ENSUE_BROKER_FILE", str(file))
    monkeypatch.setenv("ENSUE_LEASE_TTL_S", "5")
    monkeypatch.setenv("ENSUE_LOG_FORMAT", "json")
    shown = settings_of(ensue("config", "show", LEDGER, "--json"))
    assert shown["database"] == {
        "name": "database", "value": f"sqlite:///{home}/ledger.db", "source": "default",
        "variable": "ENSUE_LEDGER_DATABASE", "file": "",
    }  # fmt: skip
    broker = {"source": "file", "variable": "ENSUE_BROKER_FILE", "file": str(file)}
    assert shown["broker"] == {"name": "broker", "value": "nats://***@log:4222", **broker}
    assert (shown["partitions"]["value"], shown["partitions"]["source"]) == (2, "environment")
    assert (shown["engine.lease_ttl_s"]["value"], shown["engine.lease_ttl_s"]["source"]) == (5.0, "environment")
    assert (shown["log_format"]["value"], shown["log_format"]["source"]) == ("json", "environment")
    attempts = shown["engine.retry.attempts_max"]  # Service("ledger", retry=...)
    assert (attempts["value"], attempts["source"]) == (1, "argument")
    assert not home.exists()  # it only looks


def test_no_setting_is_left_out(ensue: Command) -> None:
    fields = {each.name for each in dataclasses.fields(Settings)} - {"engine", "trust"}
    fields |= {f"engine.{each.name}" for each in dataclasses.fields(EngineConfig)} - {"engine.retry"}
    fields |= {f"engine.retry.{each.name}" for each in dataclasses.fields(Retry)}
    fields |= {f"trust.{each.name}" for each in dataclasses.fields(Trust) if each.init}
    assert settings_of(ensue("config", "show", TILL, "--json")).keys() == fields | {"home", "log_format"}


def test_no_secret_is_shown(ensue: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_TILL_DATABASE", "postgresql://shop:Rec0gnizable@db/till?sslpassword=Rec0gnizable")
    monkeypatch.setenv("ENSUE_BROKER", "nats://log?token=Rec0gnizable")
    monkeypatch.setenv("ENSUE_KEYS", f"till/1:{'Rec0gnizable' * 4}")
    for options in ((), ("--json",)):
        ended = ensue("config", "show", TILL, *options)
        assert "Rec0gnizable" not in ended.out + ended.err
        assert "till/1" in ended.out


def test_the_table_says_in_words_where_a_setting_comes_from(ensue: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_BROKER", "memory:x")
    lines = ensue("config", "show", LEDGER).out.splitlines()
    said = {cells[1].strip(): cells[3].strip() for cells in (line.split("│") for line in lines) if len(cells) == 5}
    assert said["broker"] == "ENSUE_BROKER"
    assert said["database"] == "default (ENSUE_LEDGER_DATABASE)"
    assert said["engine.retry.factor"] == "argument in code"


def test_a_setting_that_makes_no_sense_is_named(ensue: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_BROKER_FILE", "/no/such/file")
    ended = ensue("config", "show", TILL)
    assert ended.code == 1
    assert "ENSUE_BROKER_FILE is /no/such/file, which cannot be read: No such file or directory" in ended.err
