"""Handlers that end in ways which would end more than themselves: SystemExit, StopIteration."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, letters, until_letters

from ensue import Event, Retry, Service, Step
from ensue.message import DeadLetterState


class Fed(Event, topic="food", key="animal"):
    animal: str


def exits() -> None:
    sys.exit("no food is left")


def stops() -> None:
    next(iter([]))


@pytest.mark.parametrize("plain", [False, True], ids=["async def", "def"])
@pytest.mark.parametrize(("leave", "names"), [(exits, "SystemExit"), (stops, "StopIteration")])
async def test_a_handler_that_leaves_is_a_failure_of_its_message_and_the_service_goes_on(
    tmp_path: Path, leave: Callable[[], None], names: str, plain: bool
) -> None:
    fed: list[str] = []
    service = Service("zoo", retry=Retry(attempts_max=1))

    def feed(event: Fed) -> None:
        if event.animal == "bear":
            leave()
        fed.append(event.animal)

    if plain:

        @service.on
        def plain_feed(event: Fed, step: Step) -> None:
            feed(event)
    else:

        @service.on
        async def async_feed(event: Fed, step: Step) -> None:
            feed(event)

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
        await until_letters(running, service, 1)
        [letter] = await letters(running, service)
    assert letter.state is DeadLetterState.DEAD
    assert names in letter.error
    assert fed == ["wolf"]
