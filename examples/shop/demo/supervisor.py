"""Starts the services as processes of their own, kills and restarts them, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp

from shop.demo.paid import BOOK
from shop.demo.services import APPLICATIONS, PROVIDER, READY_S, SERVICES, STOP_S
from shop.demo.usage import cpu_seconds, peak_bytes

#: Below the range from which systems take the ports of outgoing connections: while a killed service is down, no
#: client's connection can sit on its port.
PORTS = range(20_000, 30_000)


class ServiceFailed(Exception):
    """A service ended by itself or never became ready; the text holds the end of its log."""


class ServiceProcess:
    """One service over all its lives. The port stays the same.

    lives: how often it was started. peak_memory: bytes, the most of all lives. cpu_s: seconds of processor time, of
    all lives (each as of its last sample).
    """

    def __init__(self, name: str, port: int, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / f"{name}.log"
        self.lives = 0
        self.peak_memory = 0
        self._cpu_before_s = 0.0  # of earlier lives
        self._cpu_now_s = 0.0
        self.expected_to_run = False
        self.restarts_left = 0
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    @property
    def cpu_s(self) -> float:
        return self._cpu_before_s + self._cpu_now_s

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process unless it runs; it is ready when `wait_ready` returns. Safe to call from two troubles."""
        async with self._starting:
            if self.running:
                return
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "shop.demo.serve", self.name, str(self.port),
                    stdin=asyncio.subprocess.PIPE,  # never written to: its end tells the child that we are gone
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the services in order
                )  # fmt: skip
            self.lives += 1
            self._cpu_before_s, self._cpu_now_s = self.cpu_s, 0.0
            self.expected_to_run = True

    async def wait_ready(self, client: aiohttp.ClientSession, limit_s: float = READY_S) -> None:
        """Return when the service says that it is healthy. Raises ServiceFailed."""
        try:
            async with asyncio.timeout(limit_s):
                while not await self._healthy(client):
                    await self.check()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ServiceFailed(f"{self.name} was not ready after {limit_s:g} s.\n{self.end_of_log()}") from None

    async def _healthy(self, client: aiohttp.ClientSession) -> bool:
        try:
            async with client.get(f"{self.url}/healthz") as answer:
                return answer.status == 200
        except (aiohttp.ClientConnectionError, TimeoutError):
            return False  # not listening yet, or too busy to answer this time

    async def listening(self) -> bool:
        """Whether it accepts connections: it has started, and works."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def check(self) -> None:
        """Raise ServiceFailed when the process has ended and nobody asked it to.

        One that gave up at its start because its database was away for too long starts again, as under any
        orchestrator, `restarts_left` times.
        """
        if self.expected_to_run and not self.running and self._process is not None:
            code, end = self._process.returncode, self.end_of_log()
            if not self.restarts_left or "StoreUnavailable" not in end:
                raise ServiceFailed(f"{self.name} ended by itself with status {code}.\n{end}")
            self.restarts_left -= 1
            await self.start()

    def sample(self) -> None:
        """Note what the process has used so far."""
        if self.pid is not None:
            self.peak_memory = max(self.peak_memory, peak_bytes(self.pid))
            self._cpu_now_s = max(self._cpu_now_s, cpu_seconds(self.pid))

    async def kill(self) -> None:
        """End the process at whatever instruction it is (SIGKILL) and wait until it is gone."""
        self.expected_to_run = False
        if self._process is not None and self.running:
            self.sample()
            with contextlib.suppress(ProcessLookupError):  # it ended in the meantime
                self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        """Let it stand still (SIGSTOP): whoever waits for it waits."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):  # it was killed in the meantime
                self._process.send_signal(number)

    async def stop(self) -> None:
        """End the process in an orderly way, by force if it takes longer than STOP_S. Safe to repeat."""
        self.expected_to_run = False
        if self._process is None or not self.running:
            return
        self.sample()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            await self.kill()

    def end_of_log(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return f"The end of {self.log}:\n" + "\n".join(text or ["(empty)"])


class Supervisor:
    """The services together: `async with Supervisor(directory) as services:` starts all and, at the end, stops all.

    environment: instead of this process's. settings: where databases and broker are. names: of the services; with
    payments among them orders are placed by orchestration, and there is a provider. seed: of the provider's trouble.
    The attribute `environment` is the one that all of them get.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        names: Sequence[str] = SERVICES,
        seed: int = 1,
    ) -> None:
        env = dict(os.environ if environment is None else environment)
        # Unless told otherwise each service has its own SQLite file, all of them one embedded broker: the defaults.
        of_the_shop = ("SHOP_PLACEMENT", "SHOP_CUSTOMERS")
        for name in [*(f"ENSUE_{name.upper()}_DATABASE" for name in APPLICATIONS), "ENSUE_BROKER", *of_the_shop]:
            env.pop(name, None)
        env["ENSUE_HOME"] = str(directory)
        env.update(settings or {})
        if sys.dont_write_bytecode:  # then each start would compile everything, and chaos is made of starts
            env.pop("PYTHONDONTWRITEBYTECODE", None)
            env["PYTHONPYCACHEPREFIX"] = str(directory.absolute() / "bytecode")
        paid = "payments" in names
        processes = [*names, *[PROVIDER] * paid]
        ports = dict(zip(processes, free_ports(len(processes)), strict=True))
        if paid:
            env["SHOP_PLACEMENT"] = "orchestration"
            env["SHOP_PROVIDER"] = f"http://127.0.0.1:{ports[PROVIDER]}"
            env["SHOP_PROVIDER_BOOK"] = str(directory.absolute() / BOOK)
            env["SHOP_PROVIDER_SEED"] = str(seed)
        self.environment: Mapping[str, str] = env
        self.services = {name: ServiceProcess(name, port, directory, env) for name, port in ports.items()}

    def __getitem__(self, name: str) -> ServiceProcess:
        return self.services[name]

    def __iter__(self) -> Iterator[ServiceProcess]:
        return iter(self.services.values())

    async def __aenter__(self) -> Supervisor:
        try:
            async with asyncio.TaskGroup() as group:
                for service in self.services.values():
                    group.create_task(service.start())
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        stopping = asyncio.ensure_future(self.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:  # Ctrl-C just now: all the more reason to finish this
            await stopping
            raise

    async def wait_ready(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            await asyncio.gather(*(service.wait_ready(client) for service in self.services.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(service.stop() for service in self.services.values()))

    async def watch(self, interval_s: float = 0.25) -> None:
        """Sample what the services use, for ever; raise ServiceFailed when a service ends and nobody asked it to."""
        while True:
            for service in self.services.values():
                await service.check()
                service.sample()
            await asyncio.sleep(interval_s)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ServiceFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1")
