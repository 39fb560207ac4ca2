"""A thread that notices when a handler does not return, also one that holds the event loop.

What awaits is cancelled by its `HandlerLimit`. A plain `def` in a thread cannot be stopped, nor can a loop that never
awaits, or that catches its cancellation: their process has to end, and somebody has to say so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from ensue.engine.at_hand import AtHand
from ensue.engine.reason import lines_of_thread
from ensue.errors import HandlerHung

#: How long a handler may take to end once it was cancelled, in seconds, and not longer than its limit once more.
GRACE_S = 5.0


class Watch:
    """start and stop, each once. told: is called in the watching thread, once, with what hangs and where."""

    def __init__(self, at_hand: Sequence[AtHand], limit_s: float, told: Callable[[AtHand, HandlerHung], None]) -> None:
        self._at_hand = at_hand
        self._limit_s = limit_s
        self._told = told
        self._loop_thread = 0
        self._stopped = threading.Event()
        self._seen: dict[int, tuple[object, float]] = {}

    def start(self) -> None:
        """To be called in the thread of the event loop."""
        if not self._limit_s:
            return
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._run, name="ensue watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        pause = min(self._limit_s / 4, 1.0)
        # Looks are counted rather than seconds: a process that was frozen for an hour has not hung for an hour.
        while not self._stopped.wait(pause):
            for each in self._at_hand:
                if self._looked(each, pause):
                    self._told(each, self._hung(each))
                    return

    def _looked(self, each: AtHand, pause: float) -> bool:
        """Whether the same handler has been seen at the same message for too long."""
        place = each.place
        now = None if place is None else (each.number, place)
        before, seen_s = self._seen.get(id(each), (None, 0.0))
        seen_s = seen_s + pause if now is not None and now == before else 0.0
        self._seen[id(each)] = (now, seen_s)
        limit = self._limit_s if each.thread is not None else self._limit_s + min(GRACE_S, self._limit_s)
        return seen_s > limit

    def _hung(self, each: AtHand) -> HandlerHung:
        thread = each.thread
        frame = sys._current_frames().get(self._loop_thread if thread is None else thread)
        where = lines_of_thread(frame)
        place = each.place
        return HandlerHung(
            f"{each} does not return, and cannot be stopped: it took longer than handler_limit_s, {self._limit_s:g} s."
            + (f" It is at\n{where}" if where else ""),
            handler="" if place is None else place[1].handler.name,
            limit_s=self._limit_s,
            where=where,
        )
