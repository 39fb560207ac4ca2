"""What pydantic's own JSON Schema does not say, or says otherwise than it writes, and a reader fails for; and what it
would have a reader fail for that reads it."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from ensue.contracts.described import schemas_of
from ensue.contracts.fits import misfits
from ensue.errors import BadMessage
from ensue.event import shape_of

TEXT = pydantic.PlainSerializer(str, return_type=str)
UNTOLD = pydantic.PlainSerializer(lambda value: str(value))


class Kind(enum.IntEnum):
    ONE = 1
    TWO = 2


class Dropping(pydantic.BaseModel):
    a: int
    b: int | None = None

    @pydantic.model_serializer(mode="wrap")
    def without_none(self, handler: Any):  # type: ignore[no-untyped-def]  # as people write it
        return {name: value for name, value in handler(self).items() if value is not None}


class Keeping(pydantic.BaseModel):
    a: int
    b: int | None


class Required(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(json_schema_serialization_defaults_required=True)
    a: int = 0


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    value: int


def model(kind: Any, **options: Any) -> Any:
    return pydantic.create_model("Made", value=(kind, pydantic.Field(**options)))


def fits(writer: Any, reader: Any) -> bool:
    return not misfits(schemas_of(writer)[1], schemas_of(reader)[0])


def is_read(writer: Any, value: Any, reader: Any) -> bool:
    try:
        shape_of(reader, "made").read(shape_of(writer, "made").write(writer(**value)))
    except BadMessage:
        return False
    return True


DAY = datetime.datetime(2020, 5, 1)
#: What is written, a value of it, and what cannot read that.
BROKEN: dict[str, tuple[Any, Any, Any]] = {
    "a moment before the first one": (model(datetime.datetime), DAY, model(datetime.datetime, gt=DAY)),
    "a moment to come": (model(datetime.datetime), DAY.replace(year=9000), model(pydantic.PastDatetime)),
    "a day to come": (model(datetime.date), datetime.date(9000, 1, 1), model(pydantic.PastDate)),
    "a day too late": (model(datetime.date), DAY.date(), model(datetime.date, lt=DAY.date())),
    "no time at all": (
        model(datetime.timedelta),
        datetime.timedelta(),
        model(datetime.timedelta, gt=datetime.timedelta()),
    ),
    "a time too early": (model(datetime.time), datetime.time(1), model(datetime.time, ge=datetime.time(2))),
    "a key too small": (model(dict[int, int]), {1: 1}, model(dict[Annotated[int, pydantic.Field(gt=1)], int])),
    "another scheme": (
        model(Annotated[pydantic.AnyUrl, pydantic.UrlConstraints(max_length=99)]),
        "ftp://here/",
        model(Annotated[pydantic.AnyUrl, pydantic.UrlConstraints(max_length=99, allowed_schemes=["https"])]),
    ),
    "JSON in a text": (model(pydantic.Json[dict[str, int]]), '{"a": 1}', model(dict[str, int])),
    "a text that a serializer makes of a number": (model(Annotated[int, UNTOLD]), 1, Strict),
    "a text where one is written, and a number read": (model(str), "one", model(Annotated[int, TEXT])),
    "what a model leaves out by code of its own": (model(Dropping), {"a": 1}, model(Keeping)),
    "a name that goes before": (
        pydantic.create_model("Both", value=(int, ...), better=(str, ...)),
        {"value": 1, "better": "no number"},
        model(int, validation_alias=pydantic.AliasChoices("better", "value")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_read_does_not_fit(what: str) -> None:
    writer, value, reader = BROKEN[what]
    value = value if what == "a name that goes before" else {"value": value}
    assert not is_read(writer, value, reader)
    assert not fits(writer, reader)
    assert fits(reader, reader)


RENAMED = pydantic.AliasChoices("new", "value")
#: What is written, a value of it, and what reads that.
READ: dict[str, tuple[Any, Any, Any]] = {
    "a field that got another name": (
        model(int),
        1,
        pydantic.create_model("Made", new=(int, pydantic.Field(validation_alias=RENAMED))),
    ),
    "a number, whatever is made of it": (model(int), 1, model(Annotated[int, TEXT])),
    "a text of a number, by another service's copy": (model(Annotated[int, TEXT]), 1, model(Annotated[int, TEXT])),
    "keys that stand for numbers": (
        model(dict[Kind, int]),
        {Kind.ONE: 1},
        msgspec.defstruct("Made", [("value", dict[Kind, int])]),
    ),
    "the same from the other side": (
        msgspec.defstruct("Made", [("value", dict[Kind, int])]), {Kind.ONE: 1}, model(dict[Kind, int])
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", READ)
def test_what_is_read_fits(what: str) -> None:
    writer, value, reader = READ[what]
    assert is_read(writer, {"value": value}, reader)
    assert fits(writer, reader)


def test_a_default_is_not_in_what_the_log_holds_whatever_the_model_says_of_its_schema() -> None:
    assert misfits(schemas_of(Required)[0], schemas_of(pydantic.create_model("Made", a=(int, ...)))[0])
    assert fits(pydantic.create_model("Made", b=(int, 1)), Required), "it reads what has no such field"


def test_a_change_of_what_is_read_by_the_declaration_is_found_behind_its_reference() -> None:
    class Changed(pydantic.BaseModel):
        a: str
        b: int | None = None

        @pydantic.model_serializer(mode="wrap")
        def without_none(self, handler: Any) -> Any: ...

    Changed.__name__ = Changed.__qualname__ = "Dropping"
    old, new = schemas_of(model(Dropping)), schemas_of(model(Changed))
    assert misfits(old[1], new[0])
