"""One process of one side: `python -m benchmarks.peers.program PEER ROLE`, driven by lines of JSON on its stdin.

Roles: `describe` prints what the side says of itself; `prepare` does it and ends; `consume` and `relay` say that they
are ready, begin at a line `{}` and work until stdin ends; `produce` answers each line: `{"fill": n, "first": i}`,
`{"fast": seconds, "first": i}` or `{"paced": per_second, "count": n, "start": monotonic seconds, "first": i}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

from benchmarks.peers.ground import Ground, order, orders
from benchmarks.peers.peer import Producer
from benchmarks.peers.sides import described, load

_FILL_BATCH = 500
#: What libraries print (FastStream logs to stdout) goes to stderr: in the pipe nobody would read it, until it is full.
_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


async def run(name: str, role: str, ground: Ground) -> None:
    peer = load(name)
    if role == "prepare":
        await peer.prepare(ground)
    elif role == "produce":
        async with peer.producing(ground) as producer:
            _say({"ready": True})
            while command := await _next_line():
                _say(await _produce(producer, command))
    else:
        _say({"ready": True})
        if await _next_line() is None:
            return
        work = asyncio.ensure_future(getattr(peer, role)(ground))
        end = asyncio.ensure_future(_next_line())
        await asyncio.wait([work, end], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()  # it failed, or has nothing to do
            await end
        # Nothing of value is lost: the measure is over, and the databases with it. Some peers take seconds to stop.
        os._exit(0)


async def _produce(producer: Producer, command: Mapping[str, Any]) -> dict[str, Any]:
    first = command["first"]
    if count := command.get("fill"):
        for start in range(first, first + count, _FILL_BATCH):
            await producer.fill(list(orders(start, min(_FILL_BATCH, first + count - start))))
        return {"count": count}
    stamps: list[float] = []

    def committing() -> None:
        stamps.append(time.monotonic())

    if seconds := command.get("fast"):
        number = first
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            await producer.place(order(number), committing)
            number += 1
        return {"count": number - first, "began": began, "ended": time.monotonic()}
    for number in range(command["count"]):
        due = command["start"] + number / command["paced"]
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await producer.place(order(first + number), committing)
    return {"count": command["count"], "stamps": stamps}


async def _next_line() -> dict[str, Any] | None:
    """None: stdin has ended."""
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return cast(dict[str, Any], json.loads(line)) if line else None


def _say(message: Mapping[str, Any]) -> None:
    _answers.write(json.dumps(message) + "\n")
    _answers.flush()


def main() -> None:
    _, name, role, ground = sys.argv
    if role == "describe":
        _say(dataclasses.asdict(described(name)))
        return
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(name, role, Ground(**json.loads(ground))))


if __name__ == "__main__":
    main()
