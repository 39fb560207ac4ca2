"""A dead letter with other data: corrected by hand, because its sender cannot do it any more, and tried again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Container

import msgspec

from ensue.codec import RECORD_BYTES_MAX, decode_envelope, encode_envelope
from ensue.deciding import Deciding
from ensue.definition import ServiceDefinition
from ensue.engine.decisions import found_letter
from ensue.errors import BadMessage, UsageError
from ensue.message import REPLY, SAGA, TOLD, DeadLetter, DeadLetterState
from ensue.operations.by_hand import unknown_fields
from ensue.operations.letter_decisions import EDIT, before_of
from ensue.operations.letters import LetterLine, line_of
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction
from ensue.roundtrip import fields_of

_OWN = (REPLY, SAGA, TOLD)


def seen_of(data: bytes) -> str:
    """What says of the data of a letter that it is still the same. Only for who is shown the data: short ones can be
    found out by it."""
    return hashlib.blake2s(data, digest_size=16).hexdigest()


async def edit(access: Opened, letter_id: str, data: bytes, by: Deciding, seen: str = "") -> LetterLine:
    """Give a letter that is dead, or retrying, other data, and have it tried again with all its attempts. Returns it as
    it is then. The data and the headers that it had are kept in the decision's `before`.

    This service's copy alone changes: what the log has, and what other services got, stays as it was.
    data: JSON. seen: `seen_of` the data that was changed into it; empty: nobody says. Raises UsageError for what the
    event's class cannot decode, which names the field; for another key; for data that is the same; where somebody else
    has edited it since it was seen; and where the letter is none that can be tried again.
    """
    books = access.books

    def change(letter: DeadLetter) -> DeadLetter:
        if seen and seen != seen_of(letter.data):
            raise UsageError(
                f"dead letter {letter_id} is left as it is: somebody has edited it since it was looked at, and what "
                "they wrote would be lost; look at it again",
                id=letter_id,
            )
        return edited(access.service, letter, data)

    async def note(transaction: StepTransaction, letter: DeadLetter) -> None:
        before = before_of(letter) | {"envelope": msgspec.Raw(letter.envelope)} | _kept(letter.data)
        after = {"state": DeadLetterState.RELEASED.value} | _kept(data)
        await books.record(transaction, by, EDIT, letter.id, before, after)

    change(found_letter(letter_id, await books.letter(letter_id)))  # what is wrong with the data is said first
    return line_of(await books.decide(letter_id, DeadLetterState.RELEASED, note, change))


def edited(definition: ServiceDefinition, letter: DeadLetter, data: bytes) -> DeadLetter:
    """Return the letter with this data. Raises UsageError, see `edit`."""
    where = f"dead letter {letter.id}"
    try:
        envelope = decode_envelope(letter.envelope)
    except BadMessage as error:
        raise UsageError(
            f"{where} is no message whose data could be told ({error}): discard it", id=letter.id
        ) from error
    handlers = definition.handlers.get(envelope.type)
    if envelope.type in _OWN or handlers is None:
        why = "is Ensue's own" if envelope.type in _OWN else f"has no handler in {definition.name}"
        raise UsageError(f"{where} is of type {envelope.type}, which {why}: its data cannot be edited", id=letter.id)
    if len(data) > RECORD_BYTES_MAX:
        raise UsageError(
            f"{where}: the new data has {len(data)} bytes, expected at most {RECORD_BYTES_MAX}", id=letter.id
        )
    if data == letter.data:
        raise UsageError(f"{where} has this data already: ensue dead-letters retry tries it again", id=letter.id)
    spec = handlers[0].event
    try:
        event = spec.read(data)
    except BadMessage as error:
        raise UsageError(f"{where} is left as it is, since no handler could read it: {error}", id=letter.id) from error
    if unknown := unknown_fields(spec, event, data, _names_in(letter.data)):
        raise UsageError(
            f"{where} is left as it is: {spec.cls.__qualname__} ({spec.type}) has no field {', '.join(unknown)}, nor "
            f"has the letter; it has {', '.join(sorted(fields_of(spec.cls)))}",
            id=letter.id,
        )
    # What a stranger wrote has a key of its own, which no field need hold.
    key = spec.key_of(event) if letter.position else letter.key
    if key != letter.key:
        raise UsageError(
            f"{where} has the key {letter.key}, and the new data {spec.key_field}={key}: what has one key stays in "
            "order, so the key stays. Discard the letter, and publish an event for the other one",
            id=letter.id,
            expected=letter.key,
            found=key,
        )
    # The seal was of the data that came.
    unsealed = msgspec.structs.replace(envelope, signature="", crc="")
    return msgspec.structs.replace(letter, envelope=encode_envelope(unsealed), data=data)


def _names_in(data: bytes) -> Container[str]:
    """Of the fields that a letter came with: a newer sender's may be among them."""
    try:
        given = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return given if isinstance(given, dict) else ()


def _kept(data: bytes) -> dict[str, str]:
    """The very bytes, as JSON can hold them."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(data).decode()}
