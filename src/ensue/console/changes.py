"""Telling a browser that something has changed, by server-sent events. They say that alone: the browser asks for the
page again, with all that this checks and masks."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import msgspec

from ensue.engine.worker import is_gone
from ensue.operations.opening import Opened

#: How often it is looked, seconds.
LOOK_S: Final = 1.0
#: How long one stream lasts. A server that is told to stop waits for open answers, and who was let in is asked for anew
#: with each; the browser comes back by itself.
STREAM_S: Final = 10.0
_COME_BACK_MS: Final = 300
#: Of the decisions, which are never pruned and so not counted: one that was begun first may commit last.
_LAST: Final = 3

Look = Callable[[], Awaitable[str]]


async def stream(look: Look, seen: str, look_s: float = LOOK_S) -> AsyncGenerator[bytes, None]:
    """Events `changed` for a while. look: returns another text when something is otherwise. seen: the last one that
    the browser knows of; empty: none."""
    yield f"retry: {_COME_BACK_MS}\n\n".encode()
    loop = asyncio.get_running_loop()
    until = loop.time() + STREAM_S
    while True:
        found = hashlib.blake2s((await look()).encode("utf-8", "replace"), digest_size=12).hexdigest()
        if found != seen:
            seen = found
            yield f"id: {found}\nevent: changed\ndata: \n\n".encode()
        else:
            yield b":\n\n"  # whoever is gone is noticed by that
        if loop.time() + look_s > until:
            return
        await asyncio.sleep(look_s)


async def standing(access: Opened) -> str:
    """A text that is another one as soon as the screens of a service would show something else. By cheap questions to
    its database; the log is not asked."""
    store, books = access.store, access.books
    table = await books.leases()
    checkpoints = await books.checkpoints()
    able = store.capabilities.transactions and store.capabilities.publishes
    said = [
        {state.value: count for state, count in (await books.letter_totals()).items()},
        [(each.place, at.offset, at.revision) for each, at in sorted(checkpoints.items())],
        sorted((topic, number, at) for (topic, number), at in (await store.outbox_heads()).items()),
        await books.relay_position(),
        [(each, is_gone(each)) for each in table.workers],
        [(each.name, each.owner) for each in table.leases],
        table.paused,
        [each.id for each in await books.last_decisions(_LAST)],
        sorted((*each[:2], each[2].value, count) for each, count in (await books.saga_groups()).items())
        if able
        else [],
    ]
    return msgspec.json.encode(said).decode()
