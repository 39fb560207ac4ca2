"""Events: declared in three ways, read with tolerance, and refused at declaration when they cannot work."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pydantic
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from ensue import BadMessage, Event, UsageError, as_event
from ensue.event import EventType, event_type


class Placed(Event, topic="t-orders", key="customer_id"):
    customer_id: UUID
    total: Decimal
    note: str = ""


@as_event(topic="t-orders", key="customer_id", type_name="PlacedModel")
class PydanticPlaced(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    customer_id: UUID
    total: Decimal
    note: str = ""


@as_event(topic="t-orders", key="customer_id", version=2)
@dataclasses.dataclass(frozen=True)
class DataclassPlaced:
    customer_id: UUID
    total: Decimal
    note: str = ""


KINDS = [Placed, PydanticPlaced, DataclassPlaced]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_comes_back_from_its_data_unchanged(kind: type[Any]) -> None:
    spec: EventType[Any] = event_type(kind)
    placed = kind(customer_id=uuid4(), total=Decimal("10.10"), note="é")
    assert spec.read(spec.write(placed)) == placed
    assert spec.key_of(placed) == str(placed.customer_id)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_ignored(kind: type) -> None:
    data = b'{"customer_id":"7d444840-9dc0-11d1-b245-5ffdce74fad2","total":"1.00","added_later":[1]}'
    assert event_type(kind).read(data).total == Decimal("1.00")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"total":"1.00"}', "customer_id"),
        (b'{"customer_id":"7d444840-9dc0-11d1-b245-5ffdce74fad2","total":[]}', "total"),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_named(kind: type, data: bytes, field: str) -> None:
    with pytest.raises(BadMessage, match=field):
        event_type(kind).read(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b"null", b"\xff"])
def test_data_that_is_no_object_is_a_bad_message(kind: type, data: bytes) -> None:
    with pytest.raises(BadMessage, match=event_type(kind).type):
        event_type(kind).read(data)


@pytest.mark.parametrize("kind", [Placed, DataclassPlaced])
@pytest.mark.parametrize("wrong", [{"total": []}, {"note": 5}, {"note": object()}, {"customer_id": "no uuid"}])
def test_values_that_no_subscriber_could_read_are_refused_where_they_are_published(
    kind: type, wrong: dict[str, object]
) -> None:
    placed = kind(**{"customer_id": uuid4(), "total": Decimal(1), **wrong})
    with pytest.raises(UsageError, match=f"event {kind.__name__} cannot be published"):
        event_type(kind).write(placed)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_published_is_what_is_read(kind: type) -> None:
    placed = kind(customer_id=uuid4(), total=Decimal("10.10"))
    assert event_type(kind).read(event_type(kind).write(placed)) == placed


def test_a_key_of_none_is_refused() -> None:
    class Maybe(Event, topic="t-maybe", key="owner"):
        owner: str | None

    with pytest.raises(UsageError, match="owner=None"):
        event_type(Maybe).key_of(Maybe(owner=None))


def test_the_wire_name_carries_topic_name_and_version() -> None:
    assert [event_type(kind).type for kind in KINDS] == [
        "t-orders.Placed.v1",
        "t-orders.PlacedModel.v1",
        "t-orders.DataclassPlaced.v2",
    ]


def test_an_event_is_frozen() -> None:
    placed = Placed(customer_id=uuid4(), total=Decimal(1))
    with pytest.raises(AttributeError):
        placed.total = Decimal(2)  # type: ignore[misc]


def test_a_base_class_without_topic_is_no_event_and_its_children_are() -> None:
    class Base(Event):
        order_id: int

    class Child(Base, topic="t-base", key="order_id"):
        pass

    assert event_type(Child).key_of(Child(order_id=5)) == "5"
    with pytest.raises(UsageError, match="is no event"):
        event_type(Base)


def test_an_event_without_topic_or_key_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r'no topic: write topic="..."'):

        class NoTopic(Event, key="a"):
            a: int

    with pytest.raises(UsageError, match=r"no key: write key=.*Its fields: a"):

        class NoKey(Event, topic="t-x"):
            a: int

    with pytest.raises(UsageError, match=r"key 'b' is not one of its fields \(a\)"):

        class WrongKey(Event, topic="t-x", key="b"):
            a: int


def test_topics_of_ensue_itself_are_refused() -> None:
    with pytest.raises(UsageError, match="Ensue's own"):

        class Mine(Event, topic="ensue.control", key="a"):
            a: int


def test_two_classes_cannot_claim_one_name() -> None:
    class First(Event, topic="t-claims", key="a", type_name="Same"):
        a: int

    with pytest.raises(UsageError, match="give one another type_name or version"):

        class Second(Event, topic="t-claims", key="a", type_name="Same"):
            a: int


def test_a_plain_class_is_told_how_to_become_an_event() -> None:
    with pytest.raises(UsageError, match="expected a pydantic 2 model or a dataclass"):

        @as_event(topic="t-x", key="a")
        class Plain:
            a: int


def test_a_row_of_a_table_is_no_event() -> None:
    class Rows(MappedAsDataclass, DeclarativeBase): ...

    with pytest.raises(UsageError, match=r"Placing, which is mapped to a table: .*Declare a class of its own"):

        @as_event(topic="t-x", key="id")
        class Placing(Rows):
            __tablename__ = "placings"
            id: Mapped[int] = mapped_column(primary_key=True)


def test_as_event_in_another_way_says_what_to_write() -> None:
    class Model(pydantic.BaseModel):
        a: int

    write = r'write @as_event\(topic="...", key="<field>"\) above the class'
    with pytest.raises(UsageError, match=rf"@as_event\(\S*Model\): its arguments have names; {write}"):
        as_event(Model)
    with pytest.raises(UsageError, match=rf"@as_event\('orders', 'a'\): its arguments have names; {write}"):
        as_event("orders", "a")
    with pytest.raises(UsageError, match="has no topic: write topic="):
        as_event()(Model)
    with pytest.raises(UsageError, match=r"which is an ensue\.Event: write topic= and key= in its class line"):
        as_event(topic="t-x", key="total")(Placed)
    with pytest.raises(UsageError, match="expected a pydantic 2 model or a dataclass"):
        as_event(topic="t-x", key="a")(lambda: None)  # type: ignore[arg-type]


def test_an_event_with_an_unknown_word_in_its_class_line_says_what_can_be_there() -> None:
    for word in ("name", "partition_key"):
        with pytest.raises(UsageError, match=rf"event Odd: {word} in its class line; expected topic, key, type_name"):
            type("Odd", (Event,), {"__annotations__": {"k": int}}, topic="t-odd", key="k", **{word: "x"})


@pytest.mark.parametrize("wrong", [{"topic": 5}, {"key": ("k", "k")}, {"type_name": b"x"}])
def test_words_of_a_declaration_are_texts(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"topic": "t-odd", "key": "k", **wrong}
    with pytest.raises(UsageError, match=rf"{next(iter(wrong))}=.*, expected a str"):
        type("Odd", (Event,), {"__annotations__": {"k": int}}, **given)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.5])
def test_a_version_is_a_whole_number_from_1(version: Any) -> None:
    with pytest.raises(UsageError, match=r"version=.*, expected a whole number from 1"):
        type("Odd", (Event,), {"__annotations__": {"k": int}}, topic="t-odd", key="k", version=version)


@pytest.mark.parametrize("topic", ["bestellungen-ü", "a b", "..", "-x", "a/b", "a\0", "x" * 101, "a\n", "*", "a.>"])
def test_a_topic_that_not_every_broker_can_have_is_refused_at_the_declaration(topic: str) -> None:
    with pytest.raises(UsageError, match="cannot be had on every broker"):
        type("Odd", (Event,), {"__annotations__": {"k": int}}, topic=topic, key="k")


@pytest.mark.parametrize("type_name", ["x" * 260, "a\nb", "a\ud800"])
def test_a_type_name_that_no_header_carries_is_refused_at_the_declaration(type_name: str) -> None:
    with pytest.raises(UsageError, match="all printable"):
        type("Odd", (Event,), {"__annotations__": {"k": int}}, topic="t-odd", key="k", type_name=type_name)
