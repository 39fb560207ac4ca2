"""A service whose sagas charge at a provider over HTTP, in a process of its own that dies where it is told to.

The provider does what it is asked for once for each key. It refuses every third charge, and loses its first answer to
every fifth, though it has done what was asked.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.faults.ring import QUICK

from ensue import EffectKey, Failure, Saga, Service
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime

REFUSED_EVERY, LOST_EVERY, UNDONE_EVERY = 3, 5, 4
LIMIT_S = 60.0


class ChargeRefused(Failure):
    number: int


@dataclass(frozen=True)
class Pay:
    number: int


class Provider:
    """effects: what it did, `charge/7` say, by key. calls: how often a key came."""

    def __init__(self) -> None:
        self.effects: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()

    def asked(self, path: str, key: str) -> int:
        """The status to answer with; 0: the answer is lost."""
        number = int(path.rpartition("/")[2])
        with self.lock:
            self.calls[key] += 1
            if path.startswith("charge/") and number % REFUSED_EVERY == 0:
                return 402
            if path.startswith("refund/") and key.removesuffix(":undo") not in self.effects:
                return 200  # refused after an attempt of which nobody knows: there is nothing to give back
            done = self.effects.setdefault(key, [])
            if path not in done:
                done.append(path)
            return 0 if number % LOST_EVERY == 0 and self.calls[key] == 1 else 200


@contextmanager
def provided() -> Iterator[tuple[Provider, str]]:
    """A provider and its URL."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = provider.asked(self.path.lstrip("/"), self.headers["Idempotency-Key"])
            if status:
                self.send_response(status)
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield provider, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _post(url: str, key: str) -> int:
    request = urllib.request.Request(url, method="POST", headers={"Idempotency-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def shop_of(provider: str) -> tuple[Service, Any]:
    shop = Service("shop", outside_max=4)

    @shop.outside
    async def charge(number: int, key: EffectKey) -> str:
        if await asyncio.to_thread(_post, f"{provider}/charge/{number}", key) == 402:
            raise ChargeRefused(number=number)
        return str(key)

    @shop.outside
    async def refund(number: int, key: EffectKey) -> None:
        await asyncio.to_thread(_post, f"{provider}/refund/{number}", key)

    @shop.saga
    async def pay(saga: Saga, new: Pay) -> str:
        number = new.number
        key: str = await saga.outside(charge, number, undo=refund, attempts=9, limit=timedelta(seconds=1))
        if number % UNDONE_EVERY == 0:
            raise ChargeRefused(number=number)
        return key

    return shop, pay


_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.outside_child"])


def begun(directory: Path, provider: str, total: int, fault: str = "") -> Any:
    """A process that starts `total` sagas, whichever lives or has ended already, and ends when all have."""
    process = _children.Process(target=_run, args=(directory, provider, total, fault))
    process.start()
    return process


def ended(process: Any) -> int:
    """Its exit code."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {LIMIT_S} s")
    return int(process.exitcode)


def _run(directory: Path, provider: str, total: int, fault: str) -> None:
    asyncio.run(_live(directory, provider, total, fault))


async def _live(directory: Path, provider: str, total: int, fault: str) -> None:
    shop, pay = shop_of(provider)
    runtime = Runtime(
        shop, make_store(f"sqlite:///{directory}/shop.db", "shop"),
        EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
        Settings(database="", broker="", partitions=2, engine=QUICK), faults=Faults(fault),
    )  # fmt: skip
    async with shop.running(runtime):
        async with shop.step() as step:  # more at once than are called at once, so that some begin late
            for number in range(1, total + 1):
                step.start(pay, Pay(number), id=number)
        for number in range(1, total + 1):
            end = await shop.ended(pay, number, timeout=LIMIT_S)
            refused = number % REFUSED_EVERY == 0 or number % UNDONE_EVERY == 0
            assert end.status == ("UNDONE" if refused else "COMPLETED"), (number, end)
