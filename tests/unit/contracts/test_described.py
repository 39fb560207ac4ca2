"""The schema of a class is what is on the wire, whichever library the class is of; its file has the same bytes."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Sized
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest

from ensue import Command, Event, Failure, Saga, Service, UsageError, as_event
from ensue.contracts.contract import contract_of, owned
from ensue.contracts.described import of_failures, of_message, schemas_of
from ensue.contracts.files import file_name, read, write
from ensue.contracts.fits import misfits
from ensue.event import event_type


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Line(msgspec.Struct, omit_defaults=True, frozen=True):
    price: Decimal
    count: Annotated[int, msgspec.Meta(gt=0)] = 1


class ByStruct(Event, topic="described", key="id"):
    """One by a Struct."""

    id: UUID
    at: datetime.datetime
    size: Size
    lines: list[Line]
    how: Literal["a", "b"] | None = None


@as_event(topic="described", key="id")
@dataclasses.dataclass(frozen=True)
class ByDataclass:
    id: UUID
    at: datetime.datetime
    size: Size
    lines: list[Line]
    how: Literal["a", "b"] | None = None


class PydanticLine(pydantic.BaseModel):
    price: Decimal
    count: Annotated[int, pydantic.Field(gt=0)] = 1


@as_event(topic="described", key="id")
class ByPydantic(pydantic.BaseModel):
    id: UUID
    at: datetime.datetime
    size: Size
    lines: list[PydanticLine]
    how: Literal["a", "b"] | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> Decimal:
        return sum((each.price * each.count for each in self.lines), Decimal())


ALL = (ByStruct, ByDataclass, ByPydantic)


@pytest.mark.parametrize("writer", ALL)
@pytest.mark.parametrize("reader", ALL)
def test_the_libraries_mean_the_same_by_the_same(writer: type, reader: type) -> None:
    assert misfits(schemas_of(writer)[0], schemas_of(reader)[0]) == []


def fields(cls: Any) -> dict[str, Any]:
    return dict(schemas_of(cls)[0]["properties"])


def test_a_field_is_told_as_json_has_it() -> None:
    found = fields(ByStruct)
    assert found["id"] == {"type": "string", "format": "uuid"}
    assert found["at"] == {"type": "string", "format": "date-time"}
    assert found["size"] == {"title": "Size", "enum": ["s", "l"]}
    assert found["lines"] == {"type": "array", "items": {"$ref": "#/$defs/Line"}}
    assert found["how"]["default"] is None
    assert "total" not in fields(ByPydantic), "what is not written is not told"


def test_required_is_what_has_to_be_there_and_always_what_is_written() -> None:
    schema, always = schemas_of(ByStruct)
    assert schema["required"] == ["id", "at", "size", "lines"]
    assert always["required"] == ["id", "at", "size", "lines", "how"]
    assert schema["$defs"]["Line"]["required"] == always["$defs"]["Line"]["required"] == ["price"], "it omits defaults"
    schema, always = schemas_of(ByPydantic)
    assert "how" not in schema["required"]
    assert "how" in always["required"]
    assert "total" not in always["required"]


class Odd(msgspec.Struct, rename="camel", forbid_unknown_fields=True, tag="odd", tag_field="kind"):
    the_name: str
    maybe: int | msgspec.UnsetType = msgspec.UNSET
    odd: Odd | None = None


def test_names_tags_and_what_may_be_unset_are_those_of_the_wire() -> None:
    schema, always = schemas_of(Odd)
    assert schema["$ref"] == "#/$defs/Odd", "a class within itself is told once"
    odd, sure = schema["$defs"]["Odd"], always["$defs"]["Odd"]
    assert list(odd["properties"]) == ["kind", "theName", "maybe", "odd"]
    assert odd["required"] == ["kind", "theName"]
    assert sure["required"] == ["kind", "theName", "odd"]
    assert odd["additionalProperties"] is False
    written = json.loads(msgspec.json.encode(Odd("a", odd=Odd("b"))))
    assert set(written) == set(sure["required"])


@dataclasses.dataclass
class Unmade:
    a: int
    b: int = dataclasses.field(default=1, init=False)


def test_what_stays_the_class_s_own_is_not_always_written() -> None:
    assert set(json.loads(msgspec.json.encode(Unmade(1)))) == set(schemas_of(Unmade)[1]["required"]) == {"a"}


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    the_name: str = pydantic.Field(alias="theName")
    by_id: dict[int, str] = {}
    due: pydantic.AwareDatetime
    amount: Annotated[Decimal, pydantic.Field(max_digits=5)]


def test_what_pydantic_leaves_open_is_said() -> None:
    found = fields(Aliased)
    assert "theName" in found
    assert found["by_id"]["propertyNames"] == {"type": "string", "format": "integer-text"}
    assert found["due"]["x-ensue-offset"] == "required"
    assert found["amount"] == {"type": "string", "format": "decimal", "x-ensue-decimal": {"max_digits": "5"}}


class Twin(msgspec.Struct):
    a: int


def test_two_classes_of_one_name_are_told_apart() -> None:
    class Other(msgspec.Struct):
        b: int

    Other.__name__ = "Twin"
    both = msgspec.defstruct("Both", [("one", Twin), ("two", Other)])
    schema, _ = schemas_of(both)
    assert sorted(each["required"][0] for each in schema["$defs"].values()) == ["a", "b"]


def test_a_class_without_a_schema_is_refused_with_its_name() -> None:
    class Lost(msgspec.Struct):
        there: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UsageError, match=r"Lost has no JSON Schema: .*Nowhere"):
        schemas_of(Lost)


def test_the_bytes_are_the_same_each_time_and_come_back() -> None:
    described = of_message(event_type(ByStruct))
    data = write(described)
    assert data == write(of_message(event_type(ByStruct)))
    assert data.endswith(b"}\n")
    back = read(data, "here")
    assert (back.name, back.topic, back.key, back.version) == ("described.ByStruct.v1", "described", "id", 1)
    assert back.schema == described.schema
    assert file_name(described.name) == "described.ByStruct.v1.json"
    assert file_name("a/../b v1") == "a%2F..%2Fb%20v1.json", "a name stays in its directory"


class Done(msgspec.Struct):
    reference: str


class DoIt(Command[Done], service="described-doer", key="id", rename={"id": "theId"}):
    id: str


class CannotBeDescribedToday(Failure):
    """Of a day when it cannot be."""

    until: datetime.date


class Begun(Event, topic="described", key="id", version=2):
    id: str


@Begun.upcast(from_version=1)
def _(data: dict[str, Any]) -> dict[str, Any]:
    return data


def test_a_service_writes_and_reads_what_it_declares() -> None:
    doer = Service("described-doer", publishes=[Begun])
    asker = Service("described-asker", publishes=[], calls=[DoIt])

    @doer.handles
    def do(command: DoIt) -> Done:
        return Done(reference="a")

    @doer.every("0 3 * * *")
    def nightly() -> None: ...

    @asker.on
    def see(event: Begun) -> None: ...

    @asker.saga
    async def ask(saga: Saga, request: Done) -> None:
        await saga.call(DoIt(id="a"))

    does, asks = contract_of(doer), contract_of(asker)
    command = "described-doer.commands.DoIt.v1"
    failures = [each.name for each in of_failures()]
    assert "failure.CannotBeDescribedToday" in failures
    assert not [each for each in failures if "UnknownFailure" in each], "Ensue's own are no contract"
    assert [each.name for each in does.writes if each.kind != "failure"] == [f"{command}.reply", "described.Begun.v2"]
    assert [each.name for each in does.writes if each.kind == "failure"] == failures
    assert [each.name for each in does.reads] == [command], "what it tells itself is no contract"
    assert does.handles == [command]
    assert [each.name for each in asks.writes] == [command]
    reads = {each.name: each.upcast for each in asks.reads if each.kind != "failure"}
    assert reads == {"described.Begun.v1": True, "described.Begun.v2": False, f"{command}.reply": False}
    assert owned([does])[command].key == "theId"
    assert owned([does])[f"{command}.reply"].topic == ""


def test_a_set_has_nothing_twice_and_a_class_of_its_own_kind_is_named() -> None:
    class Kept(msgspec.Struct):
        marks: set[int]
        words: Sized

    assert fields(Kept)["marks"] == {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert fields(Kept)["words"] == {"x-ensue-class": "collections.abc:Sized"}
