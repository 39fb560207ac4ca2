"""The tutorial's last part: the file that its blocks make, run as processes of their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
REGISTER = """
import asyncio, uuid, shop

async def main():
    async with shop.customers.running(work=False):
        await shop.register(uuid.UUID(int=1), 100_00)

asyncio.run(main())
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where shop.py is, and a customer with credit in its database."""
    page = (ROOT / "docs/tutorial.md").read_text()
    blocks = re.findall(r'^```python title="shop.py"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    (tmp_path / "shop.py").write_text("\n\n".join(blocks))
    subprocess.run([sys.executable, "-c", REGISTER], cwd=tmp_path, env=environment(), check=True, timeout=60)
    return tmp_path


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    return kept | {"PYTHONPATH": str(ROOT / "src")}


@contextmanager
def process(directory: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    with (directory / f"{command[0]}.log").open("a") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=directory, env=environment(), stdout=log, stderr=log, text=True
        )
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


async def answer(client: httpx.AsyncClient, method: str, path: str, wanted: str) -> str:
    """Ask until the service is up and its answer holds `wanted`."""
    give_up_at = time.monotonic() + 60
    found = "no answer"
    while time.monotonic() < give_up_at:
        try:
            found = (await client.request(method, path)).text
        except httpx.TransportError as error:
            found = repr(error)
        if wanted in found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} answers {found}, expected {wanted}")


async def test_an_order_over_http_is_opened_by_two_processes_one_of_them_killed(directory: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    web = process(directory, "uvicorn", "shop:app", "--port", port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        with web, process(directory, "ensue", "run", "shop:customers") as customers:
            await answer(client, "GET", "/openapi.json", "/orders")
            path = f"/orders?customer_id={'0' * 31}1&total=500"
            order = (await client.post(path)).json()
            await answer(client, "GET", f"/orders/{order}", "OPEN")

            customers.kill()
            customers.wait()
            order = (await client.post(path)).json()
            with process(directory, "ensue", "run", "shop:customers"):
                await answer(client, "GET", f"/orders/{order}", "OPEN")
