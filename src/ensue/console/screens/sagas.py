"""Sagas: where they stand, one with its journal; and to have it go on, be undone, or pass something over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import structs
from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Fields, Visit
from ensue.errors import UsageError
from ensue.failure import UnknownFailure
from ensue.failure import read as read_failure
from ensue.operations import sagas as operations
from ensue.operations.flow.sagas import saga_seen
from ensue.operations.opening import Opened
from ensue.operations.sagas import SagaLine, timeline_of
from ensue.saga.instance import LIVING, Status
from ensue.saga.journal import Refusal, still_open
from ensue.saga.skipping import Settled

_SHOWN = 200
_ACTIONS = {"retry": Action.SAGA_RETRY, "skip": Action.SAGA_SKIP, "cancel": Action.SAGA_CANCEL}


async def sagas(visit: Visit) -> Response:
    only, status = visit.asked("service", ""), visit.asked("status", "")
    known = [each.value for each in Status]
    if status and status not in known:
        raise UsageError(f"status={status}: expected one of {', '.join(known)}, or nothing")
    statuses = (Status(status),) if status else LIVING
    names = [only] if only else visit.services.names
    answers = await visit.services.each(partial(_sagas, statuses=statuses), names)
    listed = [(each.service, each.found) for each in answers if each.found is not None]
    return visit.page(
        "sagas",
        changes=names,
        service=only,
        status=status,
        names=visit.services.names,
        statuses=known,
        troubles=[each for each in answers if each.error],
        total=sum(total for _, (_, total) in listed),
        sagas=[
            (name, structs.replace(each, reason=visit.error(each.reason)))
            for name, (lines, _) in listed
            for each in lines
        ],
    )


async def _sagas(access: Opened, statuses: Sequence[Status]) -> tuple[list[SagaLine], int]:
    able = access.store.capabilities
    return await operations.sagas(access, statuses, _SHOWN) if able.transactions and able.publishes else ([], 0)


async def saga(visit: Visit) -> Response:
    name, key = visit.asked("service"), visit.asked("key")
    async with visit.opened(name) as access:
        found = await operations.instance(access, key)
    return visit.page(
        "saga",
        changes=[name],
        service=name,
        saga=saga_seen(name, found),
        timeline=timeline_of(found),
        open_ones=still_open(found.journal),
        revision=found.revision,
        reason=visit.error(found.reason),
        correlation_id=found.correlation_id,
        payload=visit.payload(found.request),
        may=visit.may(_ACTIONS),
    )


async def decide(visit: Visit) -> Response:
    """A form of the page of one saga."""
    fields = await visit.form()
    name, key, do = fields.text("service"), fields.text("key"), fields.text("do")
    by = visit.deciding(fields.one_of("do", _ACTIONS), fields.text("reason"))
    settled = _settled(fields) if do == "skip" else None
    operation = fields.number("operation") if do == "skip" and fields.text("operation", "") else None
    seen = fields.number("revision") if do == "skip" else 0

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            if settled is not None:
                skipped = await operations.skip(access, key, operation, settled, by, seen)
                run.tell(f"saga {key}: {skipped} is skipped as soon as a worker reads it")
                return
            await operations.order(access, [key], "retry" if do == "retry" else "cancel", by)
            run.tell(f"saga {key}: {'goes on' if do == 'retry' else 'is undone'} as soon as a worker reads it")

    back = link("/saga", service=name, key=key)
    return await visit.decided(fields, f"{do} saga {key}", by, (name, key), back, work)


def _settled(fields: Fields) -> Settled:
    result, failure = fields.text("result", ""), fields.text("failure", "")
    if not failure:
        return Settled(_json("result", result) if result else None)
    if result:
        raise UsageError("give a result or a failure: it came to one of them")
    found = read_failure(failure, _json("fields", fields.text("fields", "{}")))
    if isinstance(found, UnknownFailure):
        raise UsageError(f"no failure {failure:.100} with these fields is declared")
    return Settled(failure=Refusal.of(found))


def _json(name: str, text: str) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise UsageError(f"{name}={text[:100]} is no JSON: {error}") from error
