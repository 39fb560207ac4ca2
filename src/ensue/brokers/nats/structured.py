"""CloudEvents in structured mode: the attributes and the data together as one JSON object."""

from __future__ import annotations

import base64
import binascii

import msgspec

from ensue.codec import Binding, from_attributes
from ensue.errors import BadMessage
from ensue.message import Message

#: Values of JSON are not percent-encoded.
_PLAIN = Binding("ce-", percent=False)

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def from_structured(content_type: str, body: bytes, *, topic: str, partition: int, offset: int) -> Message:
    """Read an event in the JSON format. Raises BadMessage when it is none, or in another format (a batch, Avro).

    Data in JSON keeps its bytes as they stand; data that is a string of another content type becomes that text.
    Source: CloudEvents 1.0.2, JSON event format, section 3.1.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "application/cloudevents", "application/cloudevents+json"):
        raise BadMessage(f"content type {kind[:60]}: expected application/cloudevents+json")
    try:
        fields = _decode(body)
        data = bytes(fields.pop("data", b""))
        encoded = fields.pop("data_base64", None)
        attributes = {name: _text(name, value) for name, value in fields.items()}
        data_type = attributes.pop("datacontenttype", "")
        if encoded is not None:
            data = base64.b64decode(msgspec.json.decode(encoded, type=str), validate=True)
        elif data == b"null":
            data = b""
        elif data[:1] == b'"' and data_type and not _is_json(data_type):
            data = msgspec.json.decode(data, type=str).encode()
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
        raise BadMessage(f"no CloudEvent in JSON: {error}") from error
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    if data_type:
        headers["content-type"] = data_type
    return from_attributes(headers, data, topic=topic, partition=partition, offset=offset, binding=_PLAIN)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def _text(name: str, value: msgspec.Raw) -> str:
    """An attribute as a header would carry it: numbers and booleans as their JSON text, null as not there."""
    found = msgspec.json.decode(value)
    if isinstance(found, str):
        return found
    if isinstance(found, dict | list):
        raise BadMessage(f"attribute {name[:40]} is an object or array, expected a string, number or boolean")
    return "" if found is None else bytes(value).decode()
