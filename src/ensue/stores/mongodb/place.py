"""A version's place on a server of the MongoDB protocol: a database of its own, `history_v2` beside `history`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ensue.stores.mongodb.server import Server
from ensue.stores.places import place_name, store_name

_NAME_MAX = 63


class OwnPlace:
    """See `ensue.ports.Place`."""

    def __init__(self, url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> None:
        parts = urlsplit(url)
        given = unquote(parts.path.strip("/"))
        self.service = store_name(service, suffix)
        name = place_name(given or service, suffix, _NAME_MAX, "database")
        options = parse_qsl(parts.query, keep_blank_values=True)
        if given and "@" in parts.netloc and not any(each.lower() == "authsource" for each, _ in options):
            options.append(("authSource", given))  # where the user is known: else that would be the database's name
        query = urlencode(options, quote_via=quote)
        self.url = urlunsplit(parts._replace(path="/" + quote(name, safe=""), query=query))

    async def make(self) -> None:
        """A collection makes its database."""

    async def remove(self) -> None:
        server = Server(self.url, self.service)
        try:
            await server.drop()
        finally:
            await server.close()
