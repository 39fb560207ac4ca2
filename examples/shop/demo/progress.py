"""What can be seen while things go on: a progress bar with live counts; without a terminal a plain line at times."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console, Group
from rich.live import Live as LiveDisplay
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from shop.demo.books import Live, read_live
from shop.demo.databases import Databases

LOOK_S = 0.4
PLAIN_LINE_S = 3.0
#: Events per second are those of the last few seconds.
WINDOW_S = 3.0

STYLES = {"NEW": "yellow", "OPEN": "green", "REJECTED": "red", "CANCELLED": "magenta"}


class Display:
    """stage: what is being done now. done: how many operations have been answered, asked at each look."""

    def __init__(
        self,
        console: Console,
        databases: Databases,
        total: int,
        done: Callable[[], int],
        retried: tuple[type[Exception], ...] = (),
    ) -> None:
        self.stage = "starting"
        self._console = console
        self._databases = databases
        self._retried = retried  # errors of a database that may be away for a while
        self._done = done
        self._total = total
        self._applied: deque[tuple[float, int]] = deque()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._bar.add_task(self.stage, total=total)
        self._display = LiveDisplay(Group(self._bar), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Display:
        self._shown().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown().__exit__(None, None, None)

    def _shown(self) -> AbstractContextManager[object]:
        return self._display if self._console.is_terminal else nullcontext()

    async def run(self) -> None:
        """Look and show until cancelled."""
        said_at = 0.0
        while True:
            try:
                live = await asyncio.to_thread(read_live, self._databases)
            except self._retried:
                await asyncio.sleep(LOOK_S)
                continue
            now = time.monotonic()
            rate = self._events_per_s(now, live.applied)
            if self._console.is_terminal:
                self._bar.update(self._task, completed=self._done(), description=self.stage)
                self._display.update(Group(self._bar, _line(live, rate)), refresh=True)
            elif now - said_at >= PLAIN_LINE_S:
                said_at = now
                text = Text(f"{self.stage}: {self._done():,}/{self._total:,} requests · ").append(_line(live, rate))
                self._console.print(text, soft_wrap=True)
            await asyncio.sleep(LOOK_S)

    def _events_per_s(self, now: float, applied: int) -> float:
        self._applied.append((now, applied))
        while now - self._applied[0][0] > WINDOW_S and len(self._applied) > 2:
            self._applied.popleft()
        began, before = self._applied[0]
        return (applied - before) / (now - began) if now > began else 0.0


def _line(live: Live, events_per_s: float) -> Text:
    text = Text("orders")
    for status, style in STYLES.items():
        text.append(f" {status} ").append(f"{live.statuses[status]:,}", style)
    text.append(f" · {events_per_s:,.0f} events/s · lag")
    for service, lag in live.lag.items():
        text.append(f" {service} ").append(f"{lag:,}", "yellow" if lag else "dim")
    return text
