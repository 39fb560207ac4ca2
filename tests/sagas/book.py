"""A payment provider, whose book says what it has done: one thing for one key, however often it is asked."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol


class Provider(Protocol):
    def ask(self, what: str, order: str, key: str) -> None:
        """what: hold (an amount for an order), void (that), capture (what is held)."""


class Book:
    """done: by key, `hold o-1` say. calls: how often a key came."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self._state: dict[str, str] = {}
        self._lock = threading.Lock()

    def ask(self, what: str, order: str, key: str) -> None:
        with self._lock:
            self.calls[key] += 1
            entry = f"{what} {order}"
            known = self.done.setdefault(key, entry)
            if known != entry:
                raise AssertionError(f"key {key} was used for {known!r}, and is used for {entry!r} now")
            if self.calls[key] > 1:
                return
            was = self._state.get(order, "")
            self._state[order] = {("hold", ""): "held", ("void", "held"): "", ("capture", "held"): "captured"}.get(
                (what, was), was
            )

    def state(self, order: str) -> str:
        """held, captured, or empty: nothing of this order stands."""
        return self._state.get(order, "")

    def twice(self) -> list[str]:
        """What was done under two keys; a void of what is void is harmless."""
        times = Counter(entry for entry in self.done.values() if not entry.startswith("void"))
        return sorted(entry for entry, number in times.items() if number > 1)


@contextmanager
def served(book: Book) -> Iterator[str]:
    """The URL under which a book answers over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            _, what, order = self.path.split("/")
            book.ask(what, order, self.headers["Idempotency-Key"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Remote:
    """The provider, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, what: str, order: str, key: str) -> None:
        url = f"{self._url}/{what}/{order}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST", headers={"Idempotency-Key": key})):
            pass
