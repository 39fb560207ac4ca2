"""What has happened once already: foreign messages by (source, id), and HTTP answers by Idempotency-Key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from ensue.message import StoredResponse
from ensue.stores import rules
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link

LOAD = "SELECT response_key, fingerprint, status, headers, body FROM ensue_response WHERE digest = ?"
RESPONSE = ("digest", "response_key", "fingerprint", "status", "headers", "body", "saved_at")

_encode = msgspec.json.Encoder().encode
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


async def claim(
    link: Link, dialect: Dialect, subscription: str, messages: Sequence[tuple[str, str]], now: float
) -> set[tuple[str, str]]:
    if not messages:
        return set()
    # In one order everywhere, so that two who claim the same ones do not lock each other out.
    wanted = dict(sorted((_digest(subscription, *message), message) for message in messages))
    return {wanted[digest] for digest in await dialect.claim(link, list(wanted), now)}


async def response_load(link: Link, dialect: Dialect, key: str) -> StoredResponse | None:
    rows = await link.fetch(dialect.text(LOAD), _digest(key))
    if not rows:
        return None
    key, fingerprint, status, headers, body = rows[0]
    return StoredResponse(key, fingerprint, status, _read_headers(headers), bytes(body))


async def response_save(link: Link, dialect: Dialect, response: StoredResponse, now: float) -> None:
    text = dialect.insert_new("ensue_response", RESPONSE)
    headers = _encode(response.headers).decode()
    values = (_digest(response.key), response.key, response.fingerprint, response.status, headers, response.body, now)
    if await link.execute(text, *values) != 1:
        raise rules.answered_meanwhile(response.key)


def _digest(*parts: str) -> bytes:
    """Of texts of any length, kept apart."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(each), each) for each in encoded)).digest()
