"""The versions of a view, opened for looking and deciding."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ensue.adapters import make_broker
from ensue.addresses import masked
from ensue.config import database_variable
from ensue.deciding import Deciding
from ensue.engine.sealing import SealedBroker
from ensue.engine.view_versions import Versions
from ensue.errors import UsageError
from ensue.ports import Broker
from ensue.view import View


@dataclasses.dataclass(frozen=True, slots=True)
class OpenedView:
    """The place of a view that has no version, and the log: open."""

    versions: Versions
    broker: Broker

    def deciding(self, by: Deciding, action: str) -> Versions:
        """The versions, for somebody who decides: each change of the view's row is written down as that, in the same
        transaction. action: `views swap`, say."""
        return dataclasses.replace(self.versions, book=self.versions.book.decided(by, action))


@asynccontextmanager
async def opened_view(view: View, *, make: bool = False) -> AsyncIterator[OpenedView]:
    """make: the view's base and the log, if they are not there; else that is a UsageError."""
    settings, base = view.settings(), view.make_base()
    broker = SealedBroker(make_broker(settings.broker), view.signs_as, settings.trust)
    if not make:
        if not await base.exists():
            raise UsageError(
                f"view {view.view} has no database at {masked(settings.database)}: run it once; is ENSUE_HOME or "
                f"{database_variable(view.view)} set as the view has it?"
            )
        if not await broker.exists():
            raise UsageError(f"there is no broker at {masked(settings.broker)}: start a service, or set ENSUE_BROKER")
    await base.open()
    try:
        versions = view.versions(base)
        await versions.book.prepare()
        await broker.open()
        yield OpenedView(versions, broker)
    finally:
        await broker.close()
        await base.close()
