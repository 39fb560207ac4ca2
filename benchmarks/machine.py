"""Where the figures come from: machine and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path
from statistics import median

LIBRARIES = ("msgspec", "sqlalchemy", "pydantic", "fastapi", "uvicorn")


def describe() -> dict[str, str]:
    """Name -> value, for people; the disk is timed where the benchmarks keep their files."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "disk": f"{commit_us():.0f} µs for the fsync of a commit (median of 500, in {_kind_of_directory()})",
        "load": f"{os.getloadavg()[0]:.2f} over the last minute, before the run",
        "Python": f"{platform.python_version()} ({platform.python_implementation()}), SQLite {sqlite3.sqlite_version}",
        "libraries": ", ".join(versions),
    }


def commit_us() -> float:
    """Median time of a transaction of one row with synchronous FULL, less that of one with OFF: what the disk takes."""
    return (_transaction_s("FULL") - _transaction_s("OFF")) * 1e6


def _transaction_s(synchronous: str) -> float:
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        connection = sqlite3.connect(Path(name, "commit.db"), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE row (data TEXT)")
        for _ in range(500):
            began = time.perf_counter()
            connection.execute("INSERT INTO row VALUES (?)", ("x" * 300,))
            times.append(time.perf_counter() - began)
        connection.close()
    return median(times)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _kind_of_directory() -> str:
    return "$TMPDIR" if os.environ.get("TMPDIR") else "the temporary directory"
