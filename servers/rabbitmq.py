"""RabbitMQ, with the plugin for streams: its own epmd first, or Erlang leaves a daemon behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from servers.base import Server, ServerFailed, free_port, listens, says

_COORDINATOR = b"rabbit_stream_coordinator"


class RabbitMqServer(Server):
    """guest/guest. stream_port: of the stream protocol. settings: more lines of rabbitmq.conf."""

    name = "rabbitmq"
    program = "rabbitmq-server"
    user = "rabbitmq"
    ready_s = 60.0

    def __init__(self, *, port: int | None = None, durable: bool = False, settings: Sequence[str] = ()) -> None:
        super().__init__(port=port, durable=durable)
        self._settings = tuple(settings)
        self.stream_port = free_port()
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        return "" if _script() and cls.find("epmd") else "rabbitmq: rabbitmq-server is not installed (make servers)"

    def prepare(self) -> None:
        self.make_directory("data")
        (self.directory / "enabled_plugins").write_text("[rabbitmq_stream].\n")
        (self.directory / "empty").write_text("")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = true\nlog.file = false\n"
            f"stream.listeners.tcp.1 = 127.0.0.1:{self.stream_port}\n"
            f"stream.advertised_host = 127.0.0.1\nstream.advertised_port = {self.stream_port}\n"
            + "".join(f"{each}\n" for each in self._settings)
        )
        self._own(self.directory)
        if self._epmd is None or self._epmd.poll() is not None:
            guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
            self._epmd = subprocess.Popen(
                [*guard, str(self.find("epmd")), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._account,
            )  # fmt: skip
            until = time.monotonic() + 10
            while not listens(self._epmd_port):
                if time.monotonic() > until:
                    raise ServerFailed("rabbitmq: epmd does not listen after 10 s")
                time.sleep(0.02)

    def command(self) -> Sequence[str]:
        return [_script()]

    def environment(self) -> Mapping[str, str]:
        directory = self.directory
        return {
            "HOME": str(directory), "PATH": os.environ.get("PATH", "") + ":/usr/sbin", "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"t{self.port}@localhost", "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.data), "RABBITMQ_LOG_BASE": f"{directory}/logs", "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq", "RABBITMQ_ADVANCED_CONFIG_FILE": f"{directory}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{directory}/empty",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{directory}/pid", "RABBITMQ_GENERATED_CONFIG_DIR": f"{directory}/generated",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip

    def answers(self) -> bool:
        # A broken protocol header is answered with the one that is expected, once the server is up.
        return says(self.port, b"AMQP\x00\x00\x00\x00", b"AMQP") and listens(self.stream_port)

    def stop(self) -> None:
        """SIGTERM to the group: the script forks."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
        super().stop()

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._epmd is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._epmd.terminate()
                self._epmd.wait(timeout=10)

    async def remembers_streams(self) -> None:
        """Return when a kill does not lose its first stream any more. Raises ServerFailed after ready_s.

        RabbitMQ 3.10 writes the name of what coordinates all streams a second after the first one was made. Killed
        before that, it never starts it again, and what it has of streams stays out of reach.
        """
        until = time.monotonic() + self.ready_s
        while not any(_COORDINATOR in each.read_bytes() for each in self.data.glob("*/coordination/*/names.dets")):
            if time.monotonic() > until:
                raise ServerFailed(f"rabbitmq has not written its coordinator's name after {self.ready_s:g} s")
            await asyncio.sleep(0.05)

    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"


def _script() -> str:
    """The script behind Debian's wrapper, which insists on accounts of its own; else what the path has."""
    for place in ("/usr/lib/rabbitmq/bin/rabbitmq-server",):
        if os.access(place, os.X_OK):
            return place
    return Server.find("rabbitmq-server") or ""
