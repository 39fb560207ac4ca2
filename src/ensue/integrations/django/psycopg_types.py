"""The types that psycopg knows on Django's connections of an alias: for statements that are sent on another one."""

from __future__ import annotations

import threading
from typing import Any

from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.postgresql.psycopg_any import get_adapters_template
from psycopg.adapt import AdaptersMap

_lock = threading.Lock()
#: By alias: of which backend and settings, and what it came to.
_made: dict[str, tuple[type, Any, AdaptersMap]] = {}


def adapters_of(wrapper: Any) -> AdaptersMap:
    """wrapper: one of `lending`. Raises django.db's errors."""
    backend, settings = wrapper.of_backend, wrapper.settings_dict
    if backend.get_new_connection is DatabaseWrapper.get_new_connection:
        return get_adapters_template(wrapper.timezone is not None, wrapper.timezone)  # type: ignore[no-any-return]
    # A backend that registers types of its own as it connects (PostGIS: geometries) does so on psycopg's plain
    # connection. It is had to make one, once in a process, and what it has registered there is taken over.
    with _lock:
        known = _made.get(wrapper.alias)
        if known is None or known[0] is not backend or known[1] is not settings:
            own = backend(settings, wrapper.alias)
            own.connect()
            try:
                known = _made[wrapper.alias] = (backend, settings, AdaptersMap(own.connection.adapters))
            finally:
                own.close()
        return known[2]
