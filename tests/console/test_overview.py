"""What is wrong with a service, by its status alone: a pure rule."""

from __future__ import annotations

import msgspec
import pytest
from tests.console.conftest import wire
from tests.console.world import bank

from ensue.console.screens.overview import wrong
from ensue.message import Gap, GapState
from ensue.operations.opening import opened
from ensue.operations.status import SagaStatus, ServiceStatus, service_status


async def test_each_thing_that_is_wrong_is_one_line_with_what_repairs_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    async with bank.running(), opened(bank, broker=True) as access:
        well: ServiceStatus = await service_status(access)
    well = msgspec.structs.replace(well, workers=["one"], gone=[])
    assert list(wrong("bank", "shop:bank", well)) == []
    gaps = [Gap("till/a", 4, 9, 1000.0, GapState.LOST, 7), Gap("till/b", 1, 3, 2000.0)]
    ill = msgspec.structs.replace(
        well, workers=[], relay=["no worker lives, so nothing is sent"], paused=["wires/0"], dead_letters={"dead": 2},
        sagas=[SagaStatus("answer", 1, "PARKED", 1, True)], broker_error="it does not answer",
        partitions=[msgspec.structs.replace(well.partitions[0], gaps=gaps), *well.partitions[1:]],
    )  # fmt: skip
    assert [(each.text, each.command) for each in wrong("bank", "shop:bank", ill)] == [
        ("the log cannot be asked: it does not answer", ""),
        ("no worker lives: nothing is sent or handled", "ensue run shop:bank"),
        ("2 dead letters", "ensue dead-letters groups shop:bank"),
        ("wires/0: messages of till/a are lost", "ensue gaps accept shop:bank"),
        ("1 open gap: asked for again", ""),
        ("1 saga answer parked", "ensue sagas list shop:bank"),
        ("partition wires/0 is paused", "ensue partitions resume shop:bank wires/0"),
    ]

    # What a view goes on without is kept with its version, by another command.
    of_view = [each.command for each in wrong("bank", "shop:bank", ill, of_view=True) if "lost" in each.text]
    assert of_view == ["ensue views accept-missing shop:bank"]


async def test_letters_that_only_wait_are_not_called_dead(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    await wire(("bob", -1, ""), ("bob", 1, ""), letters=2)
    async with opened(bank) as access:
        found = await service_status(access)
    assert "1 dead letter" in [each.text for each in wrong("bank", "shop:bank", found)]
