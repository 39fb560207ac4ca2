"""From an entry of Django's DATABASES to the URL by which Ensue's store opens the same database."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from ensue.errors import UsageError

#: Of OPTIONS on PostgreSQL, what says how Django's own connections are opened, kept, and asked: Ensue's are not.
_DJANGOS = frozenset({"isolation_level", "server_side_binding", "pool", "prepare_threshold"})
VENDORS = ("sqlite", "postgresql")


def database_url(connection: Any, options: Mapping[str, object]) -> str:
    """Return the URL of the database that a connection of Django's has.

    connection: Django's, whether open or not. options: those of the store's URL, `{"outbox": "wal"}` say.
    Raises UsageError for a database that Ensue's workers cannot share with Django.
    """
    alias, known = connection.alias, connection.settings_dict
    if connection.vendor == "sqlite":
        return _sqlite(connection, alias, options)
    if connection.vendor == "postgresql":
        return _postgresql(connection, alias, known, options)
    raise UsageError(
        f"DATABASES[{alias!r}] is one of {connection.vendor}, and Ensue works with Django on SQLite and PostgreSQL: "
        "choose another alias, ENSUE['USING']",
        expected=" or ".join(VENDORS),
        found=connection.vendor,
    )


def in_memory(connection: Any) -> bool:
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())


def _sqlite(connection: Any, alias: str, options: Mapping[str, object]) -> str:
    name = str(connection.settings_dict["NAME"])
    if in_memory(connection):
        # Of no use to a worker, which is another connection; events are published in it all the same (TestCase).
        return f"sqlite:///{_MEMORY}{alias}"
    if name.startswith("file:") or "?" in name:
        raise UsageError(f"DATABASES[{alias!r}]: NAME is {name!r}, expected the path of a file", found=name)
    query = urlencode({key: str(value) for key, value in options.items()})
    return f"sqlite:///{os.path.abspath(name)}" + (f"?{query}" if query else "")


#: Begins the path in the URL of a database that is in the memory of one process.
_MEMORY = "in the memory of Django's connection "


def is_in_memory(url: str) -> bool:
    return url.startswith(f"sqlite:///{_MEMORY}")


def _for_libpq(alias: str, given: Mapping[str, Any], options: Mapping[str, object]) -> dict[str, Any]:
    """What OPTIONS say of how to reach the server, and as whom. Raises UsageError for what Ensue cannot do."""
    role = given.get("assume_role")
    found = {
        name: value
        for name, value in given.items()
        if name not in _DJANGOS and name != "assume_role" and value is not None
    }
    odd = sorted(found.keys() - _libpqs())
    if odd:
        raise UsageError(
            f"DATABASES[{alias!r}]: OPTIONS has {', '.join(odd)}, which is not for libpq, and handlers run on Ensue's "
            "own connections: leave it out, or give Ensue another alias of the same database, ENSUE['USING']",
            found=odd,
        )
    if not role:
        return found
    if options.get("pgbouncer") or options.get("outbox") == "wal":
        raise UsageError(
            f"DATABASES[{alias!r}]: OPTIONS has assume_role, which cannot be said behind PgBouncer, nor where the "
            "server's log is read (outbox=wal): have the role set by the server, ALTER ROLE ... SET role"
        )
    escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
    found["options"] = f"{found['options']} -c role={escaped}" if found.get("options") else f"-c role={escaped}"
    return found


def _libpqs() -> frozenset[str]:
    from psycopg.pq import Conninfo

    return frozenset(each.keyword.decode() for each in Conninfo.get_defaults())


def _postgresql(connection: Any, alias: str, known: Mapping[str, Any], options: Mapping[str, object]) -> str:
    given = _for_libpq(alias, known["OPTIONS"], options)
    if "schema" in options:
        raise UsageError(
            "store_options has schema: Ensue's tables are where Django's own are, so say it to both, by DATABASES: "
            'OPTIONS: {"options": "-c search_path=..."}'
        )
    if not options.get("pgbouncer"):  # which takes no such options
        # Django takes it for granted that the server speaks of times in this zone.
        zone = f"-c TimeZone={connection.timezone_name}"
        given["options"] = f"{given['options']} {zone}" if given.get("options") else zone
    host, port = str(known["HOST"] or ""), str(known["PORT"] or "")
    if host.startswith("/"):
        given |= {"host": host} | ({"port": port} if port else {})
        host = port = ""
    user, password = str(known["USER"] or ""), str(known["PASSWORD"] or "")
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    query = urlencode({name: str(value) for name, value in {**given, **options}.items()}, quote_via=quote)
    netloc = f"{who}@{place}" if who else place
    return f"postgresql+psycopg://{netloc}/{quote(str(known['NAME'] or ''), safe='')}?{query}"
