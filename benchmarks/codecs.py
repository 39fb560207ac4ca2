"""An event to JSON and back: msgspec and pydantic as they are, and as Ensue's EventType does it.

The same event of 300 bytes, with UUIDs, a Decimal and a datetime, as a msgspec Struct (`Event`), a dataclass and a
pydantic model (both by `@as_event`). The envelope that goes with each event is measured too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic

from benchmarks.figures import Report
from benchmarks.rounds import Sample, Stopwatch, alternate
from benchmarks.typed_events import OrderPlaced, orders_placed
from ensue import as_event
from ensue.codec import decode_envelope, encode_envelope
from ensue.event import event_type
from ensue.message import Envelope


@as_event(topic="codecs", key="customer_id")
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataclassPlaced:
    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    note: str


@as_event(topic="codecs", key="customer_id")
class PydanticPlaced(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    note: str


def run(quick: bool) -> Report:
    count, rounds = (100, 1) if quick else (50_000, 9)
    [placed] = orders_placed(1)
    fields = msgspec.structs.asdict(placed)
    struct, plain, model = event_type(OrderPlaced), event_type(DataclassPlaced), event_type(PydanticPlaced)
    envelope = Envelope("0123456789abcdef-1f", "orders.OrderPlaced.v1", "2011-12-09T12:50:00.000000Z", "a-1", "b-1")
    sides: dict[str, Callable[[], Sample]] = {
        "bare msgspec": _both_ways(
            msgspec.json.Encoder().encode, msgspec.json.Decoder(OrderPlaced).decode, placed, count
        ),
        "struct": _both_ways(struct.format.encode, struct.read, placed, count),
        "dataclass": _both_ways(plain.format.encode, plain.read, DataclassPlaced(**fields), count),
        "bare pydantic": _both_ways(
            lambda value: value.model_dump_json().encode(),
            PydanticPlaced.model_validate_json,
            PydanticPlaced(**fields),
            count,
        ),
        "model": _both_ways(model.format.encode, model.read, PydanticPlaced(**fields), count),
        "envelope": _both_ways(encode_envelope, decode_envelope, envelope, count),
    }
    measured = alternate(sides, rounds)
    return Report(
        name="codecs",
        question="How fast is an event encoded and decoded again?",
        scale=f"{rounds} rounds of {count:,} events of 300 bytes, each encoded and decoded.",
        bad="EventType costing more than a quarter of the codec's own time.",
        bound="msgspec and pydantic; EventType adds one call and one try.",
        figures=(
            measured.rate("bare msgspec", "bare msgspec Struct"),
            measured.rate("struct", "Event"),
            measured.rate("dataclass", "@as_event on a dataclass"),
            measured.rate("bare pydantic", "bare pydantic model"),
            measured.rate("model", "@as_event on a pydantic model"),
            measured.rate("envelope", "envelope"),
        ),
    )


def _both_ways(
    encode: Callable[[Any], bytes], decode: Callable[[bytes], object], value: object, count: int
) -> Callable[[], Sample]:
    assert decode(encode(value)) == value

    def work() -> Sample:
        watch = Stopwatch()
        for _ in range(count):
            decode(encode(value))
        return watch.stop(count)

    return work
