"""The checklist for production: its commands run, its alerts and settings are there, and no alert is left out."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml  # type: ignore[import-untyped]  # no stubs are installed, and little of it is used here
from tests.deploy.promtool import promtool
from typer.testing import CliRunner

from ensue.cli.main import app
from ensue.config import EngineConfig
from ensue.integrations.probes import PATHS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/production.md").read_text()
LINES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if re.match(r"\| (?!\|)[^-|]", line)
]
NONE = "\N{EN DASH}"
COMMANDS = list(dict.fromkeys(re.findall(r"`(ensue [^`]+)`", PAGE)))
#: What is named there and not run here, and why.
NOT_RUN = {
    "ensue run shop:orders --http :8081": "it goes on for ever",
    "ensue db new-epoch": "it changes who the service is",
    "ensue flow": "it wants an order's id",
}
_SHOP = """
from ensue import Event, Service, View

class GoodsShipped(Event, topic="goods-shipped", key="goods"):
    goods: int

orders = Service("orders", publishes=[GoodsShipped])
history = View("history", version=1)

@history.on
async def note(event: GoodsShipped) -> None: ...
"""


def test_each_line_has_what_to_do_what_checks_it_and_an_alert_or_none() -> None:
    assert len(LINES) > 25
    for line in LINES:
        assert len(line) == 4, line
        assert all(line), line
        assert {line[2], line[3]} != {NONE}, f"nothing tells whether it is so: {line[0]}"


def test_alerts_are_those_of_the_rules() -> None:
    [group] = yaml.safe_load((ROOT / "deploy/prometheus/ensue.rules.yaml").read_text())["groups"]
    assert set(re.findall(r"`(Ensue\w+)`", PAGE)) == {rule["alert"] for rule in group["rules"]}


def test_settings_are_read() -> None:
    engine = {f"ENSUE_{field.name.upper()}" for field in dataclasses.fields(EngineConfig)}
    others = {
        "ENSUE_ORDERS_DATABASE_FILE", "ENSUE_BROKER_FILE", "ENSUE_KEYS_FILE", "ENSUE_PARTITIONS", "ENSUE_TRUST",
        "ENSUE_LOG_FORMAT",
    }  # fmt: skip
    named = set(re.findall(r"`(ENSUE_[A-Z_]+)", PAGE))
    assert named - engine == others
    assert named & engine


def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(_SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")  # of processes that commands start
    monkeypatch.setattr(sys, "path", [*sys.path])  # commands put this directory first
    shop = ModuleType("shop")
    exec(_SHOP, vars(shop))
    monkeypatch.setitem(sys.modules, "shop", shop)  # for this test alone: the examples have another one

    async def once() -> None:
        async with shop.orders.running() as runtime:
            await runtime.ready()

    asyncio.run(once())
    assert NOT_RUN.keys() <= set(COMMANDS)
    first = ["ensue db init shop:orders", "ensue db init shop:history", "ensue schemas export shop:orders"]
    assert len(COMMANDS) > 12
    for command in [*first, *(each for each in COMMANDS if each not in (*NOT_RUN, *first))]:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception}"
    asked = re.findall(r"`curl -f http://127\.0\.0\.1:8081(/\w+)`", PAGE)
    assert asked
    assert set(asked) <= set(PATHS)


def test_prometheus_takes_the_file_that_it_names() -> None:
    [file] = set(re.findall(r"`promtool check rules ([^`]+)`", PAGE))
    promtool("check", "rules", ROOT / file)
