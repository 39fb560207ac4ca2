"""How far a build is: a bar for people who watch, a line now and then for those who do not."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from ensue.texts import plain
from ensue.views.progress import Progress, left_s, rate

#: The rate is that of so many samples; a line comes each so many seconds.
_SAMPLES, _LINE_S = 10, 5.0


class Shown:
    """In a `with` block; on standard error. title: of what."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._samples: deque[Progress] = deque(maxlen=_SAMPLES)
        self._said_at = -_LINE_S
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%  {task.fields[text]}"),
        )
        self._bar = Bar(*columns, console=Console(stderr=True, markup=False)) if sys.stderr.isatty() else None
        self._task = None if self._bar is None else self._bar.add_task(title, total=None, text="")

    def __enter__(self) -> Shown:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, now: Progress, waits_for: Sequence[str]) -> None:
        """waits_for: what is not there yet, where all is read."""
        self._samples.append(now)
        text = progress_text(self._samples[0], now)
        if waits_for and now.done >= now.total:
            text += f"; waits for {plain(waits_for[0])}" + (
                f" and {len(waits_for) - 1} more" if len(waits_for) > 1 else ""
            )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=max(now.total, 1), completed=now.done, text=text)
        elif time.monotonic() - self._said_at >= _LINE_S or not waits_for:
            self._said_at = time.monotonic()
            print(f"{self._title}: {now.share:.1%}, {text}", file=sys.stderr, flush=True)


def progress_text(earlier: Progress, now: Progress) -> str:
    """In words.

    >>> progress_text(Progress(0, 900, at=1.0), Progress(300, 900, at=3.0))
    '300 of 900 records, 150/s, 4 s left'
    """
    per_s = rate(earlier, now)
    left = left_s(now, per_s)
    return f"{now.done} of {now.total} records, {per_s:.0f}/s" + ("" if left is None else f", {left:.0f} s left")
