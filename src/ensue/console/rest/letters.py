"""Dead letters: lists, one of them, and what is decided on one or on many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request, Response

from ensue.addresses import masked
from ensue.console.access import Action
from ensue.console.payloads import Payloads, shown, shown_bytes, shown_error, shown_headers
from ensue.console.rest.answers import (
    LetterNow,
    LetterPage,
    LettersDecided,
    LetterShown,
    LetterSummary,
    Purged,
    answered,
)
from ensue.console.rest.asked import PAGE, After, Limit, Named, Number, OfLetter, Topic, Who
from ensue.console.rest.bodies import EditLetter, ManyLetters, PurgeLetters, Why
from ensue.console.rest.cursors import cursor_of, read_letter
from ensue.console.rest.finding import invalid, looking_up, reading
from ensue.console.rest.route import ActionRoute, Asking, asks
from ensue.deciding import Deciding
from ensue.errors import RetryableError
from ensue.message import DeadLetterState
from ensue.operations import editing, letter_decisions, letters
from ensue.operations.groups import FAILED, cause_of
from ensue.operations.letter_decisions import LetterDecided, Outcome
from ensue.operations.letters import HOLDING, LetterLine
from ensue.operations.opening import Opened
from ensue.operations.repeats import Repeated

router = APIRouter(route_class=ActionRoute, tags=["dead letters"])

_LETTERS = "/services/{service}/letters"
_LETTER = _LETTERS + "/{topic}/{partition}/{number}"
_ERROR_CHARS_MAX = 300

T = TypeVar("T")

One = Callable[[Opened, str, Deciding], Awaitable[LetterLine]]


@router.get(_LETTERS, **asks(Action.SEE))
async def list_letters(
    service: Named,
    who: Who,
    state: Annotated[
        list[DeadLetterState] | None, Query(description="Of these; else what holds something back")
    ] = None,
    group: Annotated[str, Query(max_length=64, description="Of this group of failures alone")] = "",
    after: After = None,
    limit: Limit = PAGE,
) -> Response:
    """List what is set aside, in the order of setting aside. `total` counts all in these states, of every group."""
    states = tuple(dict.fromkeys(state)) if state else FAILED if group else HOLDING
    begin = None if after is None else read_letter(after, who.desk.services.service(service).name)
    found: list[LetterLine] = []
    following = None
    async with who.desk.services.opened(service) as access:
        total = await letters.letter_count(access, states)
        async with aclosing(letters.letter_lines(access, states, begin)) as lines:
            async for each in lines:
                if group and cause_of(each.error_type, each.error).name != group:
                    continue
                if len(found) == limit:
                    following = cursor_of(found[-1].parked_at, found[-1].id)
                    break
                found.append(each)
    return answered(LetterPage([_summary(each, who.payloads) for each in found], total, following))


@router.get(_LETTER, **asks(Action.SEE))
async def show_letter(service: Named, topic: Topic, partition: Number, number: OfLetter, who: Who) -> Response:
    """Show one letter: the reason with the lines that led to it, headers, data, and which letters wait behind it."""
    async with who.desk.services.opened(service) as access:
        with looking_up():
            found = await letters.letter(access, _id(topic, partition, number))
    mode = who.payloads
    answer = LetterShown(
        **_fields(found, shown_error(found.error, mode)),
        headers=shown_headers(found.headers, mode),
        data=shown(found.data, mode),
        raw=shown_bytes(found.raw, mode),
        seen=editing.seen_of(found.raw) if mode is Payloads.FULL else None,
        payloads=mode,
        behind=found.behind,
    )
    return answered(answer)


@router.post(_LETTER + "/retry", **asks(Action.LETTER_RETRY))
async def retry_letter(
    service: Named, topic: Topic, partition: Number, number: OfLetter, body: Why, who: Who
) -> Response:
    """Have a letter tried again, with all its attempts; what waits behind it follows in order."""
    return await _decided(who, service, _id(topic, partition, number), body, letter_decisions.retry)


@router.post(_LETTER + "/discard", **asks(Action.LETTER_DISCARD))
async def discard_letter(
    service: Named, topic: Topic, partition: Number, number: OfLetter, body: Why, who: Who
) -> Response:
    """Give a letter up: it stays as a record, and what waits behind it goes on."""
    return await _decided(who, service, _id(topic, partition, number), body, letter_decisions.discard)


@router.post(_LETTER + "/edit", **asks(Action.LETTER_EDIT))
async def edit_letter(
    service: Named, topic: Topic, partition: Number, number: OfLetter, body: EditLetter, who: Who, request: Request
) -> Response:
    """Give a letter other data, and have it tried again. Refused is what the event's class cannot read, and another
    key. The data that it had is kept with the decision."""
    data = await exact_data(request)

    async def edit(access: Opened, letter_id: str, by: Deciding) -> LetterLine:
        with reading():
            return await editing.edit(access, letter_id, data, by, body.seen)

    return await _decided(who, service, _id(topic, partition, number), body, edit)


async def _decided(who: Asking, service: str, letter_id: str, body: Why, decide: One) -> Response:
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> LetterNow:
            with looking_up():
                await letter_decisions.chosen(access, [letter_id])
            found = await decide(access, letter_id, by)
            return LetterNow(found.id, found.state, await letters.anybody_works(access))

        return await who.done_once(access, do)


@router.post(_LETTERS + "/retry", **asks(Action.LETTER_RETRY))
async def retry_letters(service: Named, body: ManyLetters, who: Who) -> Response:
    """Have several letters tried again. One on which somebody else is quicker is passed over; an id that is not there
    is refused, before anything is done. See a group's retry for many."""
    return await _many(who, service, body, DeadLetterState.RELEASED)


@router.post(_LETTERS + "/discard", **asks(Action.LETTER_DISCARD))
async def discard_letters(service: Named, body: ManyLetters, who: Who) -> Response:
    """Give several letters up, as `retry` tries them again."""
    return await _many(who, service, body, DeadLetterState.DISCARDED)


async def _many(who: Asking, service: str, body: ManyLetters, state: DeadLetterState) -> Response:
    by, ids = who.why(body.reason), list(dict.fromkeys(body.ids))
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> LettersDecided:
            with looking_up():
                chosen = await letter_decisions.chosen(access, ids)
            decide = await letter_decisions.decider(access, state, by)
            found: list[LetterDecided] = []
            stopped = ""
            for each in chosen:
                outcome = Outcome.DECIDED
                try:
                    if state is DeadLetterState.RELEASED and each.garbage:
                        outcome = Outcome.GARBAGE
                    elif not await letter_decisions.decided(decide, each.id):
                        outcome = Outcome.PASSED
                except RetryableError as error:
                    if not found:
                        raise
                    stopped = masked(str(error))
                    break
                repeated.started = True
                found.append(LetterDecided(each.id, each.key, outcome))
            return decided_of(found, stopped)

        return await who.done_once(access, do)


def decided_of(found: list[LetterDecided], stopped: str = "") -> LettersDecided:
    done = sum(each.outcome is Outcome.DECIDED for each in found)
    return LettersDecided(done, len(found) - done, found, stopped)


@router.post(_LETTERS + "/purge", **asks(Action.LETTER_PURGE))
async def purge_letters(service: Named, body: PurgeLetters, who: Who) -> Response:
    """Delete discarded and refused letters with their data, for good. Every other letter stays."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> Purged:
            return Purged(await letter_decisions.purge(access, body.older_s, by))

        return await who.done_once(access, do)


class _WithData(msgspec.Struct):
    data: msgspec.Raw


async def exact_data(request: Request) -> bytes:
    """The bytes of `data` in a body that was read already: a number in it, of an amount say, keeps all its digits."""
    return bytes(decoded(await request.body(), _WithData).data)


def decoded(body: bytes, type: type[T]) -> T:
    """Raises Problem 422 for what JSON has no word for, and for half a character; FastAPI lets both pass."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is no JSON that could be kept: {error}") from error


def _id(topic: str, partition: int, number: int) -> str:
    return f"{topic}/{partition}:{number}"


def _summary(line: LetterLine, mode: Payloads) -> LetterSummary:
    first = shown_error(line.error, mode).partition("\n")[0]
    return LetterSummary(**_fields(line, first[:_ERROR_CHARS_MAX]))


def _fields(line: LetterLine, error: str) -> dict[str, Any]:
    number = int(line.id.rpartition(":")[2])
    return {
        "id": line.id, "state": line.state, "topic": line.topic, "partition": line.partition, "number": number,
        "offset": line.offset, "source": line.source, "position": line.position, "key": line.key, "type": line.type,
        "attempts": line.attempts, "due_at": line.due_at, "parked_at": line.parked_at, "error_type": line.error_type,
        "error": error,
    }  # fmt: skip
