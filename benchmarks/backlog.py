"""Prepared files of both sides, copied afresh for each round, and checked after it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import bare_files, ensue_side, workload
from benchmarks.bare_files import BareFiles
from benchmarks.rounds import Sample, Stopwatch
from ensue import Service
from ensue.tracing import TraceMaker


class Backlog:
    """The same events in a bare log and in an embedded broker's, with all accounts in a bare and in Ensue's store.

    partitions: of the broker's topics; the bare log has one. traceparent: of the events in the broker's.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        make_service: Callable[[], Service],
        *,
        partitions: int = 1,
        traceparent: str = "",
    ) -> None:
        self.events = list(workload.transfers(count))
        self._directory = directory
        self._make_service = make_service
        self._partitions = partitions
        self._bare, self._ensue = directory / "bare", directory / "ensue"
        self._bare.mkdir(parents=True)
        self._ensue.mkdir()
        bare_files.make_files(self._bare, self.events)
        made = ensue_side.make_template(
            self._ensue, self.events, make_service(), partitions=partitions, traceparent=traceparent
        )
        asyncio.run(made)

    def bare(self, drain: Callable[[BareFiles, Path], None], *, publishes: bool = True) -> Sample:
        """Time `drain(files, directory)` on a fresh copy. publishes: False when it leaves the outbox empty."""
        with self._copied(self._bare) as name:
            files = bare_files.open_files(Path(name))
            watch = Stopwatch()
            drain(files, Path(name))
            sample = watch.stop(len(self.events))
            files.close()
            ensue_side.check(Path(name), self.events, outbox="outbox", publishes=publishes)
            return sample

    def ensue(self, batch_records: int, tracing: TraceMaker | None = None) -> Sample:
        """Time the service on a fresh copy."""
        with self.ensue_copy() as name:
            sample = self.drain(name, batch_records, tracing)
            ensue_side.check(Path(name), self.events)
            return sample

    def ensue_copy(self) -> tempfile.TemporaryDirectory[str]:
        return self._copied(self._ensue)

    def drain(self, directory: str, batch_records: int, tracing: TraceMaker | None = None) -> Sample:
        """Let the service work off the backlog in a copy."""
        service = self._make_service()
        service.tracing = tracing
        return ensue_side.drain(
            Path(directory),
            service,
            len(self.events),
            partitions=self._partitions,
            batch_records=batch_records,
        )

    def _copied(self, template: Path) -> tempfile.TemporaryDirectory[str]:
        """A directory with the template's files, on disk before any clock starts."""
        directory = tempfile.TemporaryDirectory(dir=self._directory)
        for file in template.iterdir():
            copied = shutil.copy(file, directory.name)
            with open(copied, "rb+") as opened:
                os.fsync(opened.fileno())
        return directory
