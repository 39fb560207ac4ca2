"""One dead letter: what it is made of, and the message that it is again."""

from __future__ import annotations

import dataclasses

from ensue.codec import decode_envelope, encode_envelope
from ensue.engine.failed import StepFailed
from ensue.engine.reason import message_of, trace_of
from ensue.errors import BadMessage
from ensue.message import DeadLetter, DeadLetterState, Flaw, Garbage, Message, Partition


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why an attempt failed. Made before the transaction that keeps it, which holds locks.

    handler: empty when none is known. message: what the error says. trace: the calls that led to it, may be empty.
    """

    error: BaseException
    handler: str
    message: str
    trace: str

    @classmethod
    def of(cls, failure: StepFailed, *, values: bool) -> Reason:
        """values: as EngineConfig.show_values has it."""
        error = failure.error
        return cls(error, failure.handler, message_of(error, values=values), trace_of(error, values=values))

    @property
    def text(self) -> str:
        """As a dead letter keeps it: handler and message, then the calls."""
        said = f"handler {self.handler}: {self.message}" if self.handler else self.message
        return f"{said}\n{self.trace}" if self.trace else said


def letter_of(partition: Partition, message: Message, state: DeadLetterState, now: float) -> DeadLetter:
    return DeadLetter(
        partition, message.offset, message.source, message.position, message.previous, message.key,
        encode_envelope(message.envelope), message.data, state, parked_at=now,
    )  # fmt: skip


def letter_of_garbage(partition: Partition, record: Garbage, now: float) -> DeadLetter:
    refused = record.flaw is Flaw.REFUSED
    state, kind = (DeadLetterState.REFUSED, "Unsigned") if refused else (DeadLetterState.DEAD, "Garbage")
    return DeadLetter(
        partition, record.offset, "", 0, 0, record.key, b"", record.data, state,
        error_type=kind, error=record.reason, parked_at=now,
    )  # fmt: skip


def as_message(letter: DeadLetter) -> Message:
    """Return the message that it is. Raises BadMessage for one whose headers nobody can read, and garbage."""
    return Message(
        letter.partition.topic, letter.partition.number, letter.offset, letter.key, letter.source,
        letter.position, letter.previous, decode_envelope(letter.envelope), letter.data,
    )  # fmt: skip


def readable(letter: DeadLetter) -> Message | None:
    """As `as_message`; None: nobody can read it."""
    try:
        return as_message(letter)
    except BadMessage:
        return None  # which is why it failed


def type_and_id(letter: DeadLetter) -> tuple[str, str]:
    try:
        envelope = decode_envelope(letter.envelope)
    except BadMessage:
        return "?", "?"
    return envelope.type, envelope.id
