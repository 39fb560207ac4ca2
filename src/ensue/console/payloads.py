"""How much of what users' data holds is shown: of events, of sagas, of what a decision kept. Pure rules.

Not payload, and shown always: keys, types, ids, positions, states, of an error its type, its handler and the lines of
code that led to it. What an error says often quotes a value, and no rule can tell: `none` and `masked` hide it
(docs/adr/0060).
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from ensue.console.access import Actor, Role
from ensue.errors import UsageError
from ensue.message import Envelope

MASK: Final = "***"
#: Of `limited`: characters of a text, items of a list or fields of an object, and levels.
TEXT_CHARS_MAX, ITEMS_MAX, DEPTH_MAX = 100, 20, 6
#: What is deeper than this is not gone into in any mode but `full`: data from outside may be nested at will.
_MASKED_DEPTH_MAX = 64
_KNOWN: Final = frozenset(
    {*(each.encode_name for each in msgspec.structs.fields(Envelope)), "unreadable"} - {"extensions"}
)


#: What stands before a message and is none: see `engine/reason.py`, `engine/dead_letters.py`, `saga/machine.py`.
_TYPE = r"[A-Z]\w*(?:Error|Exception): "
_KNOWN_BEFORE: Final = re.compile(rf"handler [^\s:]+: |[^:]{{1,200}} failed at attempt [0-9]+: (?:{_TYPE})?|{_TYPE}")
_CALL: Final = re.compile(r'  File ".*", line [0-9]+, in .*')
_CAUSED_BY: Final = re.compile(r"  caused by [\w.<>]+: ")


class Payloads(enum.StrEnum):
    """A mode of showing users' data."""

    NONE = "none"
    """Nothing of it."""
    MASKED = "masked"
    """The names of its fields, and `***` for each value."""
    LIMITED = "limited"
    """Values too, long ones cut."""
    FULL = "full"


#: One mode for all, or for each role one.
Modes = Payloads | str | Mapping[Role | str, Payloads | str]


def modes_of(payloads: object) -> Mapping[Role, Payloads]:
    """How much each role is shown. payloads: a mode, or modes by role, in which a role that is not named is shown what
    the one below it is. Raises UsageError for what is none, without one for readers, and where a role would be shown
    less than one that may do less.

    >>> modes_of({"reader": "masked", "admin": "full"})[Role.OPERATOR].value
    'masked'
    """
    if not isinstance(payloads, Mapping):
        return dict.fromkeys(Role, _mode(payloads))
    given = {}
    for name, mode in payloads.items():
        if name not in set(Role):
            raise UsageError(f"payloads: {name!r:.60} is no role, expected {', '.join(Role)}")
        given[Role(name)] = _mode(mode)
    if Role.READER not in given:
        raise UsageError("payloads: expected a mode for reader, who may see everything, and perhaps for those above")
    found: dict[Role, Payloads] = {}
    for role in Role:
        below = [*found.values()][-1:]
        found[role] = given.get(role, *below)
        if below and list(Payloads).index(found[role]) < list(Payloads).index(below[0]):
            raise UsageError(
                f"payloads: {role.value} would be shown less ({found[role].value}) than who may do less "
                f"({below[0].value}): give each role at least the mode of the one below it"
            )
    return found


def mode_for(actor: Actor, modes: Mapping[Role, Payloads]) -> Payloads:
    """What the highest of the actor's roles is shown."""
    return next((modes[role] for role in reversed(Role) if role in actor.roles), Payloads.NONE)


def _mode(payloads: object) -> Payloads:
    try:
        return Payloads(cast(str, payloads))
    except ValueError as error:
        raise UsageError(f"payloads={payloads!r:.60}, expected one of {', '.join(Payloads)}") from error


def usual_mode(*, loopback: bool) -> Payloads:
    """What is shown unless the host says otherwise. loopback: only who sits at this machine can ask."""
    return Payloads.FULL if loopback else Payloads.MASKED


def shown(data: Any, mode: Payloads) -> Any:
    """Return what may be shown of data that was read from JSON; None under `none`.

    >>> shown({"card": "4111 1111", "lines": [{"sku": 7}]}, Payloads.MASKED)
    {'card': '***', 'lines': [{'sku': '***'}]}
    """
    match mode:
        case Payloads.NONE:
            return None
        case Payloads.MASKED:
            return _masked(data, _MASKED_DEPTH_MAX)
        case Payloads.LIMITED:
            return _limited(data, DEPTH_MAX)
        case Payloads.FULL:
            return data


def shown_error(text: str, mode: Payloads) -> str:
    """Return what may be shown of an error's text as a letter, or a parked saga, keeps it: under `none` and `masked` no
    message, neither its own nor those of its causes, but handler, types, and the calls that led to it.

    >>> shown_error("handler book: no rate for 4111\\n  File \\"/app/x.py\\", line 3, in book", Payloads.MASKED)
    'handler book: ***\\n  File "/app/x.py", line 3, in book'
    """
    if mode in (Payloads.LIMITED, Payloads.FULL) or not text:
        return text
    said, *rest = text.split("\n")
    known = _KNOWN_BEFORE.match(said)
    found = [("" if known is None else known[0]) + MASK]
    source = called = False
    for line in rest:
        if call := _CALL.fullmatch(line):
            found.append(line)
            called = True
        elif source and line.startswith("    "):
            found.append(line)
        elif called and (cause := _CAUSED_BY.match(line)):
            found.append(cause[0] + MASK)
        source = call is not None
    return "\n".join(found)


def shown_reason(reason: str, mode: Payloads) -> str:
    """The same of a reason in a line, `<type>: <what it says>`.

    >>> shown_reason("KeyError: handler book: '4111'", Payloads.NONE)
    'KeyError'
    """
    return reason if mode in (Payloads.LIMITED, Payloads.FULL) else reason.partition(": ")[0]


def shown_bytes(data: bytes, mode: Payloads) -> str | None:
    """Return the very bytes in base64 under `full`, else None: cut or masked they would not be those."""
    return base64.b64encode(data).decode() if mode is Payloads.FULL else None


def shown_headers(headers: Mapping[str, Any], mode: Payloads) -> dict[str, Any]:
    """Return the CloudEvents attributes: the standard's and Ensue's own as they are, extensions of the user's by mode.

    >>> shown_headers({"id": "7", "type": "orders.Placed.v1", "tenant": "acme"}, Payloads.MASKED)
    {'id': '7', 'type': 'orders.Placed.v1', 'tenant': '***'}
    """
    found = {}
    for name, value in headers.items():
        if _is_known(name):
            found[name] = value
        elif mode is not Payloads.NONE:
            found[name] = shown(value, mode)
    return found


def shown_change(action: str, state: Any, mode: Payloads) -> Any:
    """Return what may be shown of a decision's before or after, read from JSON: what an edit or a skip keeps of the
    user's data goes by the mode, the rest is as it is.

    >>> shown_change("dead-letters edit", {"state": "dead", "data": "secret"}, Payloads.MASKED)
    {'state': 'dead', 'data': '***'}
    """
    if not isinstance(state, Mapping):
        return state
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name == "envelope" and isinstance(value, Mapping):
            extensions = value.get("extensions")
            kept = {each: one for each, one in value.items() if each != "extensions"}
            found[name] = shown_headers(kept, mode) | (
                {} if extensions is None else {"extensions": shown(extensions, mode)}
            )
        elif name == "reason" and action.startswith("sagas ") and isinstance(value, str):
            found[name] = shown_error(value, mode)
        elif name not in _HOLDING_DATA.get(action, ()):
            found[name] = value
        elif mode is not Payloads.NONE:
            found[name] = shown(value, mode)
    return found


#: Of the rows of decisions, by action: what holds users' data.
_HOLDING_DATA: Final[Mapping[str, frozenset[str]]] = {
    "dead-letters edit": frozenset({"data", "data_base64"}),
    "sagas skip": frozenset({"result", "failure"}),
    "publish": frozenset({"data"}),
}


def _is_known(name: str) -> bool:
    return name in _KNOWN or name.startswith("ensue") or name == "tracestate"


def _masked(data: Any, depth: int) -> Any:
    if not depth:
        return MASK
    if isinstance(data, dict):
        return {name: _masked(value, depth - 1) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_masked(each, depth - 1) for each in data]
    return MASK


def _limited(data: Any, depth: int) -> Any:
    if isinstance(data, str):
        if len(data) <= TEXT_CHARS_MAX:
            return data
        return f"{data[:TEXT_CHARS_MAX]}... ({len(data)} characters)"
    if not isinstance(data, dict | list | tuple):
        return data
    if not depth:
        return f"... ({len(data)} inside)"
    left = len(data) - ITEMS_MAX
    if isinstance(data, dict):
        names = list(data)[:ITEMS_MAX]
        found = {_limited(name, 1): _limited(data[name], depth - 1) for name in names}
        return found | ({"...": f"{left} more"} if left > 0 else {})
    items = [_limited(each, depth - 1) for each in data[:ITEMS_MAX]]
    return [*items, f"... {left} more"] if left > 0 else items
