"""A service that runs says so in the log: where it works, when it is ready, when it stops. The same in a worker and in
a web process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ensue.addresses import shown
from ensue.app import Service
from ensue.engine.runtime import Runtime
from ensue.texts import logger
from ensue.view import View

log = logger("ensue.run")


@asynccontextmanager
async def announced(service: Service, *, work: bool = True) -> AsyncIterator[Runtime]:
    """Run a service inside this block, as `Service.running` does, and tell it in the log."""
    async with service.running(work=work) as runtime:
        telling = asyncio.create_task(_tell(service, runtime), name=f"ensue {service.name} announcing")
        try:
            yield runtime
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            log.info("%s: stopping; the batches at hand finish first", service.name)
    log.info("%s: stopped", service.name)


async def _tell(service: Service, runtime: Runtime) -> None:
    settings = service.settings()
    database = service.place().url if isinstance(service, View) else settings.database
    log.info("%s: database %s, broker %s", service.name, shown(database), shown(settings.broker))
    if runtime.worker is None:
        log.info("%s: ready for steps and queries; its workers run in other processes", service.name)
        return
    await runtime.ready()
    log.info("%s: ready as %s; works on %s", service.name, runtime.worker.name, _listed(runtime.worker.loops.names))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "nothing yet, others have it all"
