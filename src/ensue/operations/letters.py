"""Dead letters, to look at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from ensue.codec import decode_envelope
from ensue.engine.books.letters import Aside
from ensue.engine.decisions import found_letter
from ensue.engine.worker import is_gone
from ensue.errors import BadMessage
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json
from ensue.plan import queue_of

#: What holds something back. A record of what was discarded is shown only when it is asked for.
HOLDING = tuple(state for state in DeadLetterState if state not in (DeadLetterState.DISCARDED, DeadLetterState.REFUSED))
_BEHIND_NOBODY = (DeadLetterState.WAITING, DeadLetterState.DISCARDED)


class LetterLine(msgspec.Struct, kw_only=True):
    """One letter in a list. Times in seconds since the epoch, 0: none."""

    id: str
    state: DeadLetterState
    topic: str
    partition: int
    offset: int
    source: str
    position: int
    key: str
    type: str
    attempts: int
    due_at: float
    parked_at: float
    error_type: str
    error: str

    @property
    def garbage(self) -> bool:
        """Whether it is no message at all: it holds nothing back, and no handler can take it."""
        return not self.source and self.error_type == "Garbage"


class Letter(LetterLine, kw_only=True):
    """One letter with all that is known of it."""

    headers: dict[str, Any]
    """The CloudEvents attributes, as far as they can be read."""
    data: Any
    """As JSON has it, else what the bytes look like."""
    behind: list[str]
    """Ids of the letters of its key that wait for it."""
    raw: bytes
    """The data as it came."""


def line_of(letter: DeadLetter) -> LetterLine:
    return LetterLine(**_fields(letter, headers_of(letter)))


async def letter_lines(
    access: Opened, states: Sequence[DeadLetterState] = HOLDING, after: Aside | None = None
) -> AsyncGenerator[LetterLine, None]:
    """The letters in these states in the order of setting aside, read in pages: there may be many. after: begin behind
    this one, which need not be there any more."""
    async with aclosing(access.books.letters_by_time(states, after)) as letters:
        async for each in letters:
            yield line_of(each)


async def letter_count(access: Opened, states: Collection[DeadLetterState] = HOLDING) -> int:
    totals = await access.books.letter_totals()
    return sum(count for state, count in totals.items() if state in states)


async def letter(access: Opened, letter_id: str) -> Letter:
    """One letter. Raises UsageError when there is none of that id."""
    found = found_letter(letter_id, await access.books.letter(letter_id))
    headers = headers_of(found)
    fields = _fields(found, headers)
    behind = await _behind(access, found)
    return Letter(**fields, headers=headers, data=read_json(found.data), behind=behind, raw=found.data)


async def anybody_works(access: Opened) -> bool:
    """Whether a worker of the service seems to live: what is decided takes effect when one looks."""
    return not all(map(is_gone, (await access.books.leases()).workers))


def headers_of(letter: DeadLetter) -> dict[str, Any]:
    """The CloudEvents attributes, as far as they can be read."""
    if not letter.envelope:
        return {}
    try:
        envelope = decode_envelope(letter.envelope)
    except BadMessage as error:
        return {"unreadable": str(error)}
    known: dict[str, Any] = msgspec.to_builtins(envelope)
    extensions: dict[str, str] = known.pop("extensions", None) or {}
    return known | extensions


def short_reason(error_type: str, error: str) -> str:
    """Why it was set aside, in a line."""
    said = error.partition("\n")[0]
    reason = f"{error_type}: {said}" if error_type else "waits behind its key's first"
    return reason if len(reason) <= 80 else reason[:77] + "..."


def _fields(letter: DeadLetter, headers: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": letter.id,
        "state": letter.state,
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.offset,
        "source": letter.source,
        "position": letter.position,
        "key": letter.key,
        "type": headers.get("type", ""),
        "attempts": letter.attempts,
        "due_at": letter.due_at,
        "parked_at": letter.parked_at,
        "error_type": letter.error_type,
        "error": letter.error,
    }


async def _behind(access: Opened, letter: DeadLetter) -> list[str]:
    """Ids of the letters that this one holds back."""
    if line_of(letter).garbage or letter.state in _BEHIND_NOBODY:
        return []
    books = access.books
    waiting = (await books.letter_totals()).get(DeadLetterState.WAITING, 0)
    letters = await books.letters(letter.partition, (DeadLetterState.WAITING,), waiting)
    return [each.id for each in letters if queue_of(each) == queue_of(letter)]
