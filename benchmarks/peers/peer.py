"""What a side of the comparison is: a module with these functions. `program` runs each in a process of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from benchmarks.peers.ground import Ground, Order


class Producer(Protocol):
    """The producing service."""

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        """One transaction: the order's row and its event. `committing` is called right before the commit."""

    async def fill(self, orders: Sequence[Order]) -> None:
        """The same for many orders, as fast as the library knows, one transaction if it can: makes a backlog."""


class Peer(Protocol):
    """title: for people. packages: whose versions are shown. guarantee: what a consumer gets. backlog: events of a
    round of the drain, so that it takes 3 to 10 seconds."""

    title: str
    packages: Sequence[str]
    guarantee: str
    backlog: int

    def prepare(self, ground: Ground) -> Awaitable[None]:
        """Make tables, streams and queues; `orders` and `customers` are there."""

    def producing(self, ground: Ground) -> AbstractAsyncContextManager[Producer]: ...

    def consume(self, ground: Ground) -> Awaitable[None]:
        """Work until cancelled."""

    def relay(self, ground: Ground) -> Awaitable[None]:
        """Work until cancelled; what has no relay of its own returns at once."""
