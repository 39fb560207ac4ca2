"""How much memory and processor time a process has used."""

from __future__ import annotations

from pathlib import Path

import psutil


def peak_bytes(pid: int) -> int:
    """Return the process's peak resident memory; where the system does not tell, what it uses now. 0: it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux, or gone
        pass
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def cpu_seconds(pid: int) -> float:
    """Return the processor time, user and system, that the process has used so far. 0: it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
