"""The services of the compose files run as the files say: by a user without rights, on a root that nobody writes to.

No container engine is here. The kernel's own namespaces give what `read_only`, `tmpfs`, `user`, `cap_drop` and
`no-new-privileges` ask for; the commands and the names of the settings are the file's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from servers import PostgresServer
from servers.base import free_port
from tests.conftest import required
from tests.deploy.documents import DEPLOY, documents

LIMIT_S = 60.0
SERVICES = ("orders", "customers", "order_history")
UNSHARE = ["unshare", "--mount", "sh", str(Path(__file__).with_name("read_only.sh"))]


def no_namespaces(directory: Path) -> str:
    """What is missing, in one line; empty: nothing."""
    if not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        return "read-only roots: unshare and setpriv are not there (util-linux)"
    directory.mkdir()
    tried = subprocess.run([*UNSHARE, str(directory), "true"], capture_output=True, text=True, timeout=30)
    said = tried.stderr.strip().splitlines()
    return f"read-only roots: {said[-1] if said else tried.returncode} (wants root)" if tried.returncode else ""


@contextmanager
def running(name: str, service: Any, secrets: dict[str, str], directory: Path) -> Iterator[str]:
    """One service of the file, as it is started there; yields its address, before anybody answers there."""
    port = free_port()
    program, *arguments = service["command"]
    assert program == "uvicorn"
    replaced = {"0.0.0.0": "127.0.0.1", "8000": str(port)}
    command = [sys.executable, "-m", program, *(replaced.get(each, each) for each in arguments)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENSUE_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, sys.path))
    for key, value in service["environment"].items():
        if key.endswith("_FILE"):
            file = directory / f"{name}-{Path(value).name}"
            file.write_text(secrets[Path(value).name])
            value = str(file)
        environment[key] = value
    temporary, log = directory / f"{name}-tmp", directory / f"{name}.log"
    temporary.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen([*UNSHARE, str(temporary), *command], env=environment, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        # uvicorn ends by the signal that it was given, when it has closed everything.
        assert process.wait(LIMIT_S) in (0, -15), log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def until(done: Callable[[], bool], what: str, directory: Path) -> None:
    limit = time.monotonic() + LIMIT_S
    while not done():
        logs = "".join(f"\n{each.name}: {each.read_text()[-2000:]}" for each in directory.glob("*.log"))
        assert time.monotonic() < limit, f"never {what}{logs}"
        time.sleep(0.05)


def ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_shop_runs_where_nothing_can_be_written(tmp_path: Path, postgres_server: PostgresServer) -> None:
    required(no_namespaces(tmp_path / "probe"))
    [project] = documents(DEPLOY / "compose.yaml")
    run = uuid4().hex[:8]
    secrets = {f"{each}_database": postgres_server.url(f"{each}_{run}") for each in SERVICES}
    secrets["broker"] = postgres_server.url(f"log_{run}")
    try:
        with ExitStack() as stack:
            at = {
                each: stack.enter_context(running(each, project["services"][each], secrets, tmp_path))
                for each in SERVICES
            }
            until(lambda: all(map(ready, at.values())), "ready", tmp_path)
            made = httpx.post(f"{at['customers']}/customers", json={"name": "Ann", "credit_limit": "10.00"})
            order = {"customer_id": made.json()["customer_id"], "total": "4.00"}
            placed = httpx.post(f"{at['orders']}/orders", json=order)
            assert placed.status_code == 201, placed.text
            path = f"{at['orders']}/orders/{placed.json()['order_id']}"
            until(lambda: httpx.get(path).json()["status"] == "OPEN", "OPEN", tmp_path)
            until(lambda: httpx.get(f"{at['order_history']}/orders/counts").json()["OPEN"] == 1, "seen", tmp_path)
    finally:
        for each in (*SERVICES, "log"):
            postgres_server.drop(f"{each}_{run}")
