"""What has happened once already: foreign messages by (source, id), and HTTP answers by Idempotency-Key."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from ensue.message import StoredResponse
from ensue.stores import rules

_CLAIM = "INSERT INTO ensue_inbox (subscription, source, id, claimed_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_LOAD = "SELECT key, fingerprint, status, headers, body FROM ensue_response WHERE key = ?"
_SAVE = "INSERT INTO ensue_response (key, fingerprint, status, headers, body, saved_at) VALUES (?, ?, ?, ?, ?, ?)"
# Rows are numbered as they come, so the oldest are the first: no index on the time is needed.
_PRUNE = (
    "DELETE FROM {table} WHERE number IN (SELECT number FROM (SELECT number, {time} AS time FROM {table} "
    "ORDER BY number LIMIT ?) WHERE time < ?)"
)
_PRUNE_INBOX = _PRUNE.format(table="ensue_inbox", time="claimed_at")
_PRUNE_RESPONSES = _PRUNE.format(table="ensue_response", time="saved_at")

_encode = msgspec.json.Encoder().encode
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


def claim(
    connection: sqlite3.Connection, subscription: str, messages: Sequence[tuple[str, str]], now: float
) -> set[tuple[str, str]]:
    return {
        (source, message_id)
        for source, message_id in messages
        if connection.execute(_CLAIM, (subscription, source, message_id, now)).rowcount == 1
    }


def prune_inbox(connection: sqlite3.Connection, before_s: float, limit: int) -> int:
    return connection.execute(_PRUNE_INBOX, (limit, before_s)).rowcount


def response_load(connection: sqlite3.Connection, key: str) -> StoredResponse | None:
    row = connection.execute(_LOAD, (key,)).fetchone()
    if row is None:
        return None
    key, fingerprint, status, headers, body = row
    return StoredResponse(key, fingerprint, status, _read_headers(headers), body)


def response_save(connection: sqlite3.Connection, response: StoredResponse, now: float) -> None:
    headers = _encode(response.headers).decode()
    try:
        connection.execute(_SAVE, (response.key, response.fingerprint, response.status, headers, response.body, now))
    except sqlite3.IntegrityError as error:
        raise rules.answered_meanwhile(response.key) from error


def prune_responses(connection: sqlite3.Connection, before_s: float, limit: int) -> int:
    return connection.execute(_PRUNE_RESPONSES, (limit, before_s)).rowcount
