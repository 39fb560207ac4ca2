"""What is published is what is read: else it is refused, at the declaration or where it is published."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from ensue import Event, UsageError, as_event
from ensue.errors import EventMismatch
from ensue.event import EventType, event_type

UTC = datetime.UTC
BERLIN = ZoneInfo("Europe/Berlin")
T = TypeVar("T")


def struct(**fields: Any) -> Any:
    return type("Odd", (Event,), {"__annotations__": fields, "__module__": __name__}, topic="t-odd", key="k")


def event(**fields: Any) -> list[type[Any]]:
    """The same event as a Struct, a dataclass and a pydantic model."""
    names = {"k": int, **fields}
    plain = dataclasses.make_dataclass("OddData", list(names.items()))
    model = pydantic.create_model("OddModel", **{name: (kind, ...) for name, kind in names.items()})  # type: ignore[call-overload]
    return [struct(**names), *(as_event(topic="t-odd", key="k")(each) for each in (plain, model))]


def refused(value: Any) -> EventMismatch:
    with pytest.raises(EventMismatch) as caught:
        event_type(type(value)).write(value)
    assert caught.value.type == event_type(type(value)).type
    assert str(caught.value).startswith(f"event {type(value).__qualname__} cannot be published, its field ")
    return caught.value


def comes_back(value: Any) -> Any:
    spec: EventType[Any] = event_type(type(value))
    return spec.read(spec.write(value))


# ------------------------------------------------------------------------------------------- values, when published


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [float, float | None, list[float | None], Any])
def test_a_number_that_json_has_not_is_refused(value: float, kind: Any) -> None:
    for cls in event(total=kind):
        found = refused(cls(k=1, total=[value] if kind == list[float | None] else value))
        assert found.field.startswith("total")


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity")])
def test_a_decimal_that_models_do_not_read_is_refused(value: Decimal) -> None:
    model = event(total=Decimal)[2]
    assert refused(model.model_construct(k=1, total=value)).field == "total"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (datetime.datetime(1890, 1, 1, tzinfo=BERLIN), r"publish value.astimezone\(datetime.UTC\)"),
        (datetime.time(10, tzinfo=BERLIN), "publish a datetime"),
    ],
)
def test_a_moment_whose_zone_would_change_it_is_refused(value: Any, advice: str) -> None:
    for cls in event(at=type(value) | None):
        with pytest.raises(EventMismatch, match=advice) as caught:
            event_type(cls).write(cls(k=1, at=value))
        assert (caught.value.field, caught.value.expected) == ("at", repr(value))


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),  # the clock shows it twice
        datetime.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
        datetime.datetime(2026, 6, 1, 12, tzinfo=BERLIN),
        datetime.datetime(2026, 6, 1, 12, tzinfo=UTC),
        datetime.datetime(2026, 6, 1, 12),
    ],
)
def test_a_moment_of_any_zone_comes_back_as_the_same_moment(value: datetime.datetime) -> None:
    for cls in event(at=datetime.datetime):
        at = comes_back(cls(k=1, at=value)).at
        assert (at.tzinfo is None) == (value.tzinfo is None)
        assert at.astimezone(UTC) == value.astimezone(UTC)


class Struct(msgspec.Struct):
    a: int = 1


class StructMore(Struct):
    b: int = 2


@dataclasses.dataclass
class Data:
    a: int = 1


@dataclasses.dataclass
class DataMore(Data):
    b: int = 2

    def __eq__(self, other: object) -> bool:  # as entities have it
        return isinstance(other, Data) and self.a == other.a


class Model(pydantic.BaseModel):
    a: int = 1


class ModelMore(Model):
    b: int = 2


class WithStruct(Event, topic="t-nested", key="k"):
    k: int
    part: Struct | None = None
    data: Sequence[Data] = ()


@as_event(topic="t-nested", key="k")
class WithModel(pydantic.BaseModel):
    k: int
    part: Model | None = None
    models: dict[str, Model] = {}
    data: Data | None = None


@pytest.mark.parametrize(
    ("value", "field", "lost"),
    [
        (WithStruct(k=1, part=StructMore()), "part", "StructMore"),
        (WithStruct(k=1, data=[Data(), DataMore()]), "data[1]", "DataMore"),
        (WithModel(k=1, part=ModelMore()), "part", "ModelMore"),
        (WithModel(k=1, models={"x": ModelMore()}), "models['x']", "ModelMore"),
        (WithModel(k=1, data=DataMore()), "data", "DataMore"),
    ],
    ids=["struct", "dataclass in a list", "model", "model in a dict", "dataclass in a model"],
)
def test_an_object_that_would_lose_the_fields_of_its_subclass_is_refused(value: Any, field: str, lost: str) -> None:
    found = refused(value)
    assert found.field == field
    assert f"declare {lost} there" in str(found)


@pytest.mark.parametrize("value", [WithStruct(k=1, part=Struct(a=5), data=(Data(),)), WithModel(k=1, part=Model(a=2))])
def test_an_object_of_the_class_that_is_declared_comes_back(value: Any) -> None:
    assert comes_back(value).part == value.part


@as_event(topic="t-mutable", key="k")
class Limited(pydantic.BaseModel):
    k: int
    total: Annotated[int, pydantic.Field(gt=0)] = 1
    names: list[str] = []
    note: str = ""


@pytest.mark.parametrize(
    ("field", "wrong"), [("total", -5), ("total", None), ("total", "many"), ("names", [1]), ("note", 5)]
)
def test_a_model_that_no_longer_fits_its_class_is_refused_however_it_was_made(field: str, wrong: Any) -> None:
    changed = Limited(k=1)
    setattr(changed, field, wrong)
    for value in (
        changed,
        Limited(k=1).model_copy(update={field: wrong}),
        Limited.model_construct(k=1, **{field: wrong}),
    ):
        found = refused(value)
        assert found.field.split(".")[0] == field
        assert found.found == repr(wrong)


def test_a_field_that_json_cannot_carry_is_named() -> None:
    for cls in event(a=Any, b=Any):
        found = refused(cls(k=1, a=1, b=object()))
        assert (found.field, found.expected) == ("b", "what JSON can carry")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Any, Decimal(1)),
        (Any, (1, UUID(int=1))),
        (UUID, str(UUID(int=2))),
        (Any, Data()),
        (dict[str, Any], {"a": b"x"}),
    ],
)
def test_a_value_that_would_arrive_as_something_else_is_refused(kind: Any, value: Any) -> None:
    for cls in event(v=kind)[:2]:  # pydantic makes a UUID of a text at once
        assert refused(cls(k=1, v=value)).field.startswith("v")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (list[int], (1, 2)), (Sequence[int], (1, 2)), (float, 1), (Decimal, 1), (set[int], {1}), (int, 2**70),
        (dict[int, Data], {1: Data()}), (Literal["a"], "a"), (bytes, b"\xc3\xa9"), (Any, [1, {"a": None}]),
        (datetime.timedelta, datetime.timedelta(1, 2, 3)), (datetime.time, datetime.time(10, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_what_fits_comes_back_as_what_is_declared(kind: Any, value: Any) -> None:
    for cls in event(v=kind):
        read = comes_back(cls(k=1, v=value)).v
        assert (tuple(read) if isinstance(value, tuple) else read) == value


def test_a_class_that_changes_its_values_when_it_is_read_is_refused_with_those_values() -> None:
    @as_event(topic="t-custom", key="k")
    class Shouted(pydantic.BaseModel):
        k: int
        text: str

        @pydantic.field_serializer("text")
        def shout(self, text: str) -> str:
            return text.upper()

    assert comes_back(Shouted(k=1, text="A")).text == "A"
    found = refused(Shouted(k=1, text="a"))
    assert (found.field, found.expected, found.found) == ("text", "'a'", "'A'")

    class Counted(Event, topic="t-custom", key="k", frozen=False):  # type: ignore[misc]  # mypy takes it for a dataclass
        k: int

        def __post_init__(self) -> None:
            self.k += 1

    assert refused(Counted(k=1)).field == "k"


# ---------------------------------------------------------------------------------------------- aliases and the like


def test_a_model_is_written_by_its_aliases_and_read_by_them() -> None:
    @as_event(topic="t-alias", key="id")
    class Aliased(pydantic.BaseModel):
        id: int
        total: int = pydantic.Field(alias="totalPence")
        note: str | None = pydantic.Field(default=None, validation_alias="Note", serialization_alias="Note")

    @as_event(topic="t-alias", key="customer_id")
    class Camel(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(alias_generator=to_camel, extra="forbid")
        customer_id: int

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def twice(self) -> int:
            return 2 * self.customer_id

    aliased = Aliased(id=1, totalPence=5, Note="fragile")  # type: ignore[call-arg]
    assert comes_back(aliased) == aliased
    assert event_type(Aliased).write(aliased) == b'{"id":1,"totalPence":5,"Note":"fragile"}'
    assert event_type(Camel).write(Camel(customerId=5)) == b'{"customerId":5}'  # type: ignore[call-arg]


def field(kind: Any, **options: Any) -> Callable[[], type]:
    return lambda: pydantic.create_model("Refused", k=(int, 1), a=(kind, pydantic.Field(**options)))


class Inner(pydantic.BaseModel):
    a: int = pydantic.Field(serialization_alias="b")


class Foreign:
    pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            field(int, serialization_alias="b"),
            r"Refused.a is written as 'b' and read as 'a'.*write Field\(alias=\"b\"\)",
        ),
        (field(int, validation_alias="b"), "is written as 'a' and read as 'b'"),
        (field(int, validation_alias=pydantic.AliasPath("b", 0)), "is written as 'a' and read as nothing"),
        (field(int, default=1, exclude=True), "exclude=True: it is not written"),
        (field(pydantic.SecretStr), "is a secret: .* declare it as str or bytes"),
        (field(list[pydantic.SecretBytes] | None), "is a secret"),
        (field(dict[str, list[Inner]]), "field Inner.a is written as 'b' and read as 'a'"),
    ],
)
def test_a_model_that_cannot_be_read_back_is_refused_at_the_declaration(make: Callable[[], type], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        as_event(topic="t-refused", key="k")(make())


def test_a_model_whose_own_code_puts_that_right_is_none_of_our_business() -> None:
    @as_event(topic="t-own-code", key="k")
    class Told(pydantic.BaseModel):
        k: int
        secret: pydantic.SecretStr
        hidden: Annotated[pydantic.SecretStr, pydantic.PlainSerializer(lambda value: value.get_secret_value())]
        either: int = pydantic.Field(validation_alias=pydantic.AliasChoices("other", "either"))

        @pydantic.field_serializer("secret")
        def tell(self, value: pydantic.SecretStr) -> str:
            return value.get_secret_value()

    told = Told(k=1, secret=pydantic.SecretStr("s"), hidden=pydantic.SecretStr("h"), other=2)  # type: ignore[call-arg]
    assert comes_back(told) == told


@pytest.mark.parametrize("kind", [complex, Foreign, Model, list[Foreign], Iterator[int], set[int] | list[int]])
def test_a_type_that_json_cannot_carry_is_refused_at_the_declaration(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"Odd.a is a|cannot be read back from JSON"):
        struct(k=int, a=kind)
    with pytest.raises(UsageError, match=r"OddData.a is a|cannot be read back from JSON"):
        as_event(topic="t-odd", key="k")(dataclasses.make_dataclass("OddData", [("k", int), ("a", kind)]))


def test_an_event_may_name_itself_and_what_is_defined_later() -> None:
    value = Tree(k=1, leaves=(Tree(k=2, leaf=Leaf()),))
    assert comes_back(value) == value


class Tree(Event, topic="t-tree", key="k"):
    k: int
    leaf: Leaf | None = None
    leaves: tuple[Tree, ...] = ()


class Leaf(msgspec.Struct):
    green: bool = True


def test_a_generic_event_is_refused_and_one_for_each_parameter_is_not() -> None:
    class Box(Event, Generic[T]):
        k: int
        value: T

    class IdBox(Box[UUID], topic="t-box", key="k"):
        pass

    assert comes_back(IdBox(k=1, value=uuid4())).value.version == 4
    with pytest.raises(UsageError, match=r"Generic1 is generic.*declare one for each, `class X\(Generic1\[int\]"):

        class Generic1(Event, Generic[T], topic="t-box", key="k"):
            k: int
            value: T

    with pytest.raises(UsageError, match="is generic"):

        @as_event(topic="t-box", key="k")
        class ModelBox(pydantic.BaseModel, Generic[T]):
            k: int
            value: T


# ------------------------------------------------------------------------------------- what is sure without a look


class Color(enum.Enum):
    RED = "red"


FIELDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (str, st.text(st.characters(exclude_categories=["Cs"]))),
    "number": (int, st.integers(-(10**100), 10**100)),
    "share": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "flag": (bool, st.booleans()),
    "id": (UUID, st.uuids()),
    "day": (datetime.date, st.dates()),
    "at": (datetime.datetime, st.datetimes() | st.datetimes(timezones=st.just(UTC))),
    "total": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "color": (Color, st.sampled_from(Color)),
    "maybe": (UUID | None, st.none() | st.uuids()),
}
SURE = event(**{name: kind for name, (kind, _) in FIELDS.items()})


@given(st.fixed_dictionaries({name: values for name, (_, values) in FIELDS.items()}))
def test_what_is_sure_to_come_back_comes_back(values: dict[str, Any]) -> None:
    for cls in SURE:
        value = cls(k=1, **values)
        form = event_type(cls).format
        assert form.sure(value)
        assert form.decode(form.encode(value)) == value


ODD = st.one_of(
    st.none(), st.text(), st.integers(), st.floats(), st.uuids(), st.dates(), st.times(), st.decimals(), st.booleans(),
    st.datetimes(timezones=st.timezones()), st.lists(st.none()), st.sampled_from(Color), st.binary(),
)  # fmt: skip


@given(st.sampled_from(sorted(FIELDS)), ODD, st.data())
def test_what_is_published_is_what_is_read_whatever_it_is(name: str, odd: Any, data: st.DataObject) -> None:
    values = {each: data.draw(strategy) for each, (_, strategy) in FIELDS.items()} | {name: odd}
    for cls in SURE:
        value = cls.model_construct(k=1, **values) if hasattr(cls, "model_construct") else cls(k=1, **values)
        try:
            read = getattr(comes_back(value), name)
        except EventMismatch:
            continue
        assert read == odd or (read != read and odd != odd) or read.astimezone(UTC) == odd.astimezone(UTC)


@pytest.mark.parametrize("kind", [list[int], int | str, Annotated[int, msgspec.Meta(gt=0)], Any, Data])
def test_of_a_type_that_rules_nothing_out_nothing_is_sure(kind: Any) -> None:
    one, data, model = event(v=kind)
    for cls in (one, data, model.model_construct):
        value = cls(k=1, v=1)
        assert not event_type(type(value)).format.sure(value)
