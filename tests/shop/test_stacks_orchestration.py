"""The shop by orchestration on a real SQL server and a real broker: orders placed by sagas, paid at a provider."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.shop.test_demo_runs import report_of, run
from tests.shop.test_stacks import needs

#: Ten times what a quiet machine needs.
LIMIT_S = 600


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_orders_placed_by_sagas_come_out_whole_and_are_paid_once(tmp_path: Path) -> None:
    needs("postgres-nats")
    options = ("--stack", "postgres-nats", "--placement", "orchestration", "--orders", "25", "--json")
    report = report_of(run(tmp_path / "run", *options, limit_s=LIMIT_S))
    assert report["ok"]
    assert report["orders"] == report["expected_orders"] | {"NEW": 0}
    assert report["provider"]["captures"] == report["orders"]["OPEN"] + report["orders"]["CANCELLED"]
