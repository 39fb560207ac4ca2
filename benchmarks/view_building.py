"""How far a version of a view has come, for whoever measures how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ensue import View
from ensue.adapters import make_broker
from ensue.engine.books import Books
from ensue.engine.view_versions import Versions, bounds_of
from ensue.views.progress import progress

_ENOUGH_S = 600.0


@asynccontextmanager
async def versions_of(view: View) -> AsyncIterator[tuple[Versions, int]]:
    """What there is to know of its versions, and how many records the log has."""
    base = view.make_base()
    await base.open()
    try:
        versions = view.versions(base)
        await versions.book.prepare()
        log = make_broker(view.settings().broker)
        await log.open()
        try:
            yield versions, (await versions.progress(1, log)).total
        finally:
            await log.close()
    finally:
        await base.close()


async def read_to_the_end(versions: Versions, view: View, version: int) -> None:
    """Wait until a version has read the log to its end."""
    log, store = make_broker(view.settings().broker), versions.store_at(versions.place_of(version))
    until = time.monotonic() + _ENOUGH_S
    await log.open()
    try:
        ends = await bounds_of(log, versions.wanted)
        while not await store.exists():  # nobody has begun
            await _pause(until, f"{view.name} has no store")
        await store.open()  # once: to open one for each look would be a good part of what is measured
        books = Books(store, versions.subscription(version))
        try:
            while True:
                found = await books.checkpoints()
                at = {(each.topic, each.number): found[each] for each in found}
                seen = progress(at, ends, versions.wanted, time.monotonic())
                if seen.total and seen.done >= seen.total:
                    return
                await _pause(until, f"{view.name}: {seen.done} of {seen.total}")
        finally:
            await store.close()
    finally:
        await log.close()


async def _pause(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise TimeoutError(f"{what} after {_ENOUGH_S:g} s")
    await asyncio.sleep(0.05)
