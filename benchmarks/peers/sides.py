"""The sides by name, Ensue first; each is a module of this package. See `peer.Peer`."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks.child import environment
from benchmarks.peers.peer import Peer

NAMES = (
    "ensue_steps",
    "faststream_nats",
    "faststream_batches",
    "faststream_outbox_table",
    "eventsourcing_projection",
    "pgqueuer_jobs",
    "procrastinate_tasks",
    "sagaz_outbox",
    "dbos_queue",
)
OURS = "ensue_steps"
#: Of another comparison, see `workflows`.
WORKFLOWS = ("ensue_saga", "ensue_saga_services", "dbos_workflow")
#: Of a third one, see `event_sourced`.
EVENT_SOURCED = ("ensue_aggregates", "eventsourcing_projection")
PEERS_PYTHON = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a side says of itself; versions of its libraries as they are installed."""

    title: str
    guarantee: str
    backlog: int
    versions: str


def load(name: str) -> Peer:
    """Only in the environment that has the side's libraries."""
    return cast(Peer, importlib.import_module(f"benchmarks.peers.{name}"))


def described(name: str) -> Description:
    peer = load(name)
    return Description(
        title=peer.title,
        guarantee=peer.guarantee,
        backlog=peer.backlog,
        versions=", ".join(f"{each} {importlib.metadata.version(each)}" for each in peer.packages),
    )


def python_of(name: str) -> Path:
    """Ensue runs where the benchmarks run; the peers pin other versions of libraries and have their own environment."""
    return Path(sys.executable) if _is_ours(name) else PEERS_PYTHON


def _is_ours(name: str) -> bool:
    return name.startswith("ensue_")


def missing(names: Sequence[str]) -> str:
    """One line for people, or empty when all that these sides need is there."""
    if all(_is_ours(name) for name in names) or PEERS_PYTHON.exists():
        return ""
    return "no .venv-peers here: make bench-peers makes it"


async def describe(name: str) -> Description:
    """Asked in the side's own environment."""
    process = await asyncio.create_subprocess_exec(
        str(python_of(name)), "-m", "benchmarks.peers.program", name, "describe", "{}",
        stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name} cannot be loaded by {python_of(name)}, see above")
    return Description(**json.loads(output))
