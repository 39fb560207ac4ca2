"""Sagas: where they stand; and what a person orders of them: to go on, to be undone, to pass something over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ensue.deciding import Deciding
from ensue.engine import ordering
from ensue.errors import UsageError
from ensue.operations.opening import Opened, dispatcher_of
from ensue.operations.readable import read_json
from ensue.ports import StepTransaction
from ensue.saga.instance import LIVING, Instance, Status
from ensue.saga.journal import Resolved
from ensue.saga.skipping import Settled
from ensue.saga.wake import Ordered, Wake


class SagaLine(msgspec.Struct, kw_only=True):
    """One saga in a list. Times in seconds since the epoch."""

    saga: str
    """`<name>:<id>`"""
    status: Status
    version: int
    started_at: float
    updated_at: float
    correlation_id: str
    waits_for: str
    reason: str
    """Why it is parked."""


class Saga(SagaLine, kw_only=True):
    """One saga with all that is known of it. What its request, journal, undos and mailbox hold is the user's data."""

    request: Any
    journal: Sequence[Any]
    undos: Sequence[Any]
    mailbox: Sequence[Any]
    decisions: Sequence[Any]


async def sagas(
    access: Opened, statuses: Sequence[Status] = LIVING, limit: int = 100, after: SagaLine | None = None
) -> tuple[list[SagaLine], int]:
    """Up to `limit` sagas, of each status the one first that was at work longest ago, and how many there are in all.
    after: one of these statuses, behind which to begin; of it status, updated_at and saga are looked at."""
    there = sum([await access.books.saga_count(each) for each in statuses])
    left = statuses if after is None else statuses[list(statuses).index(after.status) :]
    begin = None if after is None else (after.updated_at, after.saga)
    return [SagaLine(**_fields(each)) for each in await access.books.sagas(left, limit, begin)], there


async def instance(access: Opened, key: str) -> Instance:
    """One saga as it is stored. Raises UsageError when there is none."""
    found = await access.books.saga(key)
    if found is None:
        raise UsageError(
            f"service {access.service.name} has no saga {key}: ensue sagas list {access.target} shows them", saga=key
        )
    return found


def saga_of(found: Instance) -> Saga:
    return Saga(
        **_fields(found), request=read_json(found.request), journal=found.journal, undos=found.undos,
        mailbox=found.mailbox, decisions=found.decisions,
    )  # fmt: skip


def _fields(saga: Instance) -> dict[str, Any]:
    return {
        "saga": saga.key,
        "status": saga.status,
        "version": saga.version,
        "started_at": saga.started_at,
        "updated_at": saga.updated_at,
        "correlation_id": saga.correlation_id,
        "waits_for": saga.waits_for,
        "reason": saga.reason,
    }


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a saga's journal. at: seconds since the epoch; None: when the code asked for something is not kept,
    only when something came of it. after_s: since the last moment that is known, the saga's beginning the first; it may
    seem to be before that, where clocks differ. failure: its name; empty: it has not failed."""

    number: int
    what: str
    came: bool
    at: float | None
    after_s: float | None
    failure: str


def timeline_of(found: Instance) -> list[Moment]:
    """The journal in its order: what the code has asked for, and what came of each."""
    moments: list[Moment] = []
    asked: dict[int, str] = {}
    last = found.started_at
    for entry in found.journal:
        if isinstance(entry, Resolved):
            what = asked.get(entry.number, "")
            after_s, last = entry.at - last, entry.at
            moments.append(
                Moment(
                    number=entry.number, what=what, came=True, at=entry.at, after_s=after_s, failure=entry.failure
                )
            )  # fmt: skip
        else:
            asked[entry.number] = str(entry)
            moments.append(Moment(number=entry.number, what=str(entry), came=False, at=None, after_s=None, failure=""))
    return moments


async def order(access: Opened, keys: Sequence[str], what: Ordered, by: Deciding) -> None:
    """Have parked sagas go on, or others be undone: all of these, or none. keys: `<name>:<id>` each. It is done as soon
    as a worker reads it. Raises UsageError for the first one for which it cannot be."""
    dispatcher = await dispatcher_of(access)
    await ordering.order(access.store, dispatcher, keys, what, by.actor, by.reason, _note(access, by))


async def skip(access: Opened, key: str, operation: int | None, settled: Settled, by: Deciding, seen: int = 0) -> str:
    """Have a parked saga go on as if what it is at had come to this; return what that is. operation: its number, where
    it is at several. seen: the revision at which somebody looked at it, 0: they do not say. Raises UsageError, also
    when it has gone on since."""
    dispatcher = await dispatcher_of(access)
    return await ordering.skip(
        access.store, dispatcher, key, operation, settled, by.actor, by.reason, _note(access, by), seen
    )


def _note(access: Opened, by: Deciding) -> ordering.Also:
    async def note(transaction: StepTransaction, saga: Instance, wake: Wake) -> None:
        before = {"status": saga.status, "waits_for": saga.waits_for, "reason": saga.reason.partition("\n")[0]}
        skipped = {"asks": wake.asks, "number": wake.number, "result": wake.data, "failure": wake.refusal}
        after = skipped if wake.kind == "skip" else None
        await access.books.record(transaction, by, f"sagas {wake.kind}", saga.key, before, after)

    return note
