"""Named points at which a test can kill the process, to show that no place is a bad place to die.

A point costs one call and one comparison a batch. Only code can choose one, no variable of the environment:
`python -m ensue.testing.faulty relay.appended:3 program.py` is killed with SIGKILL the third time it passes that point.
Source of the idea: fail points (FreeBSD fail(9); TiKV fail-rs).
"""

from __future__ import annotations

import os
import signal
from typing import Final, Self

from ensue.errors import UsageError

POINTS: Final[dict[str, str]] = {
    "step.begun": "an HTTP or other outside step has its transaction, nothing is done yet",
    "step.handled": "its code has run, the outbox is not written",
    "step.outbox_written": "state and outbox are written, not committed",
    "step.committed": "committed, the caller does not know yet",
    "relay.read": "records are read from the outbox, not appended",
    "relay.appended": "appended to the log, the relay's position is not saved",
    "relay.saved": "the relay's position is saved",
    "relay.ticked": "ticks are appended",
    "relay.resend_read": "records to send again are read, not appended",
    "relay.resent": "one batch was sent again",
    "consumer.read": "a batch is read from the log, nothing is begun",
    "consumer.suspected": "a partition is suspect, and what is attempted now is written down",
    "consumer.begun": "the batch's transaction is open, no handler has run",
    "consumer.handled": "the handlers have run, nothing of Ensue's is written",
    "consumer.outbox_written": "outgoing events are written, the checkpoint is not",
    "consumer.checkpoint_written": "effects, outbox and checkpoint are written, not committed",
    "consumer.committed": "committed, memory not updated",
    "consumer.asked": "a subscriber with a gap has asked for the records again",
    "command.declined": "a command's handler raised a failure, which is written with the checkpoint, not committed",
    "letter.aside": "a failed message is set aside, not committed",
    "letter.handled": "a dead letter was tried again with success, not committed",
    "letter.committed": "the retried dead letter is committed",
    "lease.beaten": "a heartbeat is committed",
    "retention.pruned": "one chunk was pruned",
    "timers.read": "events that are due are read, not moved",
    "timers.moved": "they are in the outbox and no timers any more, not committed",
    "timers.committed": "committed",
    "recurring.armed": "at a start the first runs of recurring steps are armed, not committed",
    "recurring.committed": "committed",
    "outside.late": "an outside effect that begins late has its timer set anew, not committed",
    "outside.begun": "an outside effect is attempted, its function is not called",
    "outside.called": "its function has returned, what came of it is not written",
    "outside.written": "what came of it is written, not committed",
    "outside.committed": "committed",
    "upgrade.announced": "older processes are told that they must not go on, nothing is changed",
    "upgrade.made": "what a newer schema adds is made, but for its rows",
    "upgrade.done": "its rows and its number are written",
}


class Faults:
    """Kills this process at one named point; does nothing at all otherwise.

    spec: "" (never), "name" or "name:n". Raises UsageError for a name that no code passes.
    """

    __slots__ = ("_left", "_name")
    _spec_of_this_process = ""

    def __init__(self, spec: str = "") -> None:
        name, _, count = spec.partition(":")
        if name and name not in POINTS:
            raise UsageError(f"no fault point {name!r}; there are: {', '.join(POINTS)}")
        if count and not count.isdigit():
            raise UsageError(f"fault point {spec!r}: expected name or name:number")
        self._name = name
        self._left = int(count or 1)

    @classmethod
    def die_in_this_process(cls, spec: str) -> None:
        """For `ensue.testing.faulty`: each service that starts in this process from now on has this point."""
        cls(spec)  # refuses a name that does not exist
        Faults._spec_of_this_process = spec

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(cls._spec_of_this_process)

    def point(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
