"""The databases of a service beside its running processes: opened for looking and deciding, without a worker."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ensue.adapters import make_broker
from ensue.addresses import masked, shown
from ensue.app import Service
from ensue.config import Settings, database_variable
from ensue.engine.books import Books
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.engine.faults import Faults
from ensue.engine.hallmark import HallmarkedIds
from ensue.engine.schema import SCHEMA
from ensue.engine.sealing import SealedBroker
from ensue.engine.upgrade import Upgrade, check_upgraded
from ensue.engine.worker import is_gone
from ensue.errors import BrokerUnavailable, StoreUnavailable, UsageError
from ensue.ports import Broker, Store
from ensue.view import View


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A service's store and, if asked for and there, its broker: open, without a worker.

    broker_error: why there is no broker. target: how the command line names the service, for what errors tell to do.
    """

    service: Service
    settings: Settings
    store: Store
    broker: Broker | None
    broker_error: str = ""
    target: str = ""

    @property
    def books(self) -> Books:
        return Books(self.store, self.service.name)

    @property
    def database_url(self) -> str:
        return database_of(self.service, self.settings)

    @property
    def broker_url(self) -> str:
        return shown(self.settings.broker)

    def need_broker(self) -> Broker:
        if self.broker is None:
            raise UsageError(self.broker_error)
        return self.broker


async def upgrade(service: Service, store: Store) -> None:
    """Bring Ensue's own tables in a store to what this Ensue makes of them."""
    books = Books(store, service.name, schema=SCHEMA)
    await Upgrade(store, books, SystemClock(), service.settings().engine.lease_ttl_s, Faults()).run()


@asynccontextmanager
async def opened(
    service: Service,
    *,
    broker: bool = False,
    any_tables: bool = False,
    answer_s: float | None = None,
    target: str = "",
) -> AsyncIterator[Opened]:
    """Open a service's store, and with `broker` its log, for looking and deciding: nothing is made that is not there.

    Raises UsageError when there is no store, or Ensue's tables in it are not for this Ensue. A log that is not there
    is no error here: see `Opened.need_broker`. any_tables: for who looks at the tables before their rows are read.
    answer_s: how long database and log may each take to open; None: as long as their drivers wait. target: see Opened.
    """
    settings = service.settings()
    store = service.make_store()
    target = target or f"MODULE:{service.signs_as}"
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(answer_s):
                if not await store.exists():
                    raise UsageError(_no_database(service, settings))
                await store.open()
                stack.push_async_callback(store.close)
                if not any_tables:
                    await check_upgraded(Books(store, service.name, schema=SCHEMA))
        except TimeoutError as error:
            raise StoreUnavailable(
                f"service {service.name}: {shown(settings.database)} did not answer within {answer_s} s"
            ) from error
        if not broker:
            yield Opened(service, settings, store, None, target=target)
            return
        log = SealedBroker(make_broker(settings.broker), service.signs_as, settings.trust)
        text = ""
        try:
            async with asyncio.timeout(answer_s):
                if await log.exists():
                    await log.open()
                    stack.push_async_callback(log.close)
                else:
                    where = shown(settings.broker)
                    text = f"there is no broker at {where}: start a service, or set ENSUE_BROKER as it has it"
        except TimeoutError:
            text = f"{shown(settings.broker)} did not answer within {answer_s} s"
        except BrokerUnavailable as error:
            text = masked(str(error))
        except UsageError as error:  # it refuses the password, say: what asks the database alone goes on
            if answer_s is None:
                raise
            text = masked(str(error))
        if text:
            await log.close()
        yield Opened(service, settings, store, None if text else log, text, target)


def database_of(service: Service, settings: Settings) -> str:
    """The URL, without a password, of what it has: of a view, this version's place."""
    return shown(service.place().url if isinstance(service, View) else settings.database)


def _no_database(service: Service, settings: Settings) -> str:
    where = database_of(service, settings)
    if isinstance(service, View):
        return (
            f"view {service.view} has no version {service.version} at {where}: `ensue views list` says which it has, "
            f"`ensue views rebuild` builds this one; is ENSUE_HOME or {database_variable(service.view)} set as its "
            "processes have it?"
        )
    return (
        f"service {service.name} has no database at {where} (or not Ensue's tables in it): run the service once, or "
        f"`ensue db init`; is ENSUE_HOME or {database_variable(service.name)} set as the service has it?"
    )


async def refuse_living_workers(access: Opened, force: bool) -> None:
    """Raise UsageError when a worker of the service seems to live, unless the operator knows better."""
    living = [worker for worker in (await access.books.leases()).workers if not is_gone(worker)]
    if living and not force:
        raise UsageError(
            f"service {access.service.name} runs ({', '.join(living)}), and would go on as before: stop it "
            f"first. A worker that was killed counts as alive for {access.settings.engine.lease_ttl_s:g} s; --force: "
            "I know that none runs"
        )


async def dispatcher_of(access: Opened) -> Dispatcher:
    """By which records are written into the outbox of a service that does not run here."""
    settings, ids = access.settings, HallmarkedIds(UniqueIds(), SystemClock())
    await ids.begin(access.store)
    return Dispatcher(access.service, ids, settings.partitions, settings.engine.record_bytes_max, hallmarked=ids.of_now)
