"""`ensue outbox`: what a service has published, sent or not."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from ensue.cli.loading import load_service, opened
from ensue.cli.output import print_json, print_table, read_json, say
from ensue.codec import decode_envelope
from ensue.message import OutboxRecord

app = typer.Typer(help="What a service has published, sent or not.", no_args_is_help=True)

_DATA_SHOWN = 60


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

    async def look() -> tuple[list[OutboxRecord], int, int]:
        async with opened(definition) as access:
            store = access.store
            sent = await access.books.relay_position()
            head = max((await store.outbox_heads()).values(), default=0)
            return list(await store.outbox_after(max(after, sent) if unsent else after, limit)), sent, head

    records, sent, head = asyncio.run(look())
    if json:
        print_json({"sent": sent, "head": head, "records": [_summary(each, sent) for each in records]})
        return
    if not records:
        say("nothing unsent" if unsent else "no records")
        return
    columns = ("position#", "partition", "key", "type", "id", "time", "sent", "data")
    print_table("", columns, [_row(each, sent) for each in records])
    if records[-1].position < head:
        say(f"more: --after {records[-1].position}")


def _summary(record: OutboxRecord, sent: int) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.to_builtins(decode_envelope(record.envelope))
    return {
        "position": record.position,
        "previous": record.previous,
        "topic": record.topic,
        "partition": record.partition,
        "key": record.key,
        "sent": record.position <= sent,
        "headers": envelope,
        "data": read_json(record.data),
    }


def _row(record: OutboxRecord, sent: int) -> tuple[object, ...]:
    envelope = decode_envelope(record.envelope)
    data = record.data.decode(errors="replace")
    shown = data if len(data) <= _DATA_SHOWN else data[: _DATA_SHOWN - 3] + "..."
    where = f"{record.topic}/{record.partition}"
    known = "yes" if record.position <= sent else "not yet"
    return record.position, where, record.key, envelope.type, envelope.id, envelope.time, known, shown
