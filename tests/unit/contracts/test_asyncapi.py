"""The AsyncAPI document is valid by the specification's own schema, and says what is on the wire."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import httpx
import jsonschema_rs
import msgspec
import pydantic
import pytest
from fastapi import FastAPI

from ensue import Command, Event, Failure, Service, UsageError, as_event
from ensue.brokers.kafka.wire import encode
from ensue.codec import encode_envelope
from ensue.contracts.asyncapi import PREFIXES, asyncapi
from ensue.contracts.contract import contract_of
from ensue.event import event_type
from ensue.integrations.fastapi import install
from ensue.message import JSON, Envelope, OutboxRecord
from ensue.seal import sealed

SPECIFICATION = json.loads(
    gzip.decompress((Path(__file__).parent / "asyncapi_schema/asyncapi-3.1.0.json.gz").read_bytes())
)


class Place(NamedTuple):
    east: float
    north: float


class Parcel(msgspec.Struct, frozen=True):
    """What is sent."""

    weight: Decimal
    parts: tuple[Parcel, ...] = ()


class ParcelSent(Event, topic="asyncapi.parcels", key="parcel_id", rename="camel"):
    """A parcel has left."""

    parcel_id: UUID
    parcel: Parcel
    place: Place
    where: tuple[int, str] | None = None


class Finder(pydantic.BaseModel):
    """Who is written by code of its own, and read by its declaration."""

    name: str

    @pydantic.model_serializer
    def as_json(self) -> dict[str, str]:
        return {"name": self.name}


@as_event(topic="asyncapi.parcels", key="parcel_id")
class ParcelLost(pydantic.BaseModel):
    parcel_id: str
    finder: Finder | None = None
    lost: Annotated[list[str], pydantic.Field(max_length=3)]


class ParcelFound(msgspec.Struct):
    shelf: str


class FindParcel(Command[ParcelFound], service="asyncapi-finder", key="parcel_id"):
    parcel_id: str


class ForgetParcel(Command[None], service="asyncapi-finder", key="parcel_id"):
    parcel_id: str


class ParcelIsNowhere(Failure):
    looked_at: int


sender = Service("asyncapi-sender", publishes=[ParcelSent, ParcelLost], calls=[FindParcel, ForgetParcel])
finder = Service("asyncapi-finder", publishes=[])


@sender.on
def hear(event: ParcelLost) -> None: ...


@finder.on
def note(event: ParcelSent) -> None: ...


@finder.handles
def find(command: FindParcel) -> ParcelFound:
    raise ParcelIsNowhere(looked_at=3)


@finder.handles
def forget(command: ForgetParcel) -> None: ...


def document(service: Service, scheme: str = "kafka") -> dict[str, Any]:
    found = asyncapi(contract_of(service), scheme=scheme, version="1.2.3")
    return dict(json.loads(json.dumps(found)))


@pytest.mark.parametrize("scheme", ["", *PREFIXES])
@pytest.mark.parametrize("service", [sender, finder], ids=lambda each: each.name)
def test_the_document_is_valid_by_the_specification(service: Service, scheme: str) -> None:
    errors = list(jsonschema_rs.Draft7Validator(SPECIFICATION).iter_errors(document(service, scheme)))
    assert [f"{each.instance_path}: {each.message}"[:300] for each in errors] == []


def test_the_specification_refuses_what_is_no_document() -> None:
    broken = document(sender)
    del broken["info"]["version"]
    broken["operations"]["send.asyncapi.parcels"]["action"] = "publish"
    assert len(list(jsonschema_rs.Draft7Validator(SPECIFICATION).iter_errors(broken))) == 2


@pytest.mark.parametrize("service", [sender, finder], ids=lambda each: each.name)
def test_each_reference_leads_somewhere(service: Service) -> None:
    found = document(service)
    left, seen = [found], 0
    while left:
        each: Any = left.pop()
        if isinstance(each, dict):
            if "$ref" in each:
                target: Any = found
                for part in each["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                seen += 1
            left += each.values()
        elif isinstance(each, list):
            left += each
    assert seen > 10


def test_channels_are_topics_and_operations_say_who_does_what() -> None:
    sends, finds = document(sender), document(finder)
    assert sends["info"] == {"title": "asyncapi-sender", "version": "1.2.3"}
    addresses = {name: each["address"] for name, each in sends["channels"].items()}
    assert addresses == {
        each: each for each in ("asyncapi.parcels", "asyncapi-finder.commands", "asyncapi-sender.replies")
    }
    actions = {name: each["action"] for name, each in sends["operations"].items()}
    assert actions == {
        "send.asyncapi.parcels": "send",
        "send.asyncapi-finder.commands.FindParcel.v1": "send",
        "send.asyncapi-finder.commands.ForgetParcel.v1": "send",
        "receive.asyncapi.parcels": "receive",
    }
    assert len(sends["operations"]["send.asyncapi.parcels"]["messages"]) == 2
    assert len(sends["operations"]["receive.asyncapi.parcels"]["messages"]) == 1
    reply = finds["operations"]["receive.asyncapi-finder.commands.FindParcel.v1"]["reply"]
    assert reply["address"]["location"] == "$message.header#/ce_ensuereplyto"
    answers = {each["$ref"].rpartition("/")[2] for each in reply["messages"]}
    assert {"asyncapi-finder.commands.FindParcel.v1.reply", "failure.ParcelIsNowhere"} <= answers


def resolved(found: dict[str, Any], name: str, part: str) -> jsonschema_rs.Draft7Validator:
    """A validator of one part of a message."""
    schema = found["components"]["messages"][name][part]
    return jsonschema_rs.Draft7Validator({**schema, "components": found["components"]})


PARCEL = Parcel(weight=Decimal("1.50"), parts=(Parcel(weight=Decimal(1)),))
SENT = ParcelSent(parcel_id=UUID(int=7), parcel=PARCEL, place=Place(1.5, -2.0), where=(3, "shelf"))


def test_headers_and_payload_are_as_they_are_written() -> None:
    spec = event_type(ParcelSent)
    envelope = Envelope(id="m1", type=spec.type, time="2026-01-02T03:04:05Z", correlation_id="c", content_type=JSON)
    entry = OutboxRecord(spec.topic, 0, spec.key_of(SENT), encode_envelope(envelope), spec.write(SENT), 5, 4)
    record = sealed(spec.topic, 0, "asyncapi-sender/e", entry)
    [(_, headers, data)] = encode("asyncapi-sender/e", 0, [record])
    attributes = {name: value for name, value in headers if name.startswith("ce_")}
    found = document(sender)
    described = found["components"]["messages"][spec.type]
    assert attributes.keys() <= described["headers"]["properties"].keys()
    assert resolved(found, spec.type, "headers").is_valid(attributes)
    assert not resolved(found, spec.type, "headers").is_valid({**attributes, "ce_type": "another"})
    assert described["correlationId"] == {"location": "$message.header#/ce_correlationid"}
    assert attributes["ce_correlationid"] == "c"
    payload = resolved(found, spec.type, "payload")
    assert payload.is_valid(json.loads(data))
    assert not payload.is_valid({**json.loads(data), "place": [1.5]})
    assert not payload.is_valid({**json.loads(data), "where": [3, 4]})
    assert not payload.is_valid({**json.loads(data), "parcel": {"weight": "1", "parts": [{}]}})
    assert described["description"] == "Its key is parcelId."


def test_answers_are_described_as_they_travel() -> None:
    from ensue.command import CommandType
    from ensue.reply import refusal_of, reply_with, write_reply

    found, spec = document(finder), event_type(FindParcel)
    assert isinstance(spec, CommandType)
    done = json.loads(write_reply(reply_with(spec, "id", ParcelFound("a"))))
    refused = json.loads(write_reply(refusal_of("id", ParcelIsNowhere(looked_at=3))))
    reply, failure = (
        resolved(found, name, "payload") for name in (f"{spec.type}.reply", "failure.ParcelIsNowhere")
    )  # fmt: skip
    assert reply.is_valid(done)
    assert failure.is_valid(refused)
    assert not reply.is_valid(refused)
    assert not failure.is_valid(done)


async def test_an_application_serves_it() -> None:
    app = FastAPI(version="4.5.6")
    install(app, sender, asyncapi=True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/asyncapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["info"] == {"title": "asyncapi-sender", "version": "4.5.6"}
        assert jsonschema_rs.Draft7Validator(SPECIFICATION).is_valid(answer.json())
    with pytest.raises(UsageError, match=r"asyncapi=\.\.\.\): those paths answer for asyncapi-sender already"):
        install(app, finder, asyncapi=True)
    plain = FastAPI()
    install(plain, finder)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(plain), base_url="http://test") as client:
        assert (await client.get("/asyncapi.json")).status_code == 404
