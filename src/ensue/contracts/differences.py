"""What is different between two schemas of one message, in words, field by field. Whom that breaks: see `fits`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ensue.contracts.fits import at
from ensue.contracts.plain import ANNOTATIONS, ANYTHING, Schema, brief, listed, options, others_of, said, text

#: What is told of by itself, and not as a part of what a value is.
_APART = ANNOTATIONS | {"additionalProperties", "enum", "items", "prefixItems", "properties", "required", "type"}


class Difference(NamedTuple):
    """path: where, as `lines[].price`; empty: the whole message."""

    path: str
    what: str


def differences(old: Schema, new: Schema) -> list[Difference]:
    """Return what of a message is another now: its fields, their types, what of them has to be there. No texts."""
    return list(_Walk(old, new).compare(old, new, ""))


class _Walk:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._open: set[tuple[str, str]] = set()

    def compare(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        pair = text(old), text(new)
        if pair in self._open:
            return
        self._open.add(pair)
        before, after = list(options(old, self._old)), list(options(new, self._new))
        left, added = _unmatched(before, after), _unmatched(after, before)
        for one in [each for each in before if each not in left]:
            other = next(each for each in after if _same_kind(one, each))
            yield from self._single(one, other, path)
        if len(left) == len(added) == 1 and _shape(left[0]) == _shape(added[0]) != "":
            yield from self._single(left[0], added[0], path)
        elif left or added:
            yield Difference(path, f"was {_either(before)}, is {_either(after)}")
        self._open.discard(pair)

    def _single(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        """Of two that are of one type."""
        if text(old.get("enum")) != text(new.get("enum")):
            yield Difference(path, _values(old.get("enum"), new.get("enum")))
        for keyword in sorted((old.keys() | new.keys()) - _APART):
            if text(old.get(keyword)) != text(new.get(keyword)):
                yield Difference(path, f"{keyword}: {_or_none(old, keyword)} before, {_or_none(new, keyword)} now")
        if old.get("type") == "object":
            yield from self._fields(old, new, path)
        elif old.get("type") == "array":
            yield from self._items(old, new, path)

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed, needs = old.get("required", ()), new.get("required", ())
        for name in sorted(before.keys() | after.keys()):
            where = at(path, name)
            if name not in after:
                yield Difference(where, "removed")
            elif name not in before:
                yield Difference(where, "new, and has to be there" if name in needs else "new, with a default")
            else:
                if (name in needed) is not (name in needs):
                    yield Difference(where, "has no default any more" if name in needs else "has a default now")
                yield from self.compare(said(before[name]), said(after[name]), where)
        others, rest = others_of(old), others_of(new)
        if (others is None) is not (rest is None) or _closed(old) is not _closed(new):
            yield Difference(path, f"of other fields: {_others(old)} before, {_others(new)} now")
        elif others is not None and rest is not None:
            yield from self.compare(others, rest, at(path, "*"))

    def _items(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        first, second = old.get("prefixItems", ()), new.get("prefixItems", ())
        for number in range(max(len(first), len(second))):
            if number >= len(first) or number >= len(second):
                yield Difference(f"{path}[{number}]", "removed" if number < len(first) else "new")
            else:
                yield from self.compare(said(first[number]), said(second[number]), f"{path}[{number}]")
        yield from self.compare(said(old.get("items", ANYTHING)), said(new.get("items", ANYTHING)), f"{path}[]")


def _unmatched(these: list[Schema], those: list[Schema]) -> list[Schema]:
    return [one for one in these if not any(_same_kind(one, each) for each in those)]


def _same_kind(one: Schema, other: Schema) -> bool:
    """Whether they are the same alternative, perhaps changed inside."""
    return one.get("type") == other.get("type") and all(
        text(one.get(word)) == text(other.get(word)) for word in ("format", "contentEncoding", "title")
    )


def _shape(schema: Schema) -> str:
    """Of what has parts, its type; a class may have got another name."""
    kind = schema.get("type")
    return kind if kind in ("object", "array") else ""


def _values(old: list[object] | None, new: list[object] | None) -> str:
    if old is None or new is None:
        return f"only {listed(new)} now" if new is not None else f"any value now, only {listed(old or [])} before"
    known, now = set(map(text, old)), set(map(text, new))
    more, fewer = [each for each in new if text(each) not in known], [each for each in old if text(each) not in now]
    parts = [f"{listed(more)} added"] * bool(more) + [f"{listed(fewer)} removed"] * bool(fewer)
    return ", ".join(parts) or "its values have another order"


def _closed(schema: Schema) -> bool:
    return schema.get("additionalProperties") is False


def _others(schema: Schema) -> str:
    if _closed(schema):
        return "refused"
    return "passed over" if others_of(schema) is None else "read"


def _either(schemas: list[Schema]) -> str:
    return " or ".join(brief(each) for each in schemas) or "nothing"


def _or_none(schema: Schema, keyword: str) -> str:
    return text(schema[keyword]) if keyword in schema else "none"
