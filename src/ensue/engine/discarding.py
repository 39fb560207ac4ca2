"""An operator gives a dead letter up. Who waits for a command's answer is told, in the same transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ensue.command import commands_of
from ensue.engine.answering import reply_topic
from ensue.engine.books import Books
from ensue.engine.dispatch import Dispatcher
from ensue.engine.letter import as_message
from ensue.engine.timers import put
from ensue.errors import BadMessage
from ensue.failure import Discarded
from ensue.message import DeadLetter, DeadLetterState, Message
from ensue.ports import StepTransaction

Also = Callable[[StepTransaction, DeadLetter], Awaitable[None]]


async def give_up(books: Books, dispatcher: Dispatcher, letter_id: str, also: Also | None = None) -> DeadLetter:
    """See `Books.decide`. It needs no handler: that may be gone, which is why the letter is given up, perhaps."""

    async def tell(transaction: StepTransaction, letter: DeadLetter) -> None:
        message = _answerable(letter, dispatcher.definition.name)
        if message is not None:
            await put(transaction, dispatcher.refusal(transaction, message, Discarded()))
        if also is not None:
            await also(transaction, letter)

    return await books.decide(letter_id, DeadLetterState.DISCARDED, tell)


def _answerable(letter: DeadLetter, service: str) -> Message | None:
    """The message of a letter, if somebody can be told of it."""
    if not letter.source or letter.partition.topic != commands_of(service):
        return None
    try:
        message = as_message(letter)
        return message if reply_topic(message.envelope) else None
    except BadMessage:
        return None  # that is why it was set aside: nobody knows who waits
