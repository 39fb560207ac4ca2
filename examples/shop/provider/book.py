"""The provider's own book: what it was asked, under which key, and what it answered."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

TABLE = """
    CREATE TABLE IF NOT EXISTS effects (
        key TEXT PRIMARY KEY, kind TEXT NOT NULL, payment TEXT NOT NULL, pence INTEGER NOT NULL,
        status INTEGER NOT NULL, body TEXT NOT NULL, answer TEXT NOT NULL, asked INTEGER NOT NULL DEFAULT 1
    )
"""
INDEX = "CREATE INDEX IF NOT EXISTS effects_payment ON effects (payment)"
#: A card is good for so much at once.
CARD_PENCE_MAX = 500_000

Answer = tuple[int, dict[str, Any]]


class Book:
    """asked: of an entry, how often it was asked for; whatever that is, it was done once."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for each in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", TABLE, INDEX):
            self._database.execute(each)

    def close(self) -> None:
        self._database.close()

    def once(self, key: str, kind: str, body: dict[str, Any]) -> Answer:
        """Do it, or answer what was answered when it was done. Returns status and answer."""
        said = json.dumps(body, sort_keys=True)
        with self._lock, closing(self._database.cursor()) as cursor:
            found = cursor.execute("SELECT kind, body, status, answer FROM effects WHERE key = ?", (key,)).fetchone()
            if found is not None:
                if found[:2] != (kind, said):
                    return 422, {"reason": f"key {key} was used for something else"}
                cursor.execute("UPDATE effects SET asked = asked + 1 WHERE key = ?", (key,))
                return found[2], json.loads(found[3])
            payment = str(body["payment"])
            done = dict(
                cursor.execute(
                    "SELECT kind, sum(pence) FROM effects WHERE payment = ? AND status = 200 GROUP BY kind", (payment,)
                ).fetchall()
            )
            status, pence, answer = _decide(kind, payment, int(body.get("pence", 0)), done)
            if status != 409:  # what cannot be now may be later
                cursor.execute(
                    "INSERT INTO effects (key, kind, payment, pence, status, body, answer)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (key, kind, payment, pence, status, said, json.dumps(answer)),
                )
            return status, answer

    def entries(self) -> list[dict[str, Any]]:
        with self._lock, closing(self._database.cursor()) as cursor:
            names = ("key", "kind", "payment", "pence", "status", "asked")
            rows = cursor.execute(f"SELECT {', '.join(names)} FROM effects ORDER BY key").fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def _decide(kind: str, payment: str, pence: int, done: dict[str, int]) -> tuple[int, int, dict[str, Any]]:
    """done: of this payment, pence by kind. Returns status, pence and answer.

    Under another key it would take, or give back, the same money twice: that is for whoever asks to see to.
    """
    held = 0 if "voids" in done else done.get("authorisations", 0)
    match kind:
        case "authorisations" if "voids" in done:
            return 402, pence, {"reason": "it was voided before"}
        case "authorisations" if pence > CARD_PENCE_MAX:
            return 402, pence, {"reason": f"the card is good for {CARD_PENCE_MAX // 100} pounds at once"}
        case "authorisations":
            return 200, pence, {"reference": f"held-{payment}"[:40]}
        case "voids":
            return 200, held, {}
        case "captures" if held < pence:
            return 409, pence, {"reason": f"{held} pence are held, {pence} were to be taken"}
        case "refunds" if done.get("captures", 0) < pence:
            return 409, pence, {"reason": f"{done.get('captures', 0)} pence were taken, {pence} were to be given back"}
        case _:
            return 200, pence, {}
