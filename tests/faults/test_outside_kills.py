"""An outside effect happens once for its key, and its saga ends, wherever a process is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.faults.outside_child import LOST_EVERY, REFUSED_EVERY, UNDONE_EVERY, Provider, begun, ended, provided

#: At which pass of each point the service dies: from what asks for the effect, until what came of it is taken in.
DEATHS = {
    "outside.late": ("1", "3"),
    "outside.begun": ("1", "3"),
    "outside.called": ("1", "4"),
    "outside.written": ("1", "4"),
    "outside.committed": ("1", "3"),
    "consumer.begun": ("1", "3"),
    "consumer.outbox_written": ("1", "3"),
    "consumer.checkpoint_written": ("1", "3"),
    "consumer.committed": ("1", "3"),
    "timers.moved": ("1",),
    "timers.committed": ("1",),
}
TOTAL = 12


def broken(provider: Provider) -> list[str]:
    """Which effects there are that should not be, or not so often."""
    expected: dict[str, list[str]] = {}
    for number in range(1, TOTAL + 1):
        if number % REFUSED_EVERY:
            expected[f"shop:pay:{number}:1"] = [f"charge/{number}"]
            if number % UNDONE_EVERY == 0:
                expected[f"shop:pay:{number}:1:undo"] = [f"refund/{number}"]
    keys = expected.keys() | provider.effects.keys()
    return [
        f"{key}: {provider.effects.get(key)}, expected {expected.get(key)}"
        for key in sorted(keys)
        if provider.effects.get(key) != expected.get(key)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}:{death}" for point, deaths in DEATHS.items() for death in deaths])
def test_killed_at_any_point_each_effect_happens_once_for_its_key(where: str, tmp_path: Path) -> None:
    with provided() as (provider, url):
        assert ended(begun(tmp_path, url, TOTAL, where)) == -signal.SIGKILL, f"{where} was not passed"
        assert ended(begun(tmp_path, url, TOTAL)) == 0
        assert broken(provider) == []


@pytest.mark.slow
def test_of_two_processes_one_dies_and_each_effect_happens_once_for_its_key(tmp_path: Path) -> None:
    with provided() as (provider, url):
        stays = begun(tmp_path, url, TOTAL)
        dies = begun(tmp_path, url, TOTAL, "outside.called:1")
        assert ended(dies) in (0, -signal.SIGKILL)  # 0: the other one had all partitions
        assert ended(stays) == 0
        assert broken(provider) == []
        lost = {f"shop:pay:{number}:1" for number in range(LOST_EVERY, TOTAL + 1, LOST_EVERY) if number % REFUSED_EVERY}
        assert all(provider.calls[key] > 1 for key in lost), "an answer that is lost is asked for again"
