"""Sagas: where they stand; and to have a parked one go on, one undone, an operation passed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response

from ensue.console.access import Action
from ensue.console.payloads import Payloads, shown, shown_error
from ensue.console.rest.answers import SagaPage, SagaShown, SagasOrdered, answered
from ensue.console.rest.asked import PAGE, After, Limit, Named, SagaId, SagaName, Who
from ensue.console.rest.bodies import ManySagas, SkipOperation, Why
from ensue.console.rest.cursors import cursor_of, read_cursor
from ensue.console.rest.finding import invalid, looking_up, no_cursor, reading
from ensue.console.rest.letters import decoded
from ensue.console.rest.route import ActionRoute, Asking, asks
from ensue.console.services import NotFound
from ensue.errors import UsageError
from ensue.failure import UnknownFailure
from ensue.failure import read as read_failure
from ensue.operations import sagas as operations
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json
from ensue.operations.repeats import Repeated
from ensue.operations.sagas import SagaLine
from ensue.saga.instance import LIVING, Instance, Status
from ensue.saga.journal import Issued, Refusal, Resolved
from ensue.saga.skipping import Settled
from ensue.saga.wake import Ordered

router = APIRouter(route_class=ActionRoute, tags=["sagas"])

_SAGAS = "/services/{service}/sagas"
#: The id may hold a slash.
_SAGA = _SAGAS + "/{name}/{saga:path}"


@router.get(_SAGAS, **asks(Action.SEE))
async def list_sagas(
    service: Named,
    who: Who,
    status: Annotated[list[Status] | None, Query(description="Of these; else those that have not ended")] = None,
    after: After = None,
    limit: Limit = PAGE,
) -> Response:
    """List sagas, of each status the one first that was at work longest ago."""
    statuses = tuple(dict.fromkeys(status)) if status else LIVING
    begin = None if after is None else _read_cursor(after, statuses)
    async with who.desk.services.opened(service) as access:
        _have_sagas(access)
        found, total = await operations.sagas(access, statuses, limit, begin)
    last = found[-1] if len(found) == limit else None
    following = None if last is None else f"{last.status.value}~{cursor_of(last.updated_at, last.saga)}"
    mode = who.payloads
    lines = [msgspec.structs.replace(each, reason=shown_error(each.reason, mode)) for each in found]
    return answered(SagaPage(lines, total, following))


def _read_cursor(cursor: str, statuses: Sequence[Status]) -> SagaLine:
    status, _, place = cursor.partition("~")
    if status not in statuses:
        no_cursor(cursor)
    at, key = read_cursor(place)
    return SagaLine(
        saga=key, status=Status(status), version=0, started_at=0, updated_at=at, correlation_id="", waits_for="",
        reason="",
    )  # fmt: skip


@router.get(_SAGA, **asks(Action.SEE))
async def show_saga(service: Named, name: SagaName, saga: SagaId, who: Who) -> Response:
    """Show one saga: its request, its journal, what is to be undone, and why it is parked."""
    async with who.desk.services.opened(service) as access:
        _have_sagas(access)
        found = await _found(access, f"{name}:{saga}")
    return answered(_shown(found, who.payloads))


@router.post(_SAGA + "/retry", **asks(Action.SAGA_RETRY))
async def retry_saga(service: Named, name: SagaName, saga: SagaId, body: Why, who: Who) -> Response:
    """Have a parked saga go on from where it is, with the code that there is now. Wherever that is: it does what
    its code says, so it wants no revision."""
    return await _ordered(who, service, [f"{name}:{saga}"], "retry", body)


@router.post(_SAGA + "/cancel", **asks(Action.SAGA_CANCEL))
async def cancel_saga(service: Named, name: SagaName, saga: SagaId, body: Why, who: Who) -> Response:
    """Have a saga that is not past its pivot undo what it has done."""
    return await _ordered(who, service, [f"{name}:{saga}"], "cancel", body)


@router.post(_SAGA + "/skip", **asks(Action.SAGA_SKIP))
async def skip_operation(
    service: Named, name: SagaName, saga: SagaId, body: SkipOperation, who: Who, request: Request
) -> Response:
    """Have a parked saga go on as if what it is at had come to this, because somebody has done it by hand, or knows
    that it cannot be done. An undo that fails counts as done."""
    by, settled = who.why(body.reason), await _settled(body, request)
    key = f"{name}:{saga}"
    async with who.desk.services.opened(service) as access:
        _have_sagas(access)

        async def do(repeated: Repeated) -> SagasOrdered:
            await _found(access, key)
            return SagasOrdered([key], await operations.skip(access, key, body.operation, settled, by, body.revision))

        return await who.done_once(access, do)


@router.post(_SAGAS + "/retry", **asks(Action.SAGA_RETRY))
async def retry_sagas(service: Named, body: ManySagas, who: Who) -> Response:
    """Have parked sagas go on: all of these, or none."""
    return await _ordered(who, service, body.sagas, "retry", body)


@router.post(_SAGAS + "/cancel", **asks(Action.SAGA_CANCEL))
async def cancel_sagas(service: Named, body: ManySagas, who: Who) -> Response:
    """Have sagas undo what they have done: all of these, or none."""
    return await _ordered(who, service, body.sagas, "cancel", body)


async def _ordered(who: Asking, service: str, keys: Sequence[str], what: Ordered, body: Why) -> Response:
    by, wanted = who.why(body.reason), list(dict.fromkeys(keys))
    async with who.desk.services.opened(service) as access:
        _have_sagas(access)

        async def do(repeated: Repeated) -> SagasOrdered:
            for each in wanted:
                await _found(access, each)
            await operations.order(access, wanted, what, by)
            return SagasOrdered(wanted)

        return await who.done_once(access, do)


def _have_sagas(access: Opened) -> None:
    able = access.store.capabilities
    if not (able.transactions and able.publishes):
        raise NotFound(f"{access.service.name} has no sagas: its database keeps none")


async def _found(access: Opened, key: str) -> Instance:
    if "\0" in key or not key.isascii():
        raise NotFound(f"service {access.service.name} has no saga {key[:80]!r}")
    with looking_up():
        return await operations.instance(access, key)


class _WithResult(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"")


async def _settled(body: SkipOperation, request: Request) -> Settled:
    result = bytes(decoded(await request.body(), _WithResult).result)
    if body.failure is None:
        return Settled(result or None)
    if result not in (b"", b"null"):
        raise invalid("give result or failure: it came to one of them")
    with reading():
        found = read_failure(body.failure.name, msgspec.json.encode(body.failure.fields))
        if isinstance(found, UnknownFailure):
            raise UsageError(f"no failure {body.failure.name[:80]} with these fields is declared")
    return Settled(failure=Refusal.of(found))


def _shown(saga: Instance, mode: Payloads) -> SagaShown:
    found = operations.saga_of(saga)
    line = {name: getattr(found, name) for name in SagaLine.__struct_fields__}
    line["reason"] = shown_error(found.reason, mode)
    return SagaShown(
        **line,
        request=shown(found.request, mode),
        journal=[_entry(each, mode) for each in saga.journal],
        undos=[
            {"of": each.of, "kind": each.kind, "name": each.name, "attempts": each.attempts, "state": each.state}
            | {"data": _data(each.data, mode)}
            for each in saga.undos
        ],
        mailbox=[{"type": each.type, "data": _data(each.data, mode)} for each in saga.mailbox],
        decisions=msgspec.to_builtins(saga.decisions),
        revision=saga.revision,
        payloads=mode,
    )


def _entry(entry: Issued | Resolved, mode: Payloads) -> dict[str, Any]:
    if isinstance(entry, Issued):
        return {"issued": entry.number, "kind": entry.kind, "name": entry.name, "key": entry.key}
    found: dict[str, Any] = {"resolved": entry.number, "at": entry.at, "data": _data(entry.data, mode)}
    if entry.failure:
        fields = {name: _data(value, mode) for name, value in entry.fields.items()}
        found |= {"failure": entry.failure, "fields": None if mode is Payloads.NONE else fields}
    return found


def _data(raw: msgspec.Raw, mode: Payloads) -> Any:
    return shown(read_json(bytes(raw)), mode)
