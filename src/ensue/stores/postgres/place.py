"""A version's place in a PostgreSQL database: a schema, `history_v2`, which is all of its connections' search path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from ensue.stores.places import place_name, store_name
from ensue.stores.postgres.handshake import quoted
from ensue.stores.postgres.store import connect
from ensue.stores.postgres.url import parse

#: PostgreSQL cuts a longer name without a word.
_NAME_MAX = 63


class OwnPlace:
    """See `ensue.ports.Place`. Of a URL without `schema` the schemas are named after the view."""

    def __init__(self, url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> None:
        base = parse(url, connect_args).schema or service
        self.service = store_name(service, suffix)
        self._schema = place_name(base, suffix, _NAME_MAX, "schema")
        parts = urlsplit(url)
        # What nothing is published from needs no slot in the server's log.
        kept = [each for each in parse_qsl(parts.query, keep_blank_values=True) if each[0] not in ("schema", "outbox")]
        self.url = urlunsplit(parts._replace(query=urlencode([*kept, ("schema", self._schema)], quote_via=quote)))
        self._parsed = parse(self.url, connect_args)

    async def make(self) -> None:
        """The store makes its schema, with its tables in it."""

    async def remove(self) -> None:
        link = await connect(self._parsed)
        try:
            await link.script(f"DROP SCHEMA IF EXISTS {quoted(self._schema)} CASCADE")
        finally:
            await link.close()
