"""The console beside the demo's services, for somebody who watches: a process of its own, which no chaos touches."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shop.demo.services import READY_S, STOP_S
from shop.demo.supervisor import ServiceFailed

_LINK = re.compile(r"http://\S+")


@asynccontextmanager
async def console_beside(directory: Path, environment: Mapping[str, str], names: Sequence[str]) -> AsyncIterator[str]:
    """Start the console of these services; yield the link that lets a browser in, which is good once.

    Raises ServiceFailed when it does not begin to answer.
    """
    log = directory / "console.log"
    targets = [f"shop.{name}:{name}" for name in names]
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ensue", "console", *targets, "--http", "127.0.0.1:0",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )  # fmt: skip
    try:
        assert process.stdout is not None
        try:
            said = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode(errors="replace")
        except TimeoutError:
            said = ""
        link = _LINK.search(said)
        if link is None:
            raise ServiceFailed(
                f"the console did not start.\nThe end of {log}:\n{log.read_text(errors='replace')[-2000:]}"
            )
        yield link[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
