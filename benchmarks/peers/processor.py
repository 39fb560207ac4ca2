"""Processor time of everything that takes part: a side's processes, PostgreSQL with its children, NATS.

On a machine that is shared, rates say as much about its other users as about a side; processor time says little of
them.
"""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def processor_s(pids: Iterable[int]) -> float:
    """User and system time of these processes, of their living children, and of those that they have waited for."""
    total = 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
            total += processor_s(child.pid for child in process.children())
        except psutil.NoSuchProcess:
            continue
    return total
