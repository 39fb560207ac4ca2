"""That all workers of a service work with one log: two environments on one database would share the events out.

A log is known by a name that lies in it, so that two logs differ however they are reached. A URL would not do: one log
has many, and each environment may call its own broker `nats`. The name is that of a topic without records, which no
retention takes away. A log that was lost or made anew gets another name. See docs/adr/0033.
"""

from __future__ import annotations

import asyncio
import secrets

from ensue.engine.leases import disagreeing
from ensue.errors import BrokerUnavailable, OtherLog, RetryableError, UsageError
from ensue.message import LeaseTable, Told
from ensue.ports import Broker
from ensue.texts import logger

log = logger("ensue.worker")

#: Before the name. Topics that begin with `ensue.` are Ensue's own.
PREFIX = "ensue.log."


async def log_name(broker: Broker) -> str:
    """Return the name of the log, which gets one if it has none; empty when this process may not give it one.

    Of processes that name a new log at once each may see its own name first; looked at again, all see the same one.
    """
    found = await _names(broker)
    if not found:
        topic = f"{PREFIX}{secrets.token_hex(4)}"
        refused: Exception | None = None
        try:
            await broker.ensure_topic(topic, 1)
        except (BrokerUnavailable, UsageError) as error:
            refused = error  # a broker that answers the next question has refused this one
        found = await _names(broker)
        if not found:
            log.warning(
                "the log has no name, by which processes on another one would be noticed, and this process cannot give "
                "it one: make a topic like %s, of one partition (%s)", topic, refused or "it is not listed",
            )  # fmt: skip
            return ""
    return min(found).removeprefix(PREFIX)


async def _names(broker: Broker) -> list[str]:
    return [topic for topic in await broker.topics() if topic.startswith(PREFIX)]


class SameLog:
    """The log of one worker, and whether the others have the same. name: of the log; empty: not known.

    others: living workers that were seen with another one last.
    """

    def __init__(self, service: str, worker: str, broker: Broker, ttl_s: float) -> None:
        self.name = ""
        self.others: tuple[str, ...] = ()
        self._knocking = ""
        self._service = service
        self._worker = worker
        self._broker = broker
        self._ttl_s = ttl_s

    async def look(self) -> None:
        """Raises BrokerUnavailable."""
        self.name = await log_name(self._broker)

    def agrees(self, table: LeaseTable) -> bool:
        """Whether nobody has another log, and nobody with another one wanted to come in just now."""
        told, last = Told(log=self.name), table.stranger
        self.others = disagreeing(table, self._worker, told)
        knocks = last is not None and last.worker != self._worker and last.seen_s <= self._ttl_s
        self._knocking = last.worker if last is not None and knocks and told.differs(Told(log=last.log)) else ""
        return not (self.others or self._knocking)

    async def changed(self) -> bool:
        """Look again, and return whether the log has another name now, as after a loss."""
        before = self.name
        try:
            async with asyncio.timeout(self._ttl_s):
                await self.look()
        except (RetryableError, TimeoutError) as error:
            log.warning("%s: cannot see whether its log is the one that it was: %s", self._worker, error)
        return self.name != before

    def complain(self) -> None:
        """Of the others' log: this worker goes on, since it was there before."""
        log.error(
            "%s: %s has another log, and this worker goes on with its own (%s): are two environments on one database?",
            self._worker, ", ".join(self.others) or self._knocking, self.name,
        )  # fmt: skip

    def error(self) -> OtherLog:
        """Why this worker cannot come in."""
        return OtherLog(
            f"service {self._service}: {', '.join(self.others)} works on this database with another log than this "
            f"process ({self.name}): each would send and read a part of the events in its own. If this process belongs "
            "to another environment, give it that one's database; else the ENSUE_BROKER of the others. To move to "
            "another broker, stop all processes of the service first",
            workers=self.others,
            log=self.name,
        )
