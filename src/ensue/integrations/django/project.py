"""The one service of a Django project, as its settings have it: `ENSUE = {"SERVICE": "orders", ...}`."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from ensue.errors import UsageError
from ensue.integrations.django import publishing
from ensue.integrations.django.service import DjangoService

#: What ENSUE may hold, and the parameter of `DjangoService` that it is.
KEYS = {
    "SERVICE": "name", "USING": "using", "BROKER": "broker", "PARTITIONS": "partitions", "PUBLISHES": "publishes",
    "LANES": "lanes", "RETRY": "retry", "HANDLER_LIMIT_S": "handler_limit_s", "STORE_OPTIONS": "store_options",
}  # fmt: skip


@functools.cache
def service() -> DjangoService:
    """The project's service. Raises UsageError when settings.ENSUE does not say which."""
    options = {KEYS[key]: value for key, value in project_settings().items()}
    options.pop("publishes", None)
    found = DjangoService(options.pop("name"), **options)
    if apps.ready:
        declare_publications(found)
    return found


def declare_publications(of: DjangoService) -> None:
    """Read PUBLISHES, once the apps are there: the modules that it names may declare handlers, so they ask for the
    service as they are imported. Raises UsageError."""
    if "PUBLISHES" not in project_settings():
        return
    try:
        classes = [
            import_string(each) if isinstance(each, str) else each for each in _listed(project_settings()["PUBLISHES"])
        ]
    except ImportError as error:
        raise UsageError(f"settings.ENSUE['PUBLISHES']: {error}") from error
    of.declare_publications(classes)


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


def _listed(given: Any) -> Any:
    if isinstance(given, str):
        raise UsageError(f"settings.ENSUE['PUBLISHES'] is {given!r}, expected a list: [{given!r}]")
    return given


def publish(
    event: object,
    *more: object,
    extensions: Mapping[str, str] | None = None,
    after: datetime.timedelta | None = None,
    at: datetime.datetime | None = None,
) -> None:
    """Publish events with the rows that they tell of: inside `transaction.atomic`, or in a handler.

    They go out if and only if that transaction commits, and go with a savepoint that is rolled back. Write the rows
    first: their locks put the events of one key in order. extensions, after, at: as for `Step.publish`.
    Raises UsageError outside of `atomic`, and as `Step.publish` does.
    """
    publishing.publish(service(), (event, *more), extensions, after, at)


def on(function: Any = None, /, **options: Any) -> Any:
    """Declare a handler of an event: `@on` above a plain function. See `Service.on`."""
    return service().on(function, **options) if function is not None else service().on(**options)


def handles(function: Any = None, /, **options: Any) -> Any:
    """Declare the handler of a command. See `Service.handles`."""
    return service().handles(function, **options) if function is not None else service().handles(**options)


def every(schedule: str | datetime.timedelta, /, **options: Any) -> Any:
    """Declare a recurring step. See `Service.every`."""
    return service().every(schedule, **options)
