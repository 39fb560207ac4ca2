"""The answer to a command: written with the effects of its handler, or, where that raised a Failure, without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid5

from ensue.carried import checked_key
from ensue.engine.limits import HandlerLimit
from ensue.errors import BadMessage
from ensue.failure import Failure
from ensue.handler import Handler
from ensue.message import REPLY, REPLY_KEY, REPLY_TO, SAGA, Envelope, Message
from ensue.reply import Reply, is_of_replies, refusal_of, replies_of, reply_with, write_reply
from ensue.saga.wake import Answers
from ensue.step import SessionAsked, Step

#: Of the ids of sagas that strangers' commands start.
_STRANGERS = UUID("5e3c1a52-0f0e-5b7e-9f43-2f6d5a0d7c11")


async def answered(handler: Handler, result: Any, step: Step, limit: HandlerLimit, run: Callable[..., Any]) -> Any:
    """Add the answer that a command's handler returned to what its step publishes; return the entity that came with it.

    run: as for `HandlerLimit.finished`. Raises UsageError for an answer that the command does not declare.
    """
    command, message = handler.command, step.message
    assert command is not None
    assert message is not None
    # An object of the reply's own class is the answer itself, as most are, and nothing that is still to be awaited.
    if command.reply is None or type(result) is not command.reply.cls or hasattr(result, "__await__"):
        result = await limit.finished(handler, result, run)
    if step.outgoing.asked:
        raise SessionAsked  # again: the handler has caught it, and its answer is of no worth
    entity, answer = answer_in(handler, result)
    _send(step, reply_with(command, message.id, answer))
    return entity


async def returned(handler: Handler, result: Any, step: Step, limit: HandlerLimit, run: Callable[..., Any]) -> Any:
    """As `answered`, of a local step of a saga: what it returned is kept for the saga."""
    if handler.entity is None or type(result) is not handler.entity or hasattr(result, "__await__"):  # as above
        result = await limit.finished(handler, result, run)
    if step.outgoing.asked:
        raise SessionAsked  # as above
    assert step.message is not None
    entity, value = (None, result) if handler.entity is None else _pair(handler.entity, result)
    step.outgoing.results[step.message.id] = value
    return entity


async def started(handler: Handler, result: Any, step: Step, limit: HandlerLimit, run: Callable[..., Any]) -> Any:
    """As `answered`, of a command that starts a saga: its end is the answer."""
    await limit.finished(handler, result, run)
    message = step.message
    assert message is not None
    assert handler.starts is not None
    answers = Answers(message.id, reply_topic(message.envelope), _reply_key(message))
    # A stranger's id is its own among those of its source only, and may be any text.
    own = message.id if message.position else str(uuid5(_STRANGERS, f"{message.source}\n{message.id}"))
    key, data = handler.starts(message.data, answers, own)
    step.emit(replies_of(step.outgoing.service), SAGA, key, checked_key(SAGA, key), data)


def _pair(entity: type, result: Any) -> tuple[Any, Any]:
    if type(result) is tuple and len(result) == 2 and isinstance(result[0], entity):
        return result
    return (result, None) if isinstance(result, entity) else (None, result)


def refuse(step: Step, failure: Failure) -> None:
    """Answer the step's command with a failure. Raises UsageError for one that cannot travel."""
    assert step.message is not None
    _send(step, refusal_of(step.message.id, failure))


def reply_topic(envelope: Envelope) -> str:
    """The topic where an answer is wanted; empty: none is. Raises BadMessage for what is none of answers."""
    topic = (envelope.extensions or {}).get(REPLY_TO, "")
    if topic and not is_of_replies(topic):
        raise BadMessage(f"{envelope.type}: {REPLY_TO} is {topic[:100]!a}, expected a topic `<service>.replies`")
    return topic


def _send(step: Step, reply: Reply) -> None:
    message = step.message
    assert message is not None
    if topic := reply_topic(message.envelope):
        key = _reply_key(message)
        step.emit(topic, REPLY, key, checked_key(REPLY, key), write_reply(reply))


def _reply_key(message: Message) -> str:
    return (message.envelope.extensions or {}).get(REPLY_KEY) or message.id


def answer_in(handler: Handler, result: Any) -> tuple[Any, Any]:
    """The entity and the answer in what a handler returned."""
    entity, command = handler.entity, handler.command
    assert command is not None
    if entity is not None:
        if type(result) is tuple and len(result) == 2 and isinstance(result[0], entity):
            return result
        if command.reply is None and isinstance(result, entity):
            return result, None
    return None, result
