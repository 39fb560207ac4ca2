"""What every loop of one service needs, handed in once: no loop finds its clock, chance or I/O by itself."""

from __future__ import annotations

import dataclasses
from random import Random

from ensue.config import EngineConfig
from ensue.engine.dispatch import Dispatcher
from ensue.engine.faults import Faults
from ensue.ports import Broker, Clock, Ids, Store
from ensue.retry import Retry


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """partitions: of every topic. retry: of the service, for messages whose handler failed."""

    service: str
    store: Store
    broker: Broker
    dispatcher: Dispatcher
    config: EngineConfig
    retry: Retry
    clock: Clock
    ids: Ids
    random: Random
    faults: Faults
    partitions: int
