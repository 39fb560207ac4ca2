"""The rules: is all that is written by one JSON Schema read by whoever reads by another one?

They say no where they are not certain: what they let pass is read. A keyword that they do not know has to be the same
on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from ensue.contracts.plain import (
    ALSO,
    ANNOTATIONS,
    ANYTHING,
    READS,
    Schema,
    brief,
    listed,
    options,
    others_of,
    said,
    text,
)

#: The rules below know these.
_KNOWN = frozenset(
    {
        "additionalProperties", "enum", "exclusiveMaximum", "exclusiveMinimum", "items", "maximum", "minimum",
        "multipleOf", "prefixItems", "properties", "propertyNames", "required", "type",
        "maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties",
    }
)  # fmt: skip
_SIZES = (("Length", "characters"), ("Items", "items"), ("Properties", "fields"))
#: A bound, and how far beyond it the first number is that may be: 1 above an exclusive one, -1 below.
_Bound = tuple[float, int]


class Misfit(NamedTuple):
    """path: where, as `lines[].price`; empty: the whole message. why: what is written there and cannot be read."""

    path: str
    why: str


def misfits(writes: Schema, reads: Schema) -> list[Misfit]:
    """Return what is written by one schema and not read by the other; nothing: all of it is read."""
    return _Comparison(writes, reads).compare(writes, reads, "")


def at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class _Comparison:
    def __init__(self, writes: Schema, reads: Schema) -> None:
        self._writes, self._reads = writes, reads
        #: The pairs that are being compared: one that comes up within itself is as good as all else that is in it.
        self._open: set[tuple[str, str]] = set()

    def compare(self, writes: Schema, reads: Schema, path: str) -> list[Misfit]:
        pair = text(writes), text(reads)
        if pair in self._open:
            return []
        self._open.add(pair)
        choices = list(self._read_by(reads))
        found = [each for one in options(writes, self._writes) for each in self._one_of(one, choices, path)]
        self._open.discard(pair)
        return found

    def _read_by(self, reads: Schema) -> Iterator[Schema]:
        """Its alternatives. One that its own code writes reads what others make that write and read the same; and what
        fits its declaration."""
        for each in options(reads, self._reads):
            yield each
            if READS in each:
                yield from self._read_by(said(each[READS]))

    def _one_of(self, one: Schema, choices: list[Schema], path: str) -> list[Misfit]:
        tried = [list(self._single(one, each, path)) for each in choices]
        if tried and not all(tried):
            return []
        alike = [found for found, each in zip(tried, choices, strict=True) if len(tried) == 1 or _alike(one, each)]
        if len(alike) == 1:  # the one that it is meant for says best what is wrong
            return alike[0]
        return [Misfit(path, f"{brief(one)} is written, and {' or '.join(map(brief, choices)) or 'nothing'} is read")]

    def _single(self, one: Schema, other: Schema, path: str) -> Iterator[Misfit]:
        """Of two schemas without alternatives."""
        kind, want = one.get("type"), other.get("type")
        if want is not None and kind != want and (kind, want) != ("integer", "number"):
            yield Misfit(path, f"{brief(one)} is written, and {brief(other)} is read")
            return
        if "enum" in other:
            allowed = set(map(text, other["enum"]))
            unknown = [each for each in one.get("enum", ()) if text(each) not in allowed]
            if unknown or "enum" not in one:
                written = listed(unknown) if unknown else f"any {brief(one)}"
                yield Misfit(path, f"{written} is written, and only {listed(other['enum'])} is read")
                return
        one = _as_range(one) if "enum" in one else _as_written(one)
        if READS in other and READS not in one:
            yield Misfit(path, f"{brief(one)} is written, and {brief(other[READS])} is read")
        elif READS in other:  # what it makes it reads itself, else it could not be published
            yield from self.compare(said(one[READS]), said(other[READS]), path)
        for keyword in sorted(other.keys() - _KNOWN - ANNOTATIONS - {READS}):
            if text(one.get(keyword)) != text(other[keyword]):
                yield Misfit(path, f"{brief(one)} is written, and it is read with {keyword} {text(other[keyword])}")
        yield from _bounds(one, other, path)
        if kind in ("object", None):
            yield from self._object(one, other, path)
        if kind in ("array", None):
            yield from self._array(one, other, path)

    def _object(self, one: Schema, other: Schema, path: str) -> Iterator[Misfit]:
        written, read, more = one.get("properties", {}), other.get("properties", {}), others_of(one)
        always = one.get("required", ())
        read_as = {name: said(schema).get(ALSO, [name]) for name, schema in read.items()}
        for name in other.get("required", ()):
            if not set(read_as.get(name, [name])) & set(always):
                how = "may be left out" if name in written or more is not None else "is not written"
                yield Misfit(at(path, name), f"the field {how}, and is required")
        rest = other.get("additionalProperties", True)
        for name in sorted(written.keys() - {each for those in read_as.values() for each in those}):
            if rest is False:
                yield Misfit(at(path, name), "the field is written, and fields that are not declared are refused")
            else:
                yield from self.compare(said(written[name]), said(rest), at(path, name))
        for name, those in read_as.items():
            for each in those:
                if each in written or more is not None:
                    yield from self.compare(said(written.get(each, more)), said(read[name]), at(path, name))
                if each in always:
                    break  # the others are not looked for
        if more is not None:
            if rest is False:
                yield Misfit(path, "fields of any name are written, and those that are not declared are refused")
            else:
                yield from self.compare(more, said(rest), at(path, "*"))
        if "propertyNames" in other:
            names: list[Schema] = [{"enum": list(written)}] if written else []
            names += [] if more is None else [{"type": "string", **one.get("propertyNames", ANYTHING)}]
            for each in names:
                yield from self.compare(each, {"type": "string", **other["propertyNames"]}, at(path, "(name)"))

    def _array(self, one: Schema, other: Schema, path: str) -> Iterator[Misfit]:
        first, second = one.get("prefixItems", ()), other.get("prefixItems", ())
        fixed = max(len(first), len(second))
        for number in range(min(fixed + 1, one.get("maxItems", fixed + 1))):  # the last one stands for all others
            schema = first[number] if number < len(first) else one.get("items", ANYTHING)
            if schema is False:
                return
            expected = second[number] if number < len(second) else other.get("items", ANYTHING)
            where = f"{path}[{number}]" if number < fixed else f"{path}[]"
            yield from self.compare(said(schema), said(expected), where)


def _bounds(one: Schema, other: Schema, path: str) -> Iterator[Misfit]:
    (lowest, highest), (least, most) = _span(one), _span(other)
    if lowest < least or highest > most:
        yield Misfit(path, f"{_range(lowest, highest)} is written, and {_range(least, most)} is read")
    if "multipleOf" in other and text(one.get("multipleOf")) != text(other["multipleOf"]):
        yield Misfit(path, f"{brief(one)} is written, and multiples of {other['multipleOf']} are read")
    for size, noun in _SIZES:
        lowest, least = (one.get(f"min{size}", 0), 0), (other.get(f"min{size}", 0), 0)
        highest, most = (one.get(f"max{size}", inf), 0), (other.get(f"max{size}", inf), 0)
        if lowest < least or highest > most:
            yield Misfit(
                path, f"{_sizes(lowest[0], highest[0], noun)} are written, {_sizes(least[0], most[0], noun)} read"
            )


def _span(schema: Schema) -> tuple[_Bound, _Bound]:
    lowest: _Bound = max((schema.get("minimum", -inf), 0), (schema.get("exclusiveMinimum", -inf), 1))
    highest: _Bound = min((schema.get("maximum", inf), 0), (schema.get("exclusiveMaximum", inf), -1))
    if lowest == (-inf, 1):
        lowest = (-inf, 0)
    if highest == (inf, -1):
        highest = (inf, 0)
    if schema.get("type") == "integer":  # above 0 is from 1
        return (lowest[0] + lowest[1], 0), (highest[0] + highest[1], 0)
    return lowest, highest


def _range(lowest: _Bound, highest: _Bound) -> str:
    above = "" if lowest[0] == -inf else f"{'above' if lowest[1] else 'from'} {lowest[0]}"
    below = "" if highest[0] == inf else f"{'below' if highest[1] else 'up to'} {highest[0]}"
    return " ".join(filter(None, (above, below))) or "any number"


def _sizes(least: float, most: float, noun: str) -> str:
    return f"{least} or more {noun}" if most == inf else f"{least} to {most} {noun}"


def _as_written(one: Schema) -> Schema:
    """An array that names its items, and does not speak of others, is one of a class, and has these alone: as an object
    has its fields."""
    if "prefixItems" not in one or "items" in one:
        return one
    return {**one, "items": False, "maxItems": min(len(one["prefixItems"]), one.get("maxItems", inf))}


def _as_range(one: Schema) -> Schema:
    """An enum as what its values have in common, for a reader that knows no enum there."""
    values, kind = one["enum"], one["type"]
    if kind in ("integer", "number"):
        return {**one, "minimum": min(values), "maximum": max(values)}
    if kind == "string":
        return {**one, "minLength": min(map(len, values)), "maxLength": max(map(len, values))}
    return one


def _alike(one: Schema, other: Schema) -> bool:
    """Whether they are of one type, and no tag tells them apart."""
    if one.get("type") != other.get("type"):
        return False
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    return all(
        mine[name]["enum"] == theirs[name]["enum"]
        for name in mine.keys() & theirs.keys()
        if all(len(each[name].get("enum", ())) == 1 for each in (mine, theirs))
    )
