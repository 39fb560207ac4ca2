"""Answers to what a service has called: kept for whoever waits, in whichever process that is.

They come through the topic `<service>.replies`, as messages do: each is an entity step that keeps one row, so that a
batch of them is one load and one insert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.handler import ENTITY, EVENT, Handler
from ensue.ports import StepTransaction
from ensue.reply import Reply, reply_type, write_reply
from ensue.tables import REPLIES


class KeptReplies:
    """A repository of answers, by the id of their command. The first one counts, and never changes."""

    async def load(self, transaction: StepTransaction, ids: Sequence[Any]) -> dict[Any, Reply]:
        return {row[0]: Reply(row[0]) for row in await transaction.load_rows(REPLIES, ids)}

    async def save(
        self, transaction: StepTransaction, changed: Mapping[Any, Reply], created: Mapping[Any, Reply]
    ) -> None:
        if created:
            rows = [(name, write_reply(reply), transaction.now) for name, reply in created.items()]
            await transaction.insert_rows(REPLIES, rows)


def keeps_answers(service: str) -> Handler:
    """What a service does with the answers that it is given."""
    return Handler(
        "keep_answer",
        reply_type(service),
        _keep,
        (ENTITY, EVENT),
        False,
        Reply,
        KeptReplies(),
        "command",
        optional=True,
    )


def _keep(kept: Reply | None, reply: Reply) -> Reply | None:
    return reply if kept is None else None
