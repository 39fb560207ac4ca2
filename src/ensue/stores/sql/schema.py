"""Ensue's own tables in a service's database, and the store's identity in them.

Column names avoid the words that SQL databases reserve (`partition`, `key`, `offset`).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from ensue.errors import StoreOutdated, UsageError
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link

VERSION = 1

#: {name}, {text}, {blob}, {number} (generated), {real}: the dialect's types; {end}: what it says after
#: a table. {letter_index}: an index on subscription, topic, partition_no, id, where a table can hold one.
_TABLES = (
    # Who this store is. outbox_mode: how positions are found.
    """CREATE TABLE {never} ensue_meta (
        one SMALLINT PRIMARY KEY CHECK (one = 1),
        schema_version INTEGER NOT NULL,
        service {name} NOT NULL,
        outbox_mode {name} NOT NULL
    ){end}""",
    # The last position given out. Its row lock is what keeps two relays from stamping at once.
    # published_from: records at or below it belong to an earlier epoch and are never sent again.
    """CREATE TABLE {never} ensue_counter (
        one SMALLINT PRIMARY KEY CHECK (one = 1),
        last_position BIGINT NOT NULL,
        epoch {name} NOT NULL,
        published_from BIGINT NOT NULL
    ){end}""",
    # changes: counts operators' decisions, for those who wait and cannot be told.
    """CREATE TABLE {never} ensue_relay (
        one SMALLINT PRIMARY KEY CHECK (one = 1),
        position BIGINT NOT NULL,
        changes BIGINT NOT NULL
    ){end}""",
    # The last position of each partition: what the next record's `previous` will be. Survives pruning.
    """CREATE TABLE {never} ensue_outbox_head (
        topic {name} NOT NULL,
        partition_no INTEGER NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (topic, partition_no)
    ){end}""",
    # counters and gaps are JSON: few, and always read and written together with their checkpoint.
    """CREATE TABLE {never} ensue_checkpoint (
        subscription {name} NOT NULL,
        topic {name} NOT NULL,
        partition_no INTEGER NOT NULL,
        log_offset BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        counters {text} NOT NULL,
        gaps {text} NOT NULL,
        PRIMARY KEY (subscription, topic, partition_no)
    ){end}""",
    # A table of its own, because a batch writes the watermarks of the sources it saw and no others.
    """CREATE TABLE {never} ensue_watermark (
        subscription {name} NOT NULL,
        topic {name} NOT NULL,
        partition_no INTEGER NOT NULL,
        source {long_name} NOT NULL,
        position BIGINT NOT NULL,
        PRIMARY KEY (subscription, topic, partition_no, source)
    ){end}""",
    # source and record_key as bytes: what strangers send need not be text that a database takes.
    """CREATE TABLE {never} ensue_dead_letter (
        id {number},
        subscription {name} NOT NULL,
        topic {name} NOT NULL,
        partition_no INTEGER NOT NULL,
        log_offset BIGINT NOT NULL,
        source {blob} NOT NULL,
        position BIGINT NOT NULL,
        previous BIGINT NOT NULL,
        record_key {blob} NOT NULL,
        envelope {blob} NOT NULL,
        data {blob} NOT NULL,
        state {name} NOT NULL,
        attempts INTEGER NOT NULL,
        due_at {real} NOT NULL,
        error_type {text} NOT NULL,
        error {text} NOT NULL,
        parked_at {real} NOT NULL{letter_index}
    ){end}""",
    # digest: SHA-256 of subscription, source and id, which may be of any length. claim: which statement made it.
    """CREATE TABLE {never} ensue_inbox (
        number {number},
        digest {digest} NOT NULL UNIQUE,
        claim {claim} NOT NULL,
        claimed_at {real} NOT NULL
    ){end}""",
    """CREATE TABLE {never} ensue_response (
        number {number},
        digest {digest} NOT NULL UNIQUE,
        response_key {text} NOT NULL,
        fingerprint {text} NOT NULL,
        status INTEGER NOT NULL,
        headers {text} NOT NULL,
        body {blob} NOT NULL,
        saved_at {real} NOT NULL
    ){end}""",
    """CREATE TABLE {never} ensue_worker (
        name {long_name} PRIMARY KEY,
        expires_at {real} NOT NULL
    ){end}""",
    """CREATE TABLE {never} ensue_lease (
        name {long_name} PRIMARY KEY,
        owner {long_name} NOT NULL,
        expires_at {real} NOT NULL
    ){end}""",
)


class Identity(NamedTuple):
    """Whose store it is, and since which position its present history counts."""

    service: str
    epoch: str
    published_from: int

    @property
    def source(self) -> str:
        return f"{self.service}/{self.epoch}"


def new_epoch_name() -> str:
    """Eight random hexadecimal digits: a copy of a database that begins anew must not share its original's name."""
    return secrets.token_hex(4)


def statements(dialect: Dialect) -> Sequence[str]:
    """What creates Ensue's tables, the outbox's among them, without the first rows."""
    return [text.format_map(dialect.types) for text in (*_TABLES, *dialect.outbox_tables)]


def first_rows(service: str, mode: str, epoch: str) -> Sequence[str]:
    """What fills new tables. epoch: an SQL expression."""
    name = service.replace("'", "''")
    return [
        f"INSERT INTO ensue_counter VALUES (1, 0, {epoch}, 0)",
        "INSERT INTO ensue_relay VALUES (1, 0, 0)",
        # Last: where tables cannot be made in a transaction, this row says that all the others are there.
        f"INSERT INTO ensue_meta VALUES (1, {VERSION}, '{name}', '{mode}')",
    ]


async def exists(link: Link, dialect: Dialect) -> bool:
    """Whether the tables are there and filled, of whatever version."""
    [(there,)] = await link.fetch(dialect.exists)
    if not there:
        return False
    return bool(await link.fetch("SELECT 1 FROM ensue_meta"))


async def create(link: Link, dialect: Dialect, service: str, mode: str) -> None:
    """Create the tables and their first rows, inside what keeps other processes from doing so at once."""
    for text in (*statements(dialect), *first_rows(service, mode, f"'{new_epoch_name()}'")):
        await link.script(text)


async def check(link: Link, service: str) -> str:
    """Return the outbox's mode. Raises StoreOutdated for tables of another version, UsageError for another's store."""
    [(found, owner, mode)] = await link.fetch("SELECT schema_version, service, outbox_mode FROM ensue_meta")
    if found != VERSION:
        raise StoreOutdated(
            f"{link.place}: Ensue's tables are of version {found}, this version of Ensue works with {VERSION}. "
            + ("Run a newer Ensue" if found > VERSION else "Start anew, or migrate with the Ensue that made them"),
            found=found,
            expected=VERSION,
        )
    if owner != service:
        raise UsageError(
            f"{link.place} is the database of service {owner!r}, not of {service!r}: each service has a database of "
            "its own. Give another database, or another schema (?schema=) in this one",
            found=owner,
            expected=service,
        )
    return str(mode)


async def identity(link: Link, service: str) -> Identity:
    [(epoch, published_from)] = await link.fetch("SELECT epoch, published_from FROM ensue_counter")
    return Identity(service, str(epoch), int(published_from))
