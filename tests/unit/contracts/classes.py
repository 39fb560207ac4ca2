"""Classes at random, others that differ from them a little, and objects of them."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic

Kind = Literal["struct", "dataclass", "pydantic"]
KINDS: tuple[Kind, ...] = ("struct", "dataclass", "pydantic")
_MISSING: Any = object()


@dataclasses.dataclass
class Type:
    """what: a word below. parts: types inside. values: of an enum; the bounds of a number, or of a text's length."""

    what: str
    parts: list[Type] = dataclasses.field(default_factory=list)
    values: list[Any] = dataclasses.field(default_factory=list)
    fields: list[Field] = dataclasses.field(default_factory=list)
    closed: bool = False
    omits: bool = False


@dataclasses.dataclass
class Field:
    name: str
    type: Type
    default: bool


_PLAIN: dict[str, tuple[Any, Callable[[Random], Any]]] = {
    "integer": (int, lambda chance: chance.choice([0, -1, 7, 2**40, -(2**53)])),
    "float": (float, lambda chance: chance.choice([0.5, -1.25, 3.0, 1e300])),
    "text": (str, lambda chance: chance.choice(["", "a", "zoë", "2020-01-01", "7", "true"])),
    "truth": (bool, lambda chance: chance.random() < 0.5),
    "decimal": (Decimal, lambda chance: Decimal(chance.choice(["0", "-1.50", "1E+3", "12345678901234567890.5"]))),
    "uuid": (UUID, lambda chance: UUID(int=chance.getrandbits(128))),
    "day": (datetime.date, lambda chance: datetime.date(2020, chance.randint(1, 12), chance.randint(1, 28))),
    "moment": (datetime.datetime, lambda chance: _moment(chance, chance.random() < 0.5)),
    "aware": (lambda kind: _zoned(kind, True), lambda chance: _moment(chance, True)),
    "naive": (lambda kind: _zoned(kind, False), lambda chance: _moment(chance, False)),
    "time": (datetime.time, lambda chance: datetime.time(chance.randint(0, 23), chance.randint(0, 59))),
    "while": (datetime.timedelta, lambda chance: datetime.timedelta(seconds=chance.randint(-10**6, 10**8) / 4)),
    "bytes": (bytes, lambda chance: chance.choice([b"", b"abc", b"text"])),
    "anything": (Any, lambda chance: chance.choice([None, 1, "x", [1], {"a": 1}])),
    "nothing": (None, lambda chance: None),
}  # fmt: skip


WITHIN = ("optional", "list", "dict", "pair", "class")
#: What a type at random may be.
ALL = (*(each for each in _PLAIN if each != "nothing"), "between", "length", "enum", "enum", *WITHIN)


def _zoned(kind: Kind, aware: bool) -> Any:
    if kind == "pydantic":
        return pydantic.AwareDatetime if aware else pydantic.NaiveDatetime
    return Annotated[datetime.datetime, msgspec.Meta(tz=aware)]


def _moment(chance: Random, aware: bool) -> datetime.datetime:
    zone = datetime.timezone(datetime.timedelta(minutes=chance.choice([0, 90, -300]))) if aware else None
    return datetime.datetime(2020, 5, chance.randint(1, 28), 12, 0, chance.randint(0, 59), tzinfo=zone)


def type_at_random(chance: Random, depth: int = 0, *, words: Sequence[str] = ALL) -> Type:
    what = chance.choice([each for each in words if depth < 3 or each not in WITHIN])
    if what == "between":
        return Type(what, values=sorted(chance.sample(range(-5, 6), 2)))
    if what == "length":
        return Type(what, values=sorted(chance.sample(range(5), 2)))
    if what == "enum":
        return Type(what, values=chance.sample(["a", "b", "c", "7"], chance.randint(1, 3)))
    if what == "class":
        return class_at_random(chance, depth + 1, words=words)
    count = 2 if what == "pair" else 1 if what in WITHIN else 0
    return Type(what, parts=[type_at_random(chance, depth + 1, words=words) for _ in range(count)])


def class_at_random(chance: Random, depth: int = 0, *, words: Sequence[str] = ALL) -> Type:
    names = chance.sample("abcde", chance.randint(1, 4))
    fields = [
        Field(name, type_at_random(chance, depth, words=words), chance.random() < 0.3) for name in sorted(names)
    ]  # fmt: skip
    return Type("class", fields=fields, closed=chance.random() < 0.15, omits=chance.random() < 0.3)


def changed(chance: Random, one: Type, *, words: Sequence[str] = ALL) -> Type:
    """Another class, with one to three differences."""
    other = copy.deepcopy(one)
    for _ in range(chance.randint(1, 3)):
        fields = chance.choice([each for each in _classes(other) if each.fields] or [other]).fields
        if not fields:
            break
        field = chance.choice(fields)
        match chance.choice(["drop", "add", "default", "retype", "values", "optional"]):
            case "drop" if len(fields) > 1:
                fields.remove(field)
            case "add":
                name = next(each for each in ("n1", "n2", "n3") if each not in {field.name for field in fields})
                fields.append(Field(name, type_at_random(chance, 2, words=words), chance.random() < 0.6))
            case "default":
                field.default = not field.default
            case "values" if field.type.values:
                field.type = type_like(chance, field.type)
            case "optional":
                field.type = field.type.parts[0] if field.type.what == "optional" else Type("optional", [field.type])
            case "retype":
                field.type = type_at_random(chance, 2, words=words)
    return other


def type_like(chance: Random, one: Type) -> Type:
    """The same with other values."""
    while True:
        other = type_at_random(chance, 3, words=[one.what])
        if other.what == one.what:
            return other


def _classes(one: Type) -> list[Type]:
    inside = [each for part in (*one.parts, *(field.type for field in one.fields)) for each in _classes(part)]
    return [one, *inside] if one.what == "class" else inside


def built(one: Type, kind: Kind) -> Any:
    """The type hint of a type, with classes of that kind."""
    match one.what:
        case "between":
            least, most = one.values
            return Annotated[
                int, pydantic.Field(ge=least, le=most) if kind == "pydantic" else msgspec.Meta(ge=least, le=most)
            ]
        case "length":
            least, most = one.values
            return Annotated[
                str,
                pydantic.Field(min_length=least, max_length=most)
                if kind == "pydantic"
                else msgspec.Meta(min_length=least, max_length=most),
            ]
        case "enum":
            return enum.Enum("Chosen", {f"is_{each}": each for each in one.values})
        case "optional":
            return built(one.parts[0], kind) | None if _may_be_in_a_union(one) else Any
        case "list":
            return list[built(one.parts[0], kind)]  # type: ignore[misc]
        case "dict":
            return dict[str, built(one.parts[0], kind)]  # type: ignore[misc]
        case "pair":
            return tuple[built(one.parts[0], kind), built(one.parts[1], kind)]  # type: ignore[misc]
        case "class":
            return _class(one, kind)
    hint = _PLAIN[one.what][0]
    return hint(kind) if one.what in ("aware", "naive") else hint


def _may_be_in_a_union(one: Type) -> bool:
    return one.parts[0].what not in ("anything", "optional", "nothing")


def _class(one: Type, kind: Kind) -> Any:
    fields = [(field.name, built(field.type, kind), field) for field in one.fields]
    fields.sort(key=lambda each: each[2].default)  # a dataclass wants those with defaults last
    if kind == "pydantic":
        given: dict[str, Any] = {
            name: (hint, pydantic.Field(default_factory=_default(field, hint, kind)))
            if field.default else (hint, ...)
            for name, hint, field in fields
        }  # fmt: skip
        return pydantic.create_model(
            "Made", __config__=pydantic.ConfigDict(extra="forbid" if one.closed else "ignore"), **given
        )
    if kind == "dataclass":
        return dataclasses.make_dataclass(
            "Made",
            [
                (name, hint, dataclasses.field(default_factory=_default(field, hint, kind)))
                if field.default else (name, hint)
                for name, hint, field in fields
            ],
        )  # fmt: skip
    return msgspec.defstruct(
        "Made",
        [
            (name, hint, msgspec.field(default_factory=_default(field, hint, kind))) if field.default else (name, hint)
            for name, hint, field in fields
        ],
        forbid_unknown_fields=one.closed,
        omit_defaults=one.omits,
    )


def _default(field: Field, hint: Any, kind: Kind) -> Callable[[], Any]:
    return lambda: value(field.type, Random(1), kind, hint)


def value(one: Type, chance: Random, kind: Kind, hint: Any) -> Any:
    """A value of a type, for the hint that was built of it."""
    match one.what:
        case "between":
            return chance.choice([one.values[0], one.values[1], chance.randint(*one.values)])
        case "length":
            return "x" * chance.choice(one.values)
        case "enum":
            return chance.choice(list(hint))
        case "optional":
            inner = one.parts[0]
            if chance.random() < 0.4 or not _may_be_in_a_union(one):
                return None
            return value(inner, chance, kind, next(each for each in hint.__args__ if each is not type(None)))
        case "list":
            return [value(one.parts[0], chance, kind, hint.__args__[0]) for _ in range(chance.randint(0, 2))]
        case "dict":
            names = chance.sample(["a", "b", "n1", "other"], chance.randint(0, 2))
            return {each: value(one.parts[0], chance, kind, hint.__args__[1]) for each in names}
        case "pair":
            return tuple(value(part, chance, kind, each) for part, each in zip(one.parts, hint.__args__, strict=True))
        case "class":
            hints = _hints(hint)
            return hint(**{
                field.name: value(field.type, chance, kind, hints[field.name])
                for field in one.fields
                if not (field.default and chance.random() < 0.4)
            })  # fmt: skip
    return _PLAIN[one.what][1](chance)


def _hints(cls: Any) -> dict[str, Any]:
    if issubclass(cls, pydantic.BaseModel):
        return {name: each.annotation for name, each in cls.model_fields.items()}
    return dict(cls.__annotations__)
