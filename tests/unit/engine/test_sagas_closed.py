"""What a saga's function leaves open when the transaction of its batch fails is closed then, and asks for nothing."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from ensue import ReplyTimeout, Retry, Saga, Service
from ensue.testing import run


@dataclass(frozen=True)
class Go:
    name: str


async def test_those_at_a_local_step_when_another_one_of_the_batch_fails_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    tidied: list[str] = []
    service = Service("tidying", retry=Retry(attempts_max=1))

    @service.local
    def note(name: str) -> None: ...

    @service.local
    def breaks(name: str) -> None:
        raise ZeroDivisionError

    @service.saga
    async def tidy(saga: Saga, go: Go) -> None:
        try:
            await saga.local(note, go.name, undo=None)
        finally:
            tidied.append(go.name)
            await saga.local(note, go.name, undo=None)

    @service.saga
    async def bad(saga: Saga, go: Go) -> None:
        await saga.local(breaks, go.name, undo=None)

    async with run(service) as world:
        async with service.step() as step:
            for number in range(20):
                step.start(tidy, Go(str(number)), id=number)
            step.start(bad, Go("bad"), id="bad")
        await world.settle(30)
        for number in range(20):
            assert (await service.ended(tidy, number, timeout=30)).status == "COMPLETED"
        with pytest.raises(ReplyTimeout, match="PARKED"):
            await service.ended(bad, "bad", timeout=0)
    gc.collect()
    assert len(tidied) > 20, "the batch was taken back and done anew, without the one that fails"
    assert unraised == []
