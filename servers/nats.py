"""NATS with JetStream: one server, or a cluster of three."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, Self

from servers.base import Server, ServerFailed, free_port, says


class NatsServer(Server):
    """node, routes: its name and the route ports, its own first, when it is one of a cluster.

    settings: more lines of its configuration file.
    """

    name = "nats"
    program = "nats-server"

    def __init__(
        self,
        *,
        port: int | None = None,
        durable: bool = False,
        node: str = "",
        routes: Sequence[int] = (),
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(port=port, durable=durable)
        self.monitor = free_port()
        self._node = node
        self._settings = tuple(settings)
        self._routes = tuple(routes)  # the own one first

    def prepare(self) -> None:
        self.make_directory("data")
        settings = ["max_payload: 8MB"]  # of the default, 1 MB, a record of one megabyte has its headers too much
        if self.durable:
            settings.append("jetstream: { sync_interval: always }")
        (self.directory / "nats.conf").write_text("\n".join([*settings, *self._settings]) + "\n")

    def command(self) -> Sequence[str]:
        command = [
            str(self.find(self.program)), "-c", str(self.directory / "nats.conf"), "-a", "127.0.0.1",
            "-p", str(self.port), "-js", "-sd", str(self.data), "-m", str(self.monitor),
        ]  # fmt: skip
        if self._node:
            own, *others = self._routes
            command += [
                "--server_name", self._node, "--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{own}",
                "--routes", ",".join(f"nats://127.0.0.1:{port}" for port in others),
            ]  # fmt: skip
        return command

    def answers(self) -> bool:
        return says(self.port, b"", b"INFO")

    def monitored(self, path: str) -> Any:
        """What the monitoring port says, e.g. `/jsz?streams=true`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}{path}", timeout=5) as answer:
            return json.load(answer)

    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


class NatsCluster:
    """Three servers that replicate streams among them."""

    missing = NatsServer.missing

    def __init__(self) -> None:
        routes = [free_port() for _ in range(3)]
        self.nodes = [
            NatsServer(node=f"n{number}", routes=[routes[number], *routes[:number], *routes[number + 1 :]])
            for number in range(3)
        ]

    def url(self) -> str:
        """Any of the three: the client tries them in turn."""
        return "nats://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node(self, name: str) -> NatsServer:
        return next(node for node in self.nodes if node._node == name)

    def start(self) -> Self:
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_ready()
        until = time.monotonic() + NatsServer.ready_s
        while not all(self._knows_its_leader(node) for node in self.nodes):
            if time.monotonic() > until:
                raise ServerFailed(f"the NATS cluster has no leader after {NatsServer.ready_s:g} s")
            time.sleep(0.05)
        return self

    @staticmethod
    def _knows_its_leader(node: NatsServer) -> bool:
        """Whether JetStream's API would answer through this node."""
        try:
            meta = node.monitored("/jsz").get("meta_cluster") or {}
        except OSError:
            return False
        return bool(meta.get("leader")) and meta.get("cluster_size") == 3

    def close(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()
