"""How much the row of a saga holds: each wait reads it, replays it and writes it, all of it."""

from __future__ import annotations

from typing import Final

from ensue.saga.instance import Counted, Instance
from ensue.saga.journal import Entry, Issued

#: From so many entries of a journal on, or bytes of a row, it is worth a word; beyond so many a saga is parked.
ENTRIES_WARNED: Final = 1_000
ENTRIES_MAX: Final = 10_000
BYTES_WARNED: Final = 1 << 19
BYTES_MAX: Final = 1 << 20

#: What an entry, an event or an undo has besides its texts, about.
_EACH: Final = 40
_ALL_OF_IT: Final = "each wait reads and writes all of it"
_REQUEST, _JOURNAL, _UNDOS = "request", "journal", "undo stack"
_MAILBOX, _OUTSIDE = "events not received", "outside effects"
_INSTEAD: Final = {
    _JOURNAL: "begin a new one now and then, `saga.restart(request)`, in a loop for instance, and have steps return "
    "ids, and not what they stand for",
    _UNDOS: "give undo steps and commands ids, by which they look up the rest, or set `saga.pivot()` earlier; cancel "
    "it to have it undone now",
    _MAILBOX: "receive what it is told, or tell it less",
    _REQUEST: "begin it with ids, by which its steps look up the rest; cancel it, and start it with less",
    _OUTSIDE: "give outside functions ids, by which they look up the rest",
}


def parts_of_row(saga: Instance) -> dict[str, int]:
    """About how many bytes each part of its row has."""
    return {
        _REQUEST: len(saga.request),
        _JOURNAL: sum(map(_of_entry, saga.journal)),
        _UNDOS: sum([_EACH + len(each.name) + len(each.data) + len(each.key) for each in saga.undos]),
        _MAILBOX: sum([_EACH + len(each.type) + len(each.data) for each in saga.mailbox]),
        _OUTSIDE: sum([_EACH + len(each.name) + len(each.data) for each in saga.outside.values()]),
    }


def bytes_of(saga: Instance) -> int:
    """About how many its row has: the parts together."""
    size = len(saga.request) + _of_journal(saga)
    for undo in saga.undos:
        size += _EACH + len(undo.name) + len(undo.data) + len(undo.key)
    for mail in saga.mailbox:
        size += _EACH + len(mail.type) + len(mail.data)
    for effect in saga.outside.values():
        size += _EACH + len(effect.name) + len(effect.data)
    return size


def _of_journal(saga: Instance) -> int:
    """It is asked at each wait, so what was counted before is not counted again: a journal grows, or begins anew."""
    journal, counted = saga.journal, saga.counted
    if not journal:
        return 0
    if counted is None or counted.entries > len(journal) or journal[counted.entries - 1] is not counted.last:
        entries, size = 0, 0
    else:
        entries, size = counted.entries, counted.size
    if entries < len(journal):
        size += sum([_of_entry(each) for each in journal[entries:]])
        saga.counted = Counted(len(journal), journal[-1], size)
    return size


def nearly_full(saga: Instance) -> str:
    """What to say of a row that is worth a word; empty: nothing."""
    if len(saga.journal) >= ENTRIES_WARNED:
        return (
            f"its journal has {len(saga.journal)} entries, at {ENTRIES_MAX} it is parked, and {_ALL_OF_IT}: "
            f"{_INSTEAD[_JOURNAL]}"
        )
    return (
        f"{_sizes(saga)}, at {BYTES_MAX} it is parked, and {_instead(saga)}" if bytes_of(saga) >= BYTES_WARNED else ""
    )


def too_full(saga: Instance) -> str:
    """Why it may not go on with this row, and what to do; empty: it may."""
    if len(saga.journal) > ENTRIES_MAX:
        found = f"its journal has {len(saga.journal)} entries, expected at most {ENTRIES_MAX}"
        return f"{found}: {_ALL_OF_IT}. To go on, {_INSTEAD[_JOURNAL]}"
    return f"{_sizes(saga)}, expected at most {BYTES_MAX}: {_instead(saga)}" if bytes_of(saga) > BYTES_MAX else ""


def _sizes(saga: Instance) -> str:
    parts = sorted(parts_of_row(saga).items(), key=lambda each: -each[1])
    return f"its row has {bytes_of(saga)} bytes ({', '.join(f'{size} {what}' for what, size in parts if size)})"


def _instead(saga: Instance) -> str:
    parts = parts_of_row(saga)
    return f"{_ALL_OF_IT}. To go on, {_INSTEAD[max(parts, key=lambda each: parts[each])]}"


def _of_entry(entry: Entry) -> int:
    if isinstance(entry, Issued):
        return _EACH + len(entry.name) + len(entry.key)
    size = _EACH + len(entry.data)
    return size + sum([len(name) + len(value) for name, value in entry.fields.items()]) if entry.fields else size
