"""`ensue outbox`: what a service has published, sent or not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from ensue.cli.loading import load_service
from ensue.cli.output import print_json, print_table, say
from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.message import HeldPartition, OutboxRecord
from ensue.operations.opening import opened
from ensue.operations.readable import read_json

app = typer.Typer(help="What a service has published, sent or not.", no_args_is_help=True)

_DATA_SHOWN = 60


class Sent(NamedTuple):
    """through: up to this position all is sent. held: by partition the first record that the broker does not take."""

    through: int
    held: Mapping[tuple[str, int], HeldPartition]

    @classmethod
    async def of(cls, books: Books) -> Sent:
        held = {(each.topic, each.partition): each for each in await books.held()}
        return cls(await books.relay_position(), held)

    def has(self, record: OutboxRecord) -> bool:
        return record.position <= self.through

    def holds(self, record: OutboxRecord) -> HeldPartition | None:
        """What holds it back; None: nothing does."""
        first = None if self.has(record) else self.held.get((record.topic, record.partition))
        return None if first is None or record.position < first.position else first


@app.command("list")
def list_(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="MODULE:NAME")],
    after: Annotated[int, typer.Option(min=0, metavar="POSITION", help="Begin after this position")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    unsent: Annotated[bool, typer.Option("--unsent", help="Only what is not known to be in the log")] = False,
    json: Annotated[bool, typer.Option("--json", help="For a machine")] = False,
) -> None:
    """List records in the order in which they are sent. Old ones are gone after the retention."""
    definition = load_service(service)

    async def look() -> tuple[list[OutboxRecord], Sent, int]:
        async with opened(definition) as access:
            store, sent = access.store, await Sent.of(access.books)
            head = max((await store.outbox_heads()).values(), default=0)
            return list(await store.outbox_after(max(after, sent.through) if unsent else after, limit)), sent, head

    records, sent, head = asyncio.run(look())
    if json:
        print_json({"sent": sent.through, "head": head, "records": [_summary(each, sent) for each in records]})
        return
    if not records:
        say("nothing unsent" if unsent else "no records")
        return
    columns = ("position#", "partition", "key", "type", "id", "time", "sent", "data")
    print_table("", columns, [_row(each, sent) for each in records])
    if records[-1].position < head:
        say(f"more: --after {records[-1].position}")


def _summary(record: OutboxRecord, sent: Sent) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.to_builtins(decode_envelope(record.envelope))
    return {
        "position": record.position,
        "previous": record.previous,
        "topic": record.topic,
        "partition": record.partition,
        "key": record.key,
        "sent": sent.has(record),
        "held": sent.holds(record) is not None,
        "headers": envelope,
        "data": read_json(record.data),
    }


def _row(record: OutboxRecord, sent: Sent) -> tuple[object, ...]:
    envelope = decode_envelope(record.envelope)
    data = record.data.decode(errors="replace")
    shown = data if len(data) <= _DATA_SHOWN else data[: _DATA_SHOWN - 3] + "..."
    where = f"{record.topic}/{record.partition}"
    state = "yes" if sent.has(record) else "held" if sent.holds(record) else "not yet"
    return record.position, where, record.key, envelope.type, envelope.id, envelope.time, state, shown
