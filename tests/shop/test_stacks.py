"""The shop on real servers, by settings alone, while services are killed and servers and lines go down.

The matrix: every store and every broker, each at least once under faults and each broker once forgetful, among them the
polyglot shop, whose three services have databases of different kinds. All pairs of them would take half an
hour. Each run ends with the demo's invariants. The seed is part of the command, which
a failure shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import servers
from tests.conftest import required
from tests.shop.test_demo_runs import report_of, run

from shop.demo.directory import CannotRun
from shop.demo.stacks import BROKERS, PRESETS, STORES, parts

ORDERS = 500
#: Servers that are killed one after the other take their time to come back; ten times what a quiet machine needs.
LIMIT_S = 900
MATRIX = ("postgres", "psycopg-rabbitmq", "wal-redis", "mariadb-nats", "polyglot", "polyglot-mongodb")
FORGETFUL = ("embedded", "postgres-nats", "postgres-kafka", "postgres-rabbitmq", "postgres-redis", "postgres")
#: Where customers are event-sourced: on each store that can keep them.
EVENT_SOURCED = (
    "psycopg-rabbitmq", "wal-redis", "mariadb-nats", "polyglot-mongodb", "embedded", "postgres-nats", "postgres-redis",
)  # fmt: skip


def customers(event_sourced: bool) -> tuple[str, str]:
    return "--customers", "event-sourced" if event_sourced else "state"


def needs(stack: str) -> None:
    *stores, broker = parts(stack)
    kinds = {STORES[store].server for store in stores} | {BROKERS[broker].server}
    for kind in kinds:
        if kind is not None:
            required(kind.missing())


def on(stack: str, directory: Path, *options: str) -> Any:
    needs(stack)
    orders = ORDERS // 2 if stack == "polyglot-mongodb" else ORDERS  # four servers go down in turn: that takes its time
    options = ("--stack", stack, "--orders", str(orders), "--json", *options)
    return report_of(run(directory, *options, limit_s=LIMIT_S))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("stack", MATRIX)
def test_the_shop_comes_out_whole_while_services_servers_and_lines_go_down(stack: str, tmp_path: Path) -> None:
    report = on(stack, tmp_path / "run", "--chaos", "--rate", "60", "--seed", "5", *customers(stack in EVENT_SOURCED))
    assert report["ok"]
    assert report["stack"] == stack
    assert report["chaos"]["kills_total"] > 0
    kinds = " ".join(report["faults"])
    for fault in ("killed", "restarted", "cut off", "frozen", "service stands still"):
        assert fault in kinds, f"no server was ever {fault}"


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("stack", FORGETFUL)
def test_the_shop_comes_out_whole_when_its_broker_forgets_what_it_had(stack: str, tmp_path: Path) -> None:
    kept = customers(stack in EVENT_SOURCED)
    report = on(stack, tmp_path / "run", "--lose-broker-data", "--rate", "60", "--seed", "6", *kept)
    assert report["ok"]
    assert report["broker_losses"] == ["copied", "emptied", "put back to the older copy", "emptied"]
    assert report["events"]["gaps_seen"] > 0


def test_every_store_and_every_broker_is_in_the_matrix() -> None:
    stacks = [parts(each) for each in MATRIX]
    assert {store for *stores, _ in stacks for store in stores} == STORES.keys() - {"sqlite"}
    assert {broker for *_, broker in stacks} == BROKERS.keys() - {"embedded"}
    assert {broker for *_, broker in map(parts, FORGETFUL)} == BROKERS.keys()


def test_a_stack_is_named_by_its_store_and_its_broker() -> None:
    assert parts("mariadb-redis") == ("mariadb", "mariadb", "mariadb", "redis")
    assert parts("redisview-kafka") == ("sqlite", "sqlite", "redisview", "kafka")
    assert parts("polyglot") == PRESETS["polyglot"]


@pytest.mark.parametrize("name", ["oracle-kafka", "postgres-mqtt", "postgre", ""])
def test_a_stack_that_is_none_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(CannotRun, match=r"there is no stack .*polyglot.*postgres.*kafka"):
        parts(name)


def test_a_server_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_TEST_SERVERS_DIR", str(tmp_path))  # where Kafka's jars are not
    done = run(tmp_path / "run", "--stack", "sqlite-kafka", "--orders", "5")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "stack sqlite-kafka: kafka: its jars are not there (make servers)"
    assert servers.KafkaServer.missing()
