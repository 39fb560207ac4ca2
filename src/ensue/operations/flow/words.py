"""What is known of an event of a flow, in words: when it was, what it followed from, where it is, what came of it."""

from __future__ import annotations

import datetime

from ensue.operations.flow.facts import Place, State
from ensue.operations.flow.sequence import Cause, Letter, Published, Reaction
from ensue.texts import when

#: Seconds and name of a unit, and of its parts; used below so many seconds.
_UNITS = (
    (60, "min", 1, "s", 3_600),
    (3_600, "h", 60, "min", 86_400),
    (86_400, "d", 3_600, "h", float("inf")),
)


def shown_time(event: Published, *, first: bool) -> str:
    """Of the first event when it was, of the others how long after it."""
    if event.at is None or event.after_s is None:
        return "at no known time"
    if first:
        moment = datetime.datetime.fromtimestamp(event.at, datetime.UTC)
        return f"{moment.strftime('%Y-%m-%d %H:%M:%S')}.{moment.microsecond // 1000:03} UTC"
    return after(event.after_s)


def after(seconds: float) -> str:
    """How long after: the clocks of two databases may differ, so that it may seem to be before.

    >>> after(0.0124), after(75), after(7380), after(1_209_600), after(-0.5)
    ('+0.012 s', '+1 min 15 s', '+2 h 3 min', '+14 d 0 h', '-0.500 s')
    """
    sign, found = "-" if seconds < 0 else "+", abs(seconds)
    if found < 60:
        return f"{sign}{found:.3f} s"
    for unit_s, unit, part_s, part, end_s in _UNITS:
        if found < end_s:
            return f"{sign}{found // unit_s:.0f} {unit} {found % unit_s // part_s:.0f} {part}"
    raise AssertionError(seconds)


def shown_cause(event: Published) -> str:
    match event.cause:
        case Cause.EVENT:
            return f"because of {event.because_of}"
        case Cause.OUTSIDE:
            return "from outside"
        case Cause.SAGA:
            key, _, number = event.causation_id.rpartition("#")
            return f"by {number} of saga {key}"
        case Cause.MISSING:
            return f"because of {event.causation_id}, which was not found"
        case Cause.CIRCLE:
            return f"because of {event.causation_id}, which says that it follows from this"


def shown_place(event: Published) -> str:
    where = f"{event.topic}/{event.partition}"
    match event.place:
        case Place.TIMER:
            return f"waits in the database of {event.sender} until {when(event.due_at)}"
        case Place.UNSENT:
            return f"in the outbox of {event.sender}, not sent yet"
        case Place.HELD:
            return f"in the outbox of {event.sender}, held there by {event.reason}"
        case Place.SENT:
            return f"sent to {where}; {event.reason}" if event.reason else f"sent to {where}, where it was not found"
        case Place.WITHDRAWN:
            return f"withdrawn by {event.sender}: nobody gets it"
        case Place.LOG:
            return f"in the log at {where} offset {event.offset}"


def shown_state(reaction: Reaction) -> str:
    if reaction.letter is not None:
        return _letter(reaction.letter)
    if reaction.state is State.DONE:
        return "done"
    return f"{'not yet' if reaction.state is State.PENDING else reaction.state.value}: {reaction.reason}"


def _letter(letter: Letter) -> str:
    tries = f" after {letter.attempts} {'try' if letter.attempts == 1 else 'tries'}" if letter.attempts else ""
    following = f", next {when(letter.due_at)}" if letter.due_at else ""
    return f"{letter.state}{tries}{following}, dead letter {letter.id}: {letter.error}"
