"""The provider over HTTP, with a thread for each request."""

from __future__ import annotations

import json
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Lock
from typing import Any

from shop.provider.book import Book

KINDS = ("authorisations", "captures", "voids", "refunds")

#: What happens to a request, and how often: nothing is done, and it says so; it is done, and the line breaks before the
#: answer; it is done, and the answer comes when nobody waits for it any more.
TROUBLE = {"away": 0.02, "no answer": 0.01, "late": 0.003}
SLOW_S = (0.002, 0.02)
LATE_S = 3.0


class Provider(ThreadingHTTPServer):
    """trouble: see TROUBLE; empty: there is none, and it is quick. happened: how often, by kind."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, book: Book, random: Random, trouble: dict[str, float]) -> None:
        self.book = book
        self.happened: Counter[str] = Counter()
        self._random = random
        self.trouble = trouble
        self._lock = Lock()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def chance(self) -> tuple[str, float]:
        """What happens to the next request, empty: nothing; and how long it takes besides, in seconds."""
        if not self.trouble:
            return "", 0.0
        with self._lock:
            drawn, slow_s = self._random.random(), self._random.uniform(*SLOW_S)
            for kind, share in self.trouble.items():
                if drawn < share:
                    self.happened[kind] += 1
                    return kind, slow_s
                drawn -= share
        return "", slow_s


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        match self.path:
            case "/healthz":
                self._answer(200, {"status": "ok"})
            case "/book":
                self._answer(200, {"entries": self.server.book.entries(), "happened": self.server.happened})
            case _:
                self._answer(404, {"reason": f"there is no {self.path}"})

    def do_POST(self) -> None:
        kind, key = self.path.strip("/"), self.headers.get("Idempotency-Key", "")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if kind not in KINDS or not key:
            self._answer(400, {"reason": f"POST /{kind} with Idempotency-Key {key!r}: give a key, and one of {KINDS}"})
            return
        trouble, slow_s = self.server.chance()
        time.sleep(slow_s)
        if trouble == "away":
            self._answer(503, {"reason": "come back later"})
            return
        status, answer = self.server.book.once(key, kind, body)
        if trouble == "late":
            time.sleep(LATE_S)
        if trouble != "no answer":
            self._answer(status, answer)

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            self.close_connection = True  # whoever asked waits no more

    def log_message(self, format: str, *args: Any) -> None:
        """Not each request."""
