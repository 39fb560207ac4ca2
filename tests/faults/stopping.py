"""A service whose handler does not come to its end, in one of several ways, and the ways in which it is run.

python tests/faults/stopping.py      runs it in `async with zoo.running():` until SIGTERM
uvicorn tests.faults.stopping:app    in a web process
ensue run tests.faults.stopping:zoo
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import Column, Integer, MetaData, Table, select

from ensue import Event, Service, Step
from ensue.integrations.fastapi import install

tables = MetaData()
places = Table("place", tables, Column("id", Integer, primary_key=True))


class Fed(Event, topic="stops", key="animal"):
    animal: str


zoo = Service("zoo", tables=tables)
app = FastAPI()
install(app, zoo)


def begun() -> None:
    """Tell the test, which waits for it."""
    Path(os.environ["ENSUE_HOME"], "begun").write_text("yes")


async def sleeps(step: Step) -> None:
    await asyncio.sleep(3600)


async def spins(step: Step) -> None:
    while True:  # noqa: ASYNC110  # a loop that works and lets others in
        await asyncio.sleep(0)


async def waits_for_a_row(step: Step) -> None:
    await step.session.execute(select(places).where(places.c.id == 1).with_for_update())


async def is_deaf(step: Step) -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def blocks(step: Step) -> None:
    time.sleep(3600)  # noqa: ASYNC251  # the mistake


KINDS: Mapping[str, Callable[[Step], Awaitable[None]]] = {
    each.__name__: each for each in (sleeps, spins, waits_for_a_row, is_deaf, blocks)
}
_kind = os.environ.get("KIND", "sleeps")

if _kind in KINDS:

    @zoo.on
    async def feed(event: Fed, step: Step) -> None:
        begun()
        await KINDS[_kind](step)

else:

    @zoo.on
    def feed_in_thread(event: Fed, step: Step) -> None:
        begun()
        time.sleep(3600)


async def main() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with zoo.running():
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
