"""Answers to commands as records: a reply, or a failure by name and fields."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from ensue.command import SERVICE_NAME, CommandType
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType
from ensue.failure import Failure, read, written
from ensue.formats import of_msgspec
from ensue.message import REPLY

_REPLIES = re.compile(rf"(?:{SERVICE_NAME.pattern})\.replies")
_encode = msgspec.json.Encoder().encode
_read_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Reply(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The data of a record of type REPLY."""

    command: Annotated[str, msgspec.Meta(min_length=1, max_length=191)]
    """The message id of the command."""
    data: msgspec.Raw = msgspec.Raw(b"null")
    """The reply's JSON."""
    failure: str = ""
    """The failure's name; empty: there is none, and `data` is the reply."""
    fields: dict[str, msgspec.Raw] = {}
    """The failure's fields."""


read_reply = msgspec.json.Decoder(Reply).decode
write_reply = _encode


def replies_of(service: str) -> str:
    """The topic of the answers that a service is given."""
    return f"{service}.replies"


def is_of_replies(topic: str) -> bool:
    """Whether it is a topic of answers: nobody may have an answer written to another."""
    return _REPLIES.fullmatch(topic) is not None


def reply_type(service: str) -> EventType[Reply]:
    """What the answers to a service are on the wire."""
    return EventType(Reply, REPLY, of_msgspec(Reply), replies_of(service), "command", "reply", 1)


def refusal_of(command_id: str, failure: Failure) -> Reply:
    """Return the record's data for a failure. Raises UsageError for values that would not come back as they are."""
    name, fields = written(failure)
    return Reply(command_id, failure=name, fields=_read_raw(fields))


def reply_with(spec: CommandType[Any], command_id: str, answer: object) -> Reply:
    """Return the record's data for an answer: the declared reply, None where there is none to give, or a failure.

    Raises UsageError for anything else, and for values that would not come back as they are.
    """
    if isinstance(answer, Failure):
        return refusal_of(command_id, answer)
    if spec.reply is None:
        if answer is not None:
            raise UsageError(_unfit(spec, answer, "nothing"))
        return Reply(command_id)
    if type(answer) is not spec.reply.cls:
        raise UsageError(_unfit(spec, answer, f"a {spec.reply.cls.__qualname__}"))
    return Reply(command_id, msgspec.Raw(spec.reply.write(answer)))


def _unfit(spec: CommandType[Any], answer: object, expected: str) -> str:
    found = "nothing" if answer is None else f"a {type(answer).__qualname__}"
    if isinstance(answer, type):
        found = f"the class {answer.__qualname__}"
    return f"the handler of {spec.type} returned {found}, expected {expected} or a Failure, as the command declares it"


def outcome(spec: CommandType[Any], reply: Reply) -> Any:
    """Return what a command came to. Raises its Failure; BadMessage for a reply that does not fit its class."""
    if reply.failure:
        raise read(reply.failure, _encode(reply.fields))
    if spec.reply is None:
        return None
    try:
        return spec.reply.read(bytes(reply.data))
    except BadMessage as error:
        raise BadMessage(f"the command {reply.command} was done, but {error}", type=spec.type) from error
