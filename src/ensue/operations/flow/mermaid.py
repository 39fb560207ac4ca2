"""A flow as a Mermaid sequence diagram: an arrow for each event and service that it concerns, a note for each saga.

Whatever comes from outside is written so that Mermaid takes none of it for its own syntax.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.operations.flow.facts import Place, State
from ensue.operations.flow.sagas import SagaSeen
from ensue.operations.flow.sequence import Cause, Published, Reaction
from ensue.operations.flow.shown import shown_saga
from ensue.operations.flow.words import shown_cause, shown_place, shown_state, shown_time
from ensue.texts import plain

#: What may stand as it is, besides letters and digits. Not `;`, which ends a line, `#`, which begins a code, `%`, which
#: may begin a directive, nor what HTML is made of.
_SAFE = frozenset(" ._-+/,()")
#: Characters of a key, a type or a source, and of a sentence about an event.
_NAME_MAX, _SENTENCE_MAX = 60, 200
_OUTSIDE = "outside"
_ARROWS = {State.DONE: "->>", State.SET_ASIDE: "-x"}
_PENDING = "-->>"


def as_mermaid(events: Sequence[Published], sagas: Sequence[SagaSeen] = ()) -> list[str]:
    found = {each.sender for each in events} | {each.service for event in events for each in event.reactions}
    names = sorted(found | {each.service for each in sagas})
    ids = {name: f"service{number}" for number, name in enumerate(names, 1)}
    lines = ["sequenceDiagram"]
    if any(each.cause is Cause.OUTSIDE for each in events):
        lines.append(f"  actor {_OUTSIDE}")
    lines += [f"  participant {ids[name]} as {escaped(name)}" for name in names]
    begun = None
    for event in events:
        step = (event.sender, event.time)
        if event.cause is Cause.OUTSIDE and step != begun:  # what one step publishes has one time
            lines.append(f"  {_OUTSIDE}->>{ids[event.sender]}: a step")
            begun = step
        elif event.cause in (Cause.SAGA, Cause.MISSING, Cause.CIRCLE):
            lines.append(
                f"  Note over {ids[event.sender]}: {event.number} {escaped(shown_cause(event), _SENTENCE_MAX)}"
            )
        if event.place is not Place.LOG:
            lines.append(
                f"  Note over {ids[event.sender]}: {event.number} {escaped(shown_place(event), _SENTENCE_MAX)}"
            )
        label = _label(event, first=event is events[0])
        if not event.reactions:
            lines.append(f"  Note over {ids[event.sender]}: {label}, nobody here handles it")
        for reaction in event.reactions:
            arrow = _ARROWS.get(reaction.state, _PENDING)
            lines.append(f"  {ids[event.sender]}{arrow}{ids[reaction.service]}: {label}")
            lines.append(f"  Note over {ids[reaction.service]}: {_note(reaction)}")
    for saga in sagas:
        lines.append(f"  Note over {ids[saga.service]}: {escaped(shown_saga(saga), _SENTENCE_MAX)}")
    return lines


def _label(event: Published, *, first: bool) -> str:
    cause = f", because of {event.because_of}" if event.because_of is not None else ""
    time = shown_time(event, first=first)  # ours, with colons that do no harm
    return f"{event.number} {escaped(event.type)}, key {escaped(event.key)}, {time}{cause}"


def _note(reaction: Reaction) -> str:
    handlers = ", ".join(map(escaped, reaction.handlers)) or "a step"
    return handlers if reaction.state is State.DONE else f"{handlers}, {escaped(shown_state(reaction), _SENTENCE_MAX)}"


def escaped(text: str, most: int = _NAME_MAX) -> str:
    """Return the text, cut, with all but plain characters as Mermaid's codes, which it shows as they were.

    >>> escaped("a;b: %%{x}%%\\n<b>")
    'a#59;b#58; #37;#37;#123;x#125;#37;#37;#92;n#60;b#62;'
    """
    shown = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(each if each.isalnum() or each in _SAFE else f"#{ord(each)};" for each in plain(shown))
