"""`ensue outbox`: what a service has published, sent or not."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from ensue.cli.loading import load_service, opened
from ensue.cli.output import print_json, print_table, read_json, say
from ensue.codec import decode_envelope
from ensue.message import OutboxRecord

app = typer.Typer(help="What a service has published, sent or not.", no_args_is_help=True)

_DATA_SHOWN = 60


class _Sent(NamedTuple):
    """through: up to this position all is sent. held: by partition the first record that the broker does not take."""

    through: int
    held: dict[tuple[str, int], int]

    def of(self, record: OutboxRecord) -> str:
        if record.position <= self.through:
            return "yes"
        first = self.held.get((record.topic, record.partition))
        return "not yet" if first is None or record.position < first else "held"


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

    async def look() -> tuple[list[OutboxRecord], _Sent, int]:
        async with opened(definition) as access:
            store = access.store
            held = {(each.topic, each.partition): each.position for each in await access.books.held()}
            sent = _Sent(await access.books.relay_position(), held)
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


def _summary(record: OutboxRecord, sent: _Sent) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.to_builtins(decode_envelope(record.envelope))
    return {
        "position": record.position,
        "previous": record.previous,
        "topic": record.topic,
        "partition": record.partition,
        "key": record.key,
        "sent": sent.of(record) == "yes",
        "held": sent.of(record) == "held",
        "headers": envelope,
        "data": read_json(record.data),
    }


def _row(record: OutboxRecord, sent: _Sent) -> tuple[object, ...]:
    envelope = decode_envelope(record.envelope)
    data = record.data.decode(errors="replace")
    shown = data if len(data) <= _DATA_SHOWN else data[: _DATA_SHOWN - 3] + "..."
    where = f"{record.topic}/{record.partition}"
    return record.position, where, record.key, envelope.type, envelope.id, envelope.time, sent.of(record), shown
