"""A flow as lines for a terminal: a paragraph for each event, and a line in it for each service that it concerns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ensue.operations.flow.sagas import SagaSeen
from ensue.operations.flow.sequence import Published, Reaction
from ensue.operations.flow.shown import shown_operation, shown_saga, shown_undo
from ensue.operations.flow.words import after, shown_cause, shown_place, shown_state, shown_time


def as_text(correlation_id: str, events: Sequence[Published], sagas: Sequence[SagaSeen] = ()) -> list[str]:
    senders = {each.sender for each in events} | {each.service for event in events for each in event.reactions}
    lines = [f"flow {correlation_id}: {_counted(len(events), 'event')}, {_counted(len(senders), 'service')}"]
    wide = len(str(len(events)))
    margin = " " * (wide + 4)
    for event in events:
        time, cause = shown_time(event, first=event is events[0]), shown_cause(event)
        begin = f"{event.number:>{wide}}  {time}  {event.sender} publishes {event.type}, key {event.key}, {cause}"
        lines += [begin, f"{margin}id {event.id}, {shown_place(event)}"]
        lines += [f"{margin}-> {_reaction(each)}" for each in event.reactions]
        if not event.reactions:
            lines.append(f"{margin}-> nobody here handles it")
    begun = next((each.at for each in events if each.at is not None), 0.0)
    for saga in sagas:
        lines.append(shown_saga(saga))
        for operation in saga.operations:
            lines.append(f"{margin}{shown_operation(operation, after((operation.at or begun) - begun))}")
        lines += [f"{margin}{shown_undo(each)}" for each in saga.undos]
    return lines


def _reaction(reaction: Reaction) -> str:
    handlers = f" ({', '.join(reaction.handlers)})" if reaction.handlers else ""
    published = f", published {listed(reaction.published)}" if reaction.published else ""
    return f"{reaction.service}{handlers}: {shown_state(reaction)}{published}"


def listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
