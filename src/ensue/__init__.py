"""Ensue: what follows from an event. Event-driven data management for microservices.

Each step is one local transaction that updates entities and publishes events; events trigger the next steps; no event
is lost and none takes effect twice. Start with `Service`, `Event` and `Step`.
"""

from ensue.aggregate.aggregate import Aggregate, evolves
from ensue.app import Service, publish
from ensue.command import Command
from ensue.config import EngineConfig, Settings
from ensue.errors import (
    AggregateExists,
    BadMessage,
    EnsueError,
    EntityMissing,
    HeldBack,
    NotCaughtUp,
    ReplyTimeout,
    RetryableError,
    TokenEnded,
    TokenInvalid,
    TooManyWaiters,
    UsageError,
    VersionMismatch,
    ViewNotReady,
)
from ensue.event import Event, as_event, upcast
from ensue.failure import Discarded, Failure, UnknownFailure
from ensue.message import Message
from ensue.origin import Origin, coming_from
from ensue.ports import Lookup
from ensue.repository import Repository, TableRepository
from ensue.retry import Retry
from ensue.rows import Rows
from ensue.saga.ending import SagaEnd
from ensue.saga.failures import DeadlineExceeded, SagaCancelled, TimeLimitExceeded
from ensue.saga.outside import EffectKey
from ensue.saga.saga import Saga
from ensue.schedule import Run
from ensue.sessions.sync_step import SyncStep
from ensue.signatures import Key, Trust
from ensue.step import Step
from ensue.token import Token
from ensue.view import View

__all__ = [
    "Aggregate",
    "AggregateExists",
    "BadMessage",
    "Command",
    "DeadlineExceeded",
    "Discarded",
    "EffectKey",
    "EngineConfig",
    "EnsueError",
    "EntityMissing",
    "Event",
    "Failure",
    "HeldBack",
    "Key",
    "Lookup",
    "Message",
    "NotCaughtUp",
    "Origin",
    "ReplyTimeout",
    "Repository",
    "Retry",
    "RetryableError",
    "Rows",
    "Run",
    "Saga",
    "SagaCancelled",
    "SagaEnd",
    "Service",
    "Settings",
    "Step",
    "SyncStep",
    "TableRepository",
    "TimeLimitExceeded",
    "Token",
    "TokenEnded",
    "TokenInvalid",
    "TooManyWaiters",
    "Trust",
    "UnknownFailure",
    "UsageError",
    "VersionMismatch",
    "View",
    "ViewNotReady",
    "as_event",
    "coming_from",
    "evolves",
    "publish",
    "upcast",
]
