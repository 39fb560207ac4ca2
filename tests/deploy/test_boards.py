"""Board, alert rules and table are what the metrics' declarations make of them, and Prometheus takes the rules."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # no stubs are installed, and little of it is used here
from tests.deploy.documents import DEPLOY
from tests.deploy.promtool import check_alerts, promtool

from ensue.engine.gauges import METRICS
from ensue.errors import UsageError
from ensue.integrations import boards
from ensue.integrations.boards import main, name_of, table, title_of, write

RULES = DEPLOY / "prometheus/ensue.rules.yaml"
BOARD = DEPLOY / "grafana/ensue.json"
NAMES = {name_of(metric) for metric in METRICS}


def found_rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_board_and_rules_are_those_that_the_declarations_make(tmp_path: Path) -> None:
    """After a change: python -m ensue.integrations.boards deploy"""
    for path in write(tmp_path):
        assert path.read_text() == (DEPLOY / path.relative_to(tmp_path)).read_text()


def test_the_page_lists_every_metric_as_it_is_declared() -> None:
    assert table() in (DEPLOY.parent / "docs/reference/metrics.md").read_text()


def test_rules_ask_for_metrics_that_there_are_and_say_what_to_do() -> None:
    rules = found_rules()
    assert [rule["alert"] for rule in rules] == [title_of(each) for each in METRICS if each.alert is not None]
    assert len(rules) > 10
    for rule in rules:
        assert any(name in rule["expr"] for name in NAMES), rule["expr"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["description"].endswith(".")


def test_without_a_directory_the_command_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["boards"])
    with pytest.raises(SystemExit, match="DIRECTORY: name the directory to write to"):
        runpy.run_path(str(boards.__file__), run_name="__main__")


def test_every_metric_has_a_panel_and_no_two_lie_on_each_other() -> None:
    panels = [each for each in json.loads(BOARD.read_text())["panels"] if each["type"] != "row"]
    assert {each["title"] for each in panels} == NAMES
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        for target in panel["targets"]:
            assert panel["title"] in target["expr"]


def test_commands_that_a_rule_names_exist() -> None:
    from typer.testing import CliRunner

    from ensue.cli.main import app

    commands = {each for rule in found_rules() for each in re.findall(r"`ensue ([^`]+)`", str(rule["annotations"]))}
    assert len(commands) >= 4
    for command in commands:
        words = [word for word in command.split() if not word.startswith("-") and word != "refused"]
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, command


def test_where_to_write_has_to_be_said() -> None:
    with pytest.raises(UsageError, match="name the directory to write to"):
        main([])


def test_prometheus_takes_the_rules_and_they_fire(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    series = {
        'ensue_outbox_oldest_unsent_age_seconds{service="orders"}': "30+30x20",
        'ensue_broker_up{service="orders",instance="one"}': "1x20",
        'ensue_broker_up{service="orders",instance="two"}': "0x20",
        'ensue_records_damaged_total{service="orders",topic="orders"}': "0x10 1x10",
        'ensue_dead_letters{service="orders",state="waiting"}': "7x20",
        'ensue_build_info{service="orders",instance="one"}': "1x20",
        'ensue_outbox_unsent{service="orders",instance="one"}': "3x20",
    }
    fires = {"EnsueOutboxOldestUnsentAgeSeconds", "EnsueBrokerUp", "EnsueRecordsDamaged"}
    quiet = {"EnsueDeadLetters", "EnsueDatabaseUntold"}  # the one is about those of another state
    check_alerts(tmp_path, series, RULES, fires, quiet)


def test_what_grows_is_noticed_while_another_process_comes_to_tell_it(tmp_path: Path) -> None:
    """The relay went to another worker, in a deployment say: its series is new. Growth of before is no growth, and
    neither is a relay that moves."""
    series = {
        'ensue_records_refused_total{service="orders",topic="orders",instance="one"}': "4x8 _x12",
        'ensue_records_refused_total{service="orders",topic="orders",instance="two"}': "_x9 5x11",
        'ensue_records_damaged_total{service="orders",topic="orders",instance="one"}': "4x8 _x12",
        'ensue_records_damaged_total{service="orders",topic="orders",instance="two"}': "_x9 4x11",
        'ensue_records_damaged_total{service="customers",topic="orders",instance="one"}': "4 5x20",
    }
    check_alerts(tmp_path, series, RULES, {"EnsueRecordsRefused"}, {"EnsueRecordsDamaged"})


def test_a_service_whose_database_nobody_tells_is_noticed(tmp_path: Path) -> None:
    """Its web processes are asked, and do no work; its workers are asked by nobody, and relay."""
    series = {
        'ensue_build_info{service="orders",instance="web1"}': "1x30",
        'ensue_build_info{service="orders",instance="web2"}': "1x30",
        'ensue_build_info{service="customers",instance="web"}': "1x30",
        'ensue_build_info{service="customers",instance="worker"}': "1x30",
        'ensue_outbox_unsent{service="customers",instance="worker"}': "0x30",
    }
    check_alerts(tmp_path, series, RULES, {"EnsueDatabaseUntold"}, {"EnsueOutboxOldestUnsentAgeSeconds"})
