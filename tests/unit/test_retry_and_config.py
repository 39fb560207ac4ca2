"""Retry and settings: bounded, checked when made, the environment read in one place."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import PostgresDsn, SecretStr
from sqlalchemy import make_url

from ensue import BadMessage, EngineConfig, Retry, UsageError, config
from ensue.adapters import make_broker, make_store
from ensue.config import load_settings


@given(st.integers(1, 8), st.floats(0, 0.9), st.integers(0, 2**32))
def test_pauses_grow_stay_within_their_jitter_and_end(attempts_max: int, jitter: float, seed: int) -> None:
    retry = Retry(attempts_max=attempts_max, first_delay_s=0.1, factor=2, delay_max_s=1.0, jitter=jitter)
    random = Random(seed)
    for attempts in range(1, attempts_max):
        delay = retry.delay_s(attempts, ValueError(), random)
        expected = min(0.1 * 2 ** (attempts - 1), 1.0)
        assert delay is not None
        assert expected * (1 - jitter) - 1e-9 <= delay <= expected * (1 + jitter) + 1e-9
    assert retry.delay_s(attempts_max, ValueError(), random) is None


@pytest.mark.parametrize("error", [BadMessage("x"), UsageError("x"), KeyError("x")])
def test_errors_that_no_retry_helps_end_at_once(error: Exception) -> None:
    assert Retry(never=(KeyError,)).delay_s(1, error, Random(0)) is None


@pytest.mark.parametrize(
    "wrong", [{"attempts_max": 0}, {"jitter": 1.0}, {"first_delay_s": 0.0}, {"factor": 0.5}, {"delay_max_s": 0.01}]
)
def test_a_retry_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Retry(**wrong)  # type: ignore[arg-type]


def test_who_tries_again_for_ever_waits_for_the_longest_delay() -> None:
    retry = Retry(attempts_max=10_000, jitter=0.0)
    assert retry.delay_s(5_000, ValueError(), Random(0)) == retry.delay_max_s


def test_arguments_come_before_the_environment_and_that_before_the_default() -> None:
    environment = {"ENSUE_ORDERS_DATABASE": "sqlite:////a.db", "ENSUE_BROKER": "memory:", "ENSUE_PARTITIONS": "4"}
    settings = load_settings("orders", environment=environment)
    assert (settings.database, settings.broker, settings.partitions) == ("sqlite:////a.db", "memory:", 4)
    assert load_settings("orders", database="sqlite:///b.db", environment=environment).database == "sqlite:///b.db"
    default = load_settings("orders", environment={"ENSUE_HOME": "/data"})
    assert (default.database, default.broker) == ("sqlite:////data/orders.db", "sqlite:////data/broker.db")


def test_numbers_of_the_engine_come_from_the_environment() -> None:
    engine = load_settings("o", environment={"ENSUE_LEASE_TTL_S": "5.5", "ENSUE_BATCH_RECORDS_MAX": "100"}).engine
    assert (engine.lease_ttl_s, engine.batch_records_max) == (5.5, 100)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ENSUE_PARTITIONS", "many"), ("ENSUE_LEASE_TTL_S", "soon"), ("ENSUE_BATCH_RECORDS_MAX", "1.5"),
     ("ENSUE_LEASE_TTL_S", "0"), ("ENSUE_PARTITIONS", "0"), ("ENSUE_BATCH_RECORDS_MAX", "0"),
     ("ENSUE_PARTITIONS", "²"), ("ENSUE_LEASE_TTL_S", "inf"), ("ENSUE_HANDLER_LIMIT_S", "inf")],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_named(variable: str, value: str) -> None:
    with pytest.raises(UsageError, match=variable.removeprefix("ENSUE_").lower() + "|" + variable):
        load_settings("o", environment={variable: value})


@pytest.mark.parametrize("wrong", [{"tick_max_s": 0.1}, {"poll_interval_s": -1.0}, {"retention_s": float("nan")}])
def test_an_engine_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EngineConfig(**wrong)  # type: ignore[arg-type]


def test_an_unknown_scheme_is_refused_without_showing_the_password() -> None:
    for make in (lambda url: make_store(url, "orders"), make_broker):
        with pytest.raises(UsageError, match="scheme 'oracle'") as caught:
            make("oracle://user:secret@host/db")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "meant"), [("postgres://h/db", "postgresql"), ("mysq://h", "mysql")])
def test_a_scheme_that_is_nearly_one_is_refused_with_the_one_that_is_meant(url: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"perhaps {meant}://, or"):
        make_store(url, "orders")


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("sqlite+aiosqlite:///./orders.db", "sqlite://"),
        ("postgresql+psycopg2://u:secret@h/x", r"postgresql:// or postgresql\+asyncpg:// or postgresql\+psycopg://"),
        ("mysql+pymysql://u:secret@h/x", "mysql://"),
        ("mariadb+asyncmy://u:secret@h/x", "mariadb://"),
    ],
)
def test_a_scheme_with_a_driver_that_is_not_used_is_refused_with_what_to_write(url: str, write: str) -> None:
    with pytest.raises(UsageError, match=rf"Ensue takes no \+\w+ there; write {write}$") as refused:
        make_store(url, "orders")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("driver", ["", "+asyncpg", "+psycopg"])
def test_postgres_is_another_name_of_postgresql(driver: str) -> None:
    url = f"postgres{driver}://u:p@h/x?postgres=1"
    environment = {"ENSUE_ORDERS_DATABASE": url, "ENSUE_BROKER": url}
    settings = load_settings("orders", environment=environment)
    assert settings.database == settings.broker == f"postgresql{driver}://u:p@h/x?postgres=1"


@pytest.mark.parametrize(
    ("url", "write"),
    [
        (make_url("sqlite:///a.db"), r"database is a URL, expected .*render_as_string\(hide_password=False\)"),
        (SecretStr("sqlite:///a.db"), r"of a SecretStr that is database\.get_secret_value\(\)"),
        (PostgresDsn("postgresql://u:p@h/x"), r"of a PostgresDsn that is str\(database\)"),
    ],
)
def test_a_url_that_is_no_text_is_refused_with_what_to_write(url: Any, write: str) -> None:
    with pytest.raises(UsageError, match=write):
        load_settings("orders", database=url, environment={})


def test_a_variable_that_is_no_setting_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_warned", set())
    settings = load_settings("orders", environment={"ENSUE_LEASE_TTL": "5", "ENSUE_X": "1"})
    load_settings("orders", environment={"ENSUE_LEASE_TTL": "5"})
    load_settings("orders", environment={"ENSUE_ORDERS_DATABSE": "sqlite:///o.db"})
    load_settings("orders", environment={"ENSUE_CUSTOMERS_DATABSE": "sqlite:///c.db"})  # of another service
    assert settings.engine == EngineConfig()
    assert [each.getMessage() for each in caplog.records] == [
        "ENSUE_LEASE_TTL is no setting, and is ignored: perhaps ENSUE_LEASE_TTL_S?",
        "ENSUE_X is no setting, and is ignored",
        "ENSUE_ORDERS_DATABSE is no setting, and is ignored: perhaps ENSUE_ORDERS_DATABASE?",
        "ENSUE_CUSTOMERS_DATABSE is no setting, and is ignored",
    ]
    assert {each.levelname for each in caplog.records} == {"WARNING"}


def test_a_setting_that_is_on_or_off_is_told_by_0_or_1() -> None:
    for text, expected in (("0", False), ("false", False), ("1", True), ("True", True)):
        assert load_settings("orders", environment={"ENSUE_SHOW_VALUES": text}).engine.show_values is expected
    with pytest.raises(UsageError, match="ENSUE_SHOW_VALUES is 'yes', expected 0 or 1"):
        load_settings("orders", environment={"ENSUE_SHOW_VALUES": "yes"})


def test_settings_of_other_services_and_of_tests_are_not_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_warned", set())
    numbers = {f"ENSUE_{each.name.upper()}": "60" for each in dataclasses.fields(EngineConfig) if each.name != "retry"}
    numbers["ENSUE_SHOW_VALUES"] = "1"
    names = ["BROKER", "HOME", "OTHER_DATABASE", "TEST_POSTGRESQL", "REQUIRE_POSTGRESQL"]
    load_settings(
        "orders", environment=numbers | {f"ENSUE_{name}": "memory:" for name in names} | {"ENSUE_PARTITIONS": "2"}
    )
    assert caplog.records == []
