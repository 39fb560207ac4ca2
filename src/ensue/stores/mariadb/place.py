"""A version's place on a MariaDB server: a database of its own, `history_v2` beside `history`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ensue.errors import UsageError
from ensue.stores.mariadb.link import connect
from ensue.stores.mariadb.rows import quoted
from ensue.stores.mariadb.url import parse
from ensue.stores.places import place_name, store_name
from ensue.stores.sql.link import Link

_NAME_MAX = 64
#: Access denied to the database; a command denied.
_DENIED = (1044, 1142)


class OwnPlace:
    """See `ensue.ports.Place`. What makes and removes it connects to the database of the URL, which has to be there."""

    def __init__(self, url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> None:
        self._base = parse(url, connect_args)
        parts = urlsplit(url)
        self.service = store_name(service, suffix)
        self._database = place_name(unquote(parts.path.lstrip("/")), suffix, _NAME_MAX, "database")
        self.url = urlunsplit(parts._replace(path="/" + quote(self._database, safe="")))

    async def make(self) -> None:
        """With the letters and the order of the database beside it, which is what its tables were tried with."""
        link = await connect(self._base)
        try:
            [(there,)] = await link.fetch(
                "SELECT count(*) FROM information_schema.schemata WHERE schema_name = %s", self._database
            )
            if there:
                return  # whoever may not make databases has had somebody else do it
            [(characters, order)] = await link.fetch("SELECT @@character_set_database, @@collation_database")
            await self._do(
                link,
                f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)} CHARACTER SET {characters} COLLATE {order}",
            )
        finally:
            await link.close()

    async def remove(self) -> None:
        link = await connect(self._base)
        try:
            await self._do(link, f"DROP DATABASE IF EXISTS {quoted(self._database)}")
        finally:
            await link.close()

    async def _do(self, link: Link, text: str) -> None:
        try:
            await link.script(text)
        except Exception as error:
            if getattr(error, "args", ())[:1] and error.args[0] in _DENIED:
                pattern = self._base.arguments["database"].replace("_", r"\_") + r"\_%"
                raise UsageError(
                    f"{self._base.place}: this user may not make or remove database {self._database}, in which a "
                    f"version of the view lives: GRANT ALL ON `{pattern}`.* TO it"
                ) from error
            raise
