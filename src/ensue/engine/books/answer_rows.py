"""An answer to an Idempotency-Key as a row, in whoever's transaction it is kept."""

from __future__ import annotations

import hashlib

import msgspec

from ensue.errors import IdempotencyConflict
from ensue.message import StoredResponse
from ensue.ports import Row

_encode = msgspec.json.Encoder().encode
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


def answer_id(key: str) -> str:
    return digest_of(key)


def row_of_answer(response: StoredResponse, now: float) -> Row:
    """now: by the database's clock, epoch seconds."""
    return (
        answer_id(response.key), response.key, response.fingerprint, response.status,
        _encode(response.headers).decode(), response.body, now,
    )  # fmt: skip


def answer_of(row: Row) -> StoredResponse:
    _, key, fingerprint, status, headers, body, _ = row
    return StoredResponse(key, fingerprint, status, _read_headers(headers), bytes(body))


def answered_meanwhile(key: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"Idempotency-Key {key!r} was answered meanwhile: try again, and that answer is given", key=key
    )


def digest_of(*parts: str) -> str:
    """Of texts of any length, kept apart."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(each), each) for each in encoded)).hexdigest()
