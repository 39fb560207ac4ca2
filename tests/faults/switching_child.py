"""A process that counts up rows of PostgreSQL and publishes each new value, in bursts, until SIGTERM.

python -m tests.faults.switching_child DATABASE BROKER
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from sqlalchemy import Column, Integer, MetaData, String, Table, select, update
from sqlalchemy.dialects.postgresql import insert

from ensue import EngineConfig, Event, Service, Step

KEYS = tuple(f"key-{number}" for number in range(5))
ENGINE = EngineConfig(lease_ttl_s=0.6, relay_save_interval_s=0.05, poll_interval_s=0.2, tick_first_s=0.2)
PARTITIONS = 2
#: Between two bursts the outbox is sent, and a switch may take place.
BURST, PAUSE_S = 20, 0.5

tables = MetaData()
values = Table("value", tables, Column("name", String(20), primary_key=True), Column("value", Integer, nullable=False))


class Counted(Event, topic="switched-counts", key="name"):
    name: str
    value: int


def counter(database: str, broker: str) -> Service:
    return Service(
        "counter", publishes=[Counted], tables=tables, database=database, broker=broker, partitions=PARTITIONS,
        engine=ENGINE,
    )  # fmt: skip


async def count_up(step: Step, name: str) -> None:
    """The row's lock puts the events of a name in the order of its values, whichever process publishes them."""
    await step.session.execute(insert(values).values(name=name, value=0).on_conflict_do_nothing())
    [before] = await step.session.scalars(select(values.c.value).where(values.c.name == name).with_for_update())
    await step.session.execute(update(values).where(values.c.name == name).values(value=before + 1))
    step.publish(Counted(name=name, value=before + 1))


async def main(database: str, broker: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    service = counter(database, broker)
    async with service.running() as runtime:
        await runtime.ready()
        print("ready", flush=True)
        while not ended.is_set():
            for number in range(BURST):
                async with service.step() as step:
                    await count_up(step, KEYS[number % len(KEYS)])
            try:
                async with asyncio.timeout(PAUSE_S):
                    await ended.wait()
            except TimeoutError:
                continue


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(*sys.argv[1:]))
