"""Workers and leases: one document, changed by whoever finds it as it was read. Times by the server's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ensue.errors import StoreConflict
from ensue.message import Lease, LeaseTable
from ensue.stores.mongodb.server import Document, Server

_ID = "workers"


class Workers:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._documents = server.collection("ensue_meta")

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        def beat(now: float, workers: dict[str, float], leases: dict[str, tuple[str, float]]) -> None:
            until = now + ttl_s
            workers[worker] = until
            for name in release:
                if leases.get(name, ("", 0.0))[0] == worker:
                    del leases[name]
            for name, (owner, end) in list(leases.items()):
                # None lives longer than anybody could have asked for now: the clock may have been set back.
                leases[name] = (owner, until if owner == worker else min(end, until))
                if leases[name][1] <= now:
                    del leases[name]
            for name, end in list(workers.items()):
                workers[name] = min(end, until)
                if end <= now:
                    del workers[name]
            for name in acquire:
                leases.setdefault(name, (worker, until))

        return await self._change(beat)

    async def resign(self, worker: str) -> None:
        def leave(now: float, workers: dict[str, float], leases: dict[str, tuple[str, float]]) -> None:
            workers.pop(worker, None)
            for name in [name for name, (owner, _) in leases.items() if owner == worker]:
                del leases[name]

        await self._change(leave)

    async def table(self) -> LeaseTable:
        now = await self._server.time()
        with self._server.translated():
            found = await self._documents.find_one({"_id": _ID})
        return _table(now, *_read(found))

    async def _change(
        self, change: Callable[[float, dict[str, float], dict[str, tuple[str, float]]], None]
    ) -> LeaseTable:
        while True:
            now = await self._server.time()
            with self._server.translated():
                found = await self._documents.find_one({"_id": _ID})
            workers, leases = _read(found)
            change(now, workers, leases)
            version = 0 if found is None else int(found["version"])
            fresh = {
                "version": version + 1,
                "workers": [{"name": name, "until": end} for name, end in workers.items()],
                "leases": [{"name": name, "owner": owner, "until": end} for name, (owner, end) in leases.items()],
            }
            try:
                with self._server.translated():
                    if found is None:
                        await self._documents.insert_one({"_id": _ID, **fresh})
                        return _table(now, workers, leases)
                    done = await self._documents.update_one({"_id": _ID, "version": version}, {"$set": fresh})
            except StoreConflict:
                continue  # another worker inserted it
            if done.matched_count:
                return _table(now, workers, leases)


def _read(found: Document | None) -> tuple[dict[str, float], dict[str, tuple[str, float]]]:
    if found is None:
        return {}, {}
    workers = {each["name"]: each["until"] for each in found["workers"]}
    return workers, {each["name"]: (each["owner"], each["until"]) for each in found["leases"]}


def _table(now: float, workers: dict[str, float], leases: dict[str, tuple[str, float]]) -> LeaseTable:
    held = (Lease(name, owner, end - now) for name, (owner, end) in sorted(leases.items()) if end > now)
    return LeaseTable(tuple(sorted(name for name, end in workers.items() if end > now)), tuple(held))
