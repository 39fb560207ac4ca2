"""One test of a suite by its name, as pytest would run it."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack
from typing import Any

from ensue.conformance.broker import BrokerConformance
from ensue.conformance.store_suite import StoreSuite


async def run(suite: StoreSuite | BrokerConformance, name: str, *given: Any) -> None:
    """Run the test with what the suite opens for it, and for its other parameters with `given`."""
    test = getattr(suite, name)
    parameters = list(inspect.signature(test).parameters)
    async with AsyncExitStack() as stack:
        opened: dict[str, Any] = {}
        if parameters[:1] in (["store"], ["broker"]):
            opened[parameters[0]] = await stack.enter_async_context(suite.opened())
        if "other" in parameters:
            assert isinstance(suite, StoreSuite)
            opened["other"] = await stack.enter_async_context(suite.another(opened["store"]))
        await test(**opened, **dict(zip([each for each in parameters if each not in opened], given, strict=True)))
