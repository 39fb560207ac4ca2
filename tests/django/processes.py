"""Processes of the example, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANAGE = ROOT / "examples" / "django_orders" / "manage.py"
#: Places orders, each in a transaction of its own, until there are so many.
PLACE = """
import sys, django
django.setup()
from django_orders.orders.models import Order
while (there := Order.objects.count()) < int(sys.argv[1]):
    Order.objects.create(customer_id=there % 3, total=10)
"""


def environment(directory: Path, orders: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples"), *(each for each in sys.path if each)])
    own = {
        "PYTHONPATH": path,
        "DJANGO_SETTINGS_MODULE": "django_orders.settings",
        "ORDERS_DATABASE": orders,
        "CUSTOMERS_DATABASE": f"sqlite:///{directory}/customers.db",
        "SHOP_BROKER": f"sqlite:///{directory}/broker.db",
        "ENSUE_LEASE_TTL_S": "1.5",
        "NO_COLOR": "1",
    }
    return {**os.environ, **own}


class Shop:
    """directory: for what they write. orders: ORDERS_DATABASE."""

    def __init__(self, directory: Path, orders: str) -> None:
        self.directory = directory
        self.environment = environment(directory, orders)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.commands: dict[str, list[str]] = {
            "worker": [str(MANAGE), "ensue", "run"],
            "other worker": [str(MANAGE), "ensue", "run"],
            "customers": ["-m", "ensue", "run", "django_orders.customers:customers"],
            "placer": ["-c", PLACE, "0"],
        }

    def manage(self, *words: str, status: int = 0) -> str:
        done = self._run([str(MANAGE), *words])
        assert done.returncode == status, done.stdout
        return done.stdout

    def python(self, text: str) -> str:
        """What a script prints that knows the project."""
        done = self._run(["-c", f"import django; django.setup()\n{text}"])
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def _run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        )  # fmt: skip

    def start(self, name: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *self.commands[name]], cwd=self.directory, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def ends(self, name: str, timeout_s: float = 60.0) -> int:
        return self.running.pop(name).wait(timeout_s)

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def logs(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.read_text()[-3000:]}" for each in self.directory.glob("*.log"))
