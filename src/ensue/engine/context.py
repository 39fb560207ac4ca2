"""What every loop of one service needs, handed in once: no loop finds its clock, chance or I/O by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from random import Random

from ensue.config import EngineConfig
from ensue.engine.books import Books
from ensue.engine.brake import Brake
from ensue.engine.caught_up import CaughtUp
from ensue.engine.dispatch import Dispatcher
from ensue.engine.faults import Faults
from ensue.engine.metric import Measured
from ensue.engine.waiting import Waiting
from ensue.ports import Broker, Clock, Ids, Store
from ensue.retry import Retry
from ensue.tracing import NO_TRACING, Tracing


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """partitions: of every topic. retry: of the service, for messages whose handler failed.

    timer_set: set after a commit that wrote timers, for the loop that waits for the next one.
    waiting: who waits in this process for answers to commands, and for ends of sagas. caught_up: and for tokens.
    brake: how fast records are read.
    tracing: is told what the loops do. measured: what they measure as they go.
    progress: called after a loop has done something, so that a test can wait for quiet without sleeping.
    """

    service: str
    store: Store
    books: Books
    broker: Broker
    dispatcher: Dispatcher
    config: EngineConfig
    retry: Retry
    clock: Clock
    ids: Ids
    random: Random
    faults: Faults
    partitions: int
    caught_up: CaughtUp
    progress: Callable[[], None] = lambda: None
    timer_set: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    waiting: Waiting = dataclasses.field(default_factory=Waiting)
    brake: Brake = dataclasses.field(default_factory=Brake)
    tracing: Tracing = NO_TRACING
    measured: Measured = dataclasses.field(default_factory=Measured)
