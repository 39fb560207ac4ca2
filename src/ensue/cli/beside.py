"""A command looks at a service's databases, or decides something in them, beside its running processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ensue.app import Service
from ensue.operations.opening import Opened, opened

T = TypeVar("T")


def run_beside(
    service: Service, work: Callable[[Opened], Awaitable[T]], *, broker: bool = False, target: str = ""
) -> T:
    """Open the service, do this and return what comes of it; with whatever is open closed. The others: see `opened`."""

    async def run() -> T:
        async with opened(service, broker=broker, target=target) as access:
            return await work(access)

    return asyncio.run(run())
