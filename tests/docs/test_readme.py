"""The program in README.md is a file of the examples, and it does what the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples/two_services.py"
#: What a client does, in the process of the program.
CLIENT = """
import asyncio, httpx, uuid
from two_services import app

async def main():
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        placed = await client.post("/orders", params={"customer_id": str(uuid.uuid4()), "total": 30_00})
        assert placed.status_code == 201, placed.text
        while (await client.get(f"/orders/{placed.json()}")).json() != "OPEN":
            await asyncio.sleep(0.01)
    print(placed.json())

asyncio.run(main())
"""


def run_program(directory: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}:{PROGRAM.parent}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLIENT],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_readme_is_the_file() -> None:
    assert f"```python\n{PROGRAM.read_text()}```\n" in (ROOT / "README.md").read_text()


def test_the_program_opens_an_order_also_when_it_is_run_again(tmp_path: Path) -> None:
    assert run_program(tmp_path) != run_program(tmp_path)
    assert {file.name for file in (tmp_path / ".ensue").glob("*.db")} == {"orders.db", "customers.db", "broker.db"}
