"""The seal of a record: a checksum that shows damage, and, with a key, a signature that shows who wrote it.

Both are attributes at the end of the envelope's JSON, put there when a record leaves the outbox. So every broker
carries them as it carries the others, and what was damaged in the log or on the way is found by whoever reads it: a bit
that flips always, other damage but once in four thousand million times. See docs/adr/0036.
"""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Callable, Sequence
from functools import lru_cache
from zlib import crc32

import msgspec

from ensue.codec import encode_envelope
from ensue.message import JSON, Envelope, Message, OutboxRecord
from ensue.ports import Entry

#: What makes a signature of the bytes that it covers.
Sign = Callable[[bytes], str]

_CRC = b',"ensuecrc":"'
#: `,"ensuecrc":"01234567"}`
_CRC_BYTES = len(_CRC) + 10
#: `,"ensuesignature":""`
_SIGNATURE_BYTES = 20

_place = struct.Struct(">qq").pack
_encode = msgspec.json.Encoder().encode


def sealed(topic: str, partition: int, source: str, entry: Entry, sign: Sign | None = None) -> OutboxRecord:
    """Return the entry as it goes into the log. The one given stays as it is, since it may be sent again."""
    return all_sealed(topic, partition, source, (entry,), sign)[0]


def all_sealed(
    topic: str, partition: int, source: str, entries: Sequence[Entry], sign: Sign | None = None
) -> list[OutboxRecord]:
    """As `sealed`, for the entries of one partition."""
    begun = _begun(topic, partition, source)
    found = []
    for entry in entries:
        key, data, position, previous = entry.key, entry.data, entry.position, entry.previous
        body = entry.envelope[:-1]
        # One call for all: each costs as much as a hundred bytes do.
        crc = crc32(b"".join((body, data, key.encode(), _place(position, previous))), begun)
        if sign is not None:
            body = b'%b,"ensuesignature":"%b"' % (body, sign(_signed(topic, partition, source, entry, body)).encode())
        envelope = b"".join((body, _CRC, hexlify(crc.to_bytes(4)), b'"}'))
        found.append(OutboxRecord(topic, partition, key, envelope, data, position, previous))
    return found


def damage(message: Message) -> str:
    """Why a record is not as it was written; empty: it is, or a stranger wrote it, who has neither chain nor seal."""
    envelope = message.envelope
    crc = envelope.crc
    if not crc:
        if message.position or envelope.type.startswith("ensue."):
            return "it has the marks of Ensue and no checksum"
        return ""
    place = _place(message.position, message.previous)
    covered = b"".join((_body(envelope), message.data, message.key.encode(), place))
    found = f"{crc32(covered, _begun(message.topic, message.partition, message.source)):08x}"
    return "" if crc == found else f"its checksum is {crc[:8]!r}, expected {found!r}"


def signed_bytes(message: Message) -> bytes:
    """What the signature of a message covers."""
    return _signed(message.topic, message.partition, message.source, message, _body(message.envelope))


def _body(envelope: Envelope) -> bytes:
    """The envelope's JSON without the seal and the closing brace, as its publisher had it."""
    extensions, signature = envelope.extensions, envelope.signature
    if envelope.content_type is not JSON and envelope.content_type == JSON:  # an adapter that does not intern it
        envelope = msgspec.structs.replace(envelope, content_type=JSON)
    if extensions is not None:  # brokers keep no order of theirs, and no empty ones
        extensions = {name: value for name, value in sorted(extensions.items()) if value} or None
        envelope = msgspec.structs.replace(envelope, extensions=extensions)
    return encode_envelope(envelope)[: -_CRC_BYTES - (_SIGNATURE_BYTES + len(signature) if signature else 0)]


@lru_cache(maxsize=4096)  # bounded: strangers name themselves as they like
def _begun(topic: str, partition: int, source: str) -> int:
    """The checksum of what the records of a batch have in common."""
    return crc32(f"{topic}\n{partition}\n{source}\n".encode())


def _signed(topic: str, partition: int, source: str, entry: Entry | Message, body: bytes) -> bytes:
    """A JSON array, a JSON object, the data: each ends where it ends, so no byte can pass from one to the next."""
    head = _encode((topic, partition, source, entry.position, entry.previous, entry.key))
    return b"%b%b}%b" % (head, body, entry.data)
