"""The one service of a Django project, as its settings have it: `ENSUE = {"SERVICE": "orders", ...}`."""

from __future__ import annotations

import datetime
import functools
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from ensue.command import Command
from ensue.errors import UsageError
from ensue.handling import name_of
from ensue.integrations.django import publishing
from ensue.integrations.django.service import DjangoService, of_thread, services

R = TypeVar("R")

#: What ENSUE may hold, and the parameter of `DjangoService` that it is.
KEYS = {
    "SERVICE": "name", "USING": "using", "BROKER": "broker", "PARTITIONS": "partitions", "PUBLISHES": "publishes",
    "CALLS": "calls", "LANES": "lanes", "RETRY": "retry", "HANDLER_LIMIT_S": "handler_limit_s",
    "STORE_OPTIONS": "store_options",
}  # fmt: skip


@functools.cache
def service() -> DjangoService:
    """The project's service. Raises UsageError when settings.ENSUE does not say which."""
    options = {KEYS[key]: value for key, value in project_settings().items()}
    options.pop("publishes", None)
    if "calls" in options:
        options["calls"] = _commands()
    found = DjangoService(options.pop("name"), **options)
    if apps.ready:
        declare_publications(found)
    return found


def all_services() -> list[DjangoService]:
    """The project's service, then the others that its modules declare. Raises UsageError as `service` does."""
    project = service()
    return [project, *(each for name, each in sorted(services.items()) if name != project.name)]


_reading_calls = threading.local()


def _commands() -> list[type]:
    """CALLS, as the service is made: sagas that are declared next are checked against it."""
    if getattr(_reading_calls, "now", False):
        raise UsageError(
            "settings.ENSUE['CALLS'] names a command in a module that declares handlers or sagas as it is imported: "
            "they need the service, which needs CALLS. Give the commands a module of their own"
        )
    _reading_calls.now = True
    try:
        return _imported("CALLS")
    finally:
        _reading_calls.now = False


def declare_publications(of: DjangoService) -> None:
    """Read PUBLISHES, once the apps are there: the modules that it names may declare handlers, so they ask for the
    service as they are imported. Raises UsageError."""
    if "PUBLISHES" not in project_settings():
        return
    of.declare_publications(_imported("PUBLISHES"))


def _imported(key: str) -> list[type]:
    try:
        return [
            import_string(each) if isinstance(each, str) else each for each in _listed(key, project_settings()[key])
        ]
    except ImportError as error:
        raise UsageError(f"settings.ENSUE[{key!r}]: {error}") from error


def project_settings() -> Mapping[str, Any]:
    """settings.ENSUE. Raises UsageError that says what is wrong with it."""
    found = getattr(settings, "ENSUE", None)
    if not isinstance(found, Mapping) or "SERVICE" not in found:
        raise UsageError(
            f"settings.ENSUE is {found!r:.60}: expected at least the service's name, "
            'ENSUE = {"SERVICE": "orders", "BROKER": "nats://localhost:4222"}'
        )
    unknown = sorted(map(str, found.keys() - KEYS.keys()))
    if unknown:
        raise UsageError(f"settings.ENSUE has {', '.join(unknown)}; expected {', '.join(KEYS)}", found=unknown)
    return found


def _listed(key: str, given: Any) -> Any:
    if isinstance(given, str):
        raise UsageError(f"settings.ENSUE[{key!r}] is {given!r}, expected a list: [{given!r}]")
    return given


def publish(
    event: object,
    *more: object,
    service: DjangoService | None = None,
    extensions: Mapping[str, str] | None = None,
    after: datetime.timedelta | None = None,
    at: datetime.datetime | None = None,
) -> None:
    """Publish events with the rows that they tell of: inside `transaction.atomic`, or in a handler.

    They go out if and only if that transaction commits, and go with a savepoint that is rolled back. Write the rows
    first: their locks put the events of one key in order. extensions, after, at: as for `Step.publish`.
    service: whose events these are; else the one that declares to publish them, else that of the handler, else the
    project's. Raises UsageError outside of `atomic`, on an event loop, where several services declare it, and as
    `Step.publish` does.
    """
    events = (event, *more)
    publishing.publish(service or publishing.owner(_service, events), events, extensions, after, at)


def send(
    command: Command[Any],
    *,
    service: DjangoService | None = None,
    extensions: Mapping[str, str] | None = None,
    after: datetime.timedelta | None = None,
    at: datetime.datetime | None = None,
) -> None:
    """Send a command with the rows of this transaction, or of this handler, as `publish` an event. See `Step.send`."""
    of = service or _here()
    step = publishing.step_of(of)
    if step is None:
        of.outlet.send(command, extensions, after, at)
    else:
        step.send(command, extensions, after=after, at=at)


def start(saga: Callable[[Any, R], Awaitable[Any]], request: R, *, id: object) -> None:
    """Start a saga with the rows of this transaction, or of this handler: `start(place_order, request, id=order.pk)`.

    See `Step.start`. Raises UsageError outside of `atomic`, and for what is no saga of a service of this project.
    """
    declared = getattr(saga, "__ensue_saga__", None)
    of = (None if declared is None else services.get(declared.service)) or _here()
    step = publishing.step_of(of)
    if step is None:
        of.outlet.say([lambda step: step.start(saga, request, id=id)], f"start({name_of(saga)})")
    else:
        step.start(saga, request, id=id)


def _here() -> DjangoService:
    """The service of the handler that runs in this thread, else the project's."""
    step = of_thread.step
    return (None if step is None else services.get(step.outgoing.service)) or service()


def _service() -> DjangoService:
    return service()


def on(function: Any = None, /, **options: Any) -> Any:
    """Declare a handler of an event: `@on` above a plain function. See `Service.on`."""
    return service().on(function, **options) if function is not None else service().on(**options)


def handles(function: Any = None, /, **options: Any) -> Any:
    """Declare the handler of a command. See `Service.handles`."""
    return service().handles(function, **options) if function is not None else service().handles(**options)


def every(schedule: str | datetime.timedelta, /, **options: Any) -> Any:
    """Declare a recurring step. See `Service.every`."""
    return service().every(schedule, **options)


def local(function: Any = None, /, **options: Any) -> Any:
    """Declare a local step of sagas, a plain function that uses the ORM. See `Service.local`."""
    return service().local(function, **options) if function is not None else service().local(**options)


def outside(function: Any = None, /, **options: Any) -> Any:
    """Declare an outside function of sagas: an `async def`, in no transaction. See `Service.outside`."""
    return service().outside(function, **options) if function is not None else service().outside(**options)


def saga(function: Any = None, /, **options: Any) -> Any:
    """Declare a saga, an `async def` that asks for steps and does nothing itself. See `Service.saga`."""
    return service().saga(function, **options) if function is not None else service().saga(**options)
