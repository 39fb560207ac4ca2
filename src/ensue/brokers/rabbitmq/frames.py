"""AMQP 0.9.1 on the wire: frames, field tables, and the few methods that a log needs. Pure functions.

Source: the AMQP 0.9.1 specification, with RabbitMQ's errata for the types of field tables.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from ensue.errors import BadMessage, RecordRefused

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
PROTOCOL = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME = struct.pack(">BHI", HEARTBEAT, 0, 0) + END

#: (class, method) as one number.
CONNECTION_START, CONNECTION_START_OK = 10 << 16 | 10, 10 << 16 | 11
CONNECTION_TUNE, CONNECTION_TUNE_OK = 10 << 16 | 30, 10 << 16 | 31
CONNECTION_OPEN, CONNECTION_OPEN_OK = 10 << 16 | 40, 10 << 16 | 41
CONNECTION_CLOSE, CONNECTION_CLOSE_OK = 10 << 16 | 50, 10 << 16 | 51
CONNECTION_BLOCKED, CONNECTION_UNBLOCKED = 10 << 16 | 60, 10 << 16 | 61
CHANNEL_OPEN, CHANNEL_OPEN_OK = 20 << 16 | 10, 20 << 16 | 11
CHANNEL_FLOW, CHANNEL_FLOW_OK = 20 << 16 | 20, 20 << 16 | 21
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = 20 << 16 | 40, 20 << 16 | 41
QUEUE_DECLARE, QUEUE_DECLARE_OK = 50 << 16 | 10, 50 << 16 | 11
QUEUE_DELETE = 50 << 16 | 40
BASIC_QOS, BASIC_QOS_OK = 60 << 16 | 10, 60 << 16 | 11
BASIC_CONSUME, BASIC_CONSUME_OK = 60 << 16 | 20, 60 << 16 | 21
BASIC_CANCEL = 60 << 16 | 30
BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER = 60 << 16 | 40, 60 << 16 | 50, 60 << 16 | 60
BASIC_ACK, BASIC_NACK = 60 << 16 | 80, 60 << 16 | 120
CONFIRM_SELECT, CONFIRM_SELECT_OK = 85 << 16 | 10, 85 << 16 | 11

_FRAME = struct.Struct(">BHI")
_METHOD_FRAME = struct.Struct(">BHII")
_CONTENT = struct.Struct(">HHQH")
_LONG = struct.Struct(">I")
_PERSISTENT = b"\x02"
#: Property flags, highest first: content type, content encoding, headers, delivery mode, ..., message id.
_HAS_TYPE, _HAS_ENCODING, _HAS_HEADERS, _HAS_MODE, _HAS_ID = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 7
_FLAGS = _HAS_TYPE | _HAS_HEADERS | _HAS_MODE | _HAS_ID

#: Field types of a fixed size.
_FIXED = {
    kind: struct.Struct(">" + code)
    for kind, code in {
        b"t": "?", b"b": "b", b"B": "B", b"s": "h", b"u": "H", b"I": "i", b"i": "I", b"l": "q", b"T": "Q",
        b"f": "f", b"d": "d",
    }.items()
}  # fmt: skip
_DECIMAL = struct.Struct(">Bi")

Value = str | int | float | bool | bytes | None


def method_frame(channel: int, method: int, arguments: bytes = b"") -> bytes:
    return _METHOD_FRAME.pack(METHOD, channel, len(arguments) + 4, method) + arguments + END


def short(text: str) -> bytes:
    """A short string. Raises BadMessage above 255 bytes."""
    encoded = text.encode()
    if len(encoded) > 255:
        raise BadMessage(f"{text[:40]!r}... has {len(encoded)} bytes, AMQP carries at most 255 of a name")
    return bytes((len(encoded),)) + encoded


def long(data: bytes) -> bytes:
    return _LONG.pack(len(data)) + data


def table(fields: Mapping[str, str | int | bool | Mapping[str, bool]]) -> bytes:
    parts = []
    for name, value in fields.items():
        parts.append(short(name))
        if isinstance(value, bool):
            parts.append(b"t\x01" if value else b"t\x00")
        elif isinstance(value, int):
            parts.append(b"l" + struct.pack(">q", value))
        elif isinstance(value, str):
            parts.append(b"S" + long(value.encode()))
        else:
            parts.append(b"F" + table(value))
    return long(b"".join(parts))


def text_field(name: str, value: str) -> bytes:
    """One field of a table, as `table` writes it."""
    return short(name) + b"S" + long(value.encode())


def message_frames(channel: int, publish: bytes, head: bytes, body: bytes, frame_max: int) -> bytes:
    """All frames of one message. publish: from `publish_arguments`. head: from `properties`.

    Raises RecordRefused where the head has no room in one frame: a server that got it would end the connection.
    """
    size = len(body)
    content = _CONTENT.pack(60, 0, size, _FLAGS) + head
    if len(content) > frame_max - 8:
        raise RecordRefused(
            f"the attributes of a record take {len(content)} bytes, and RabbitMQ takes {frame_max - 8} in one frame: "
            "raise frame_max in its configuration, or carry less in them"
        )
    frames = [
        method_frame(channel, BASIC_PUBLISH, publish),
        _FRAME.pack(HEADER, channel, len(content)), content, END,
    ]  # fmt: skip
    room = frame_max - 8
    if 0 < size <= room:
        frames += _FRAME.pack(BODY, channel, size), body, END
    else:
        for begin in range(0, size, room):
            part = body[begin : begin + room]
            frames += _FRAME.pack(BODY, channel, len(part)), part, END
    return b"".join(frames)


def publish_arguments(queue: str) -> bytes:
    """Through the default exchange to a queue, and given back where there is no such queue (mandatory)."""
    return b"\x00\x00\x00" + short(queue) + b"\x01"


def properties(content_type: str, fields: bytes, message_id: str = "") -> bytes:
    """Properties of a message that is written to disk. fields: `text_field`s joined."""
    return short(content_type) + long(fields) + _PERSISTENT + short(message_id)


class Content(NamedTuple):
    """What a content header says. headers: text as bytes, since it may be of anybody. id: as the sender gave it."""

    size: int
    content_type: bytes
    headers: dict[bytes, Value]
    id: bytes


def read_content(payload: bytes) -> Content:
    """Raises ValueError, struct.error or IndexError on what is no content header."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    at = _CONTENT.size
    content_type, message_id = b"", b""
    headers: dict[bytes, Value] = {}
    for bit in range(15, 6, -1):
        if not flags & 1 << bit:
            continue
        if bit == 13:
            headers, at = read_table(payload, at)
        elif bit in (12, 11):  # delivery mode, priority: an octet
            at += 1
        else:
            end = at + 1 + payload[at]
            if bit == 15:
                content_type = payload[at + 1 : end]
            elif bit == 7:
                message_id = payload[at + 1 : end]
            at = end
    return Content(size, content_type, headers, message_id)


def read_table(data: bytes, at: int) -> tuple[dict[bytes, Value], int]:
    """Return the fields of a table that begins at `at`, and where it ends. Text stays bytes; nested things are None."""
    end = at + 4 + _LONG.unpack_from(data, at)[0]
    at += 4
    fields: dict[bytes, Value] = {}
    while at < end:
        begin = at + 1
        at = begin + data[at]
        name = data[begin:at]
        kind = data[at : at + 1]
        at += 1
        if kind in b"Sx":
            size = _LONG.unpack_from(data, at)[0]
            fields[name] = data[at + 4 : at + 4 + size]
            at += 4 + size
        elif kind in _FIXED:
            fixed = _FIXED[kind]
            fields[name] = fixed.unpack_from(data, at)[0]
            at += fixed.size
        elif kind in b"FA":
            fields[name] = None
            at += 4 + _LONG.unpack_from(data, at)[0]
        elif kind == b"D":
            scale, number = _DECIMAL.unpack_from(data, at)
            fields[name] = number / 10**scale
            at += _DECIMAL.size
        elif kind == b"V":
            fields[name] = None
        else:
            raise ValueError(f"a field of unknown type {kind!r}")
    return fields, end


def read_short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(errors="replace"), end


def delivery_tag(payload: bytes) -> int:
    """Of a Basic.Deliver: it stands behind the consumer tag."""
    return int.from_bytes(payload[5 + payload[4] : 13 + payload[4]], "big")
