"""Fills a PostgreSQL store's outbox with valid, sent records, as fast as the server writes rows."""

from __future__ import annotations

import time

from servers import PostgresServer

from benchmarks import workload
from benchmarks.workload import IN
from ensue.codec import encode_envelope
from ensue.event import event_type
from ensue.message import Envelope

_TIME = "2011-12-09T12:50:00.000000Z"


def fill(server: PostgresServer, database: str, partitions: int, rows: int, *, oldest_s: float, per_s: float) -> None:
    """Give the outbox `rows` records with positions from 1 on, the first written oldest_s ago, then per_s a second.

    The database's store must have made its tables, and be empty. The chain of each partition is right: records go to
    partitions in turn. Everything counts as sent.
    """
    sample = next(workload.transfers(1))
    spec = event_type(type(sample))
    data = spec.write(sample).decode().replace("'", "''")
    envelope = encode_envelope(Envelope("0123456789abcdef-@", spec.type, _TIME, "fedcba9876543210-@")).decode()
    before, middle, after = envelope.split("@")
    first = time.time() - oldest_s
    server.run(
        *server.client(database),
        f"INSERT INTO ensue_outbox (topic, partition_no, record_key, envelope, data, written_at) "
        f"SELECT '{IN}', n % {partitions}, 'account-' || lpad((n % 1000)::text, 6, '0'), "
        f"convert_to('{before}' || to_hex(n) || '{middle}' || to_hex(n) || '{after}', 'UTF8'), "
        f"convert_to('{data}', 'UTF8'), {first!r} + n / {per_s!r}::float8 "
        f"FROM generate_series(1, {rows}) n",
        limit_s=600,
    )
    server.run(
        *server.client(database),
        f"INSERT INTO ensue_stamp (last, ids, previous) SELECT max(n), array_agg(n ORDER BY n), "
        f"array_agg(greatest(n - {partitions}, 0) ORDER BY n) FROM generate_series(1, {rows}) n GROUP BY (n - 1) / 500",
        limit_s=600,
    )
    server.psql(
        database,
        f"INSERT INTO ensue_outbox_head SELECT topic, partition_no, max(id) FROM (SELECT * FROM ensue_outbox "
        f"WHERE id > {rows - partitions}) last GROUP BY topic, partition_no",
    )
    server.psql(database, f"UPDATE ensue_counter SET last_position = {rows}")
    server.psql(database, f"UPDATE ensue_polled SET seen_id = {rows}")
    source = "SELECT service || '/' || epoch FROM ensue_meta, ensue_counter"
    server.psql(database, f"INSERT INTO ensue_relay (id, position) VALUES (({source}), {rows})")
    vacuum(server, database)


def vacuum(server: PostgresServer, database: str) -> None:
    """Leave nothing to be done later of what the filling left behind."""
    server.run(*server.client(database), "VACUUM (ANALYZE) ensue_outbox, ensue_stamp", limit_s=600)
    server.psql(database, "CHECKPOINT")
