"""The SQL of the log in PostgreSQL. Each statement has a name and says what it is for.

`{s}` is the quoted schema. Keys and sources are bytes, as in every log: a text column refuses the character 0, and a
record that is refused would hold up its relay for ever. The view `log` shows them as text.
"""

from __future__ import annotations

import dataclasses

#: The version of the tables.
VERSION = 1
#: A read stops after this much data, so that 500 records of 10 MB do not come at once.
READ_BYTES_MAX = 8 * 1024 * 1024

#: One person at a time makes tables and topics. The number is any, but always the same.
LOCK = "SELECT pg_advisory_xact_lock(7308603, hashtext($1))"

#: Partition ids begin at the time of the making, in µs: when a log is dropped and made again, the ids that a running
#: process remembers mean nothing in the new one, rather than somebody else's partition.
#: fillfactor: the head's row changes with every append; with room on its page that makes no index entry (HOT).
CREATE = (
    "CREATE SCHEMA IF NOT EXISTS {s}",
    "CREATE TABLE {s}.version (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL)",
    "INSERT INTO {s}.version (version) VALUES ({version})",
    """DO $make$ BEGIN EXECUTE format(
        'CREATE TABLE {s}.partitions (
            id bigint GENERATED ALWAYS AS IDENTITY (START WITH %s) PRIMARY KEY,
            topic text NOT NULL,
            number integer NOT NULL,
            last_offset bigint NOT NULL DEFAULT 0,
            UNIQUE (topic, number)
        ) WITH (fillfactor = 10)', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    END $make$""",
    """CREATE TABLE {s}.records (
        partition_id bigint NOT NULL,
        "offset" bigint NOT NULL,
        position bigint NOT NULL,
        previous bigint NOT NULL,
        appended_at timestamptz NOT NULL,
        key bytea NOT NULL,
        source bytea NOT NULL,
        envelope bytea NOT NULL,
        data bytea NOT NULL,
        PRIMARY KEY (partition_id, "offset")
    )""",
    """CREATE VIEW {s}.log AS
        SELECT p.topic, p.number AS partition, r."offset", r.appended_at, encode(r.key, 'escape') AS key,
            encode(r.source, 'escape') AS source, r.position, r.previous, encode(r.envelope, 'escape') AS envelope,
            r.data
        FROM {s}.records r JOIN {s}.partitions p ON p.id = r.partition_id""",
)

#: Is there a log here? One row, with false or true.
EXISTS = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'version')"


@dataclasses.dataclass(frozen=True, slots=True)
class Statements:
    """All statements for one schema."""

    schema: str
    create: tuple[str, ...]
    version: str
    topics: str
    partition_ids: str
    add_topic: str
    append: str
    heads: str
    read: str
    bounds: str
    prune: str

    @property
    def channel(self) -> str:
        """The quoted channel of NOTIFY: channels belong to the database, so it has the schema's name."""
        return quoted(self.schema)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def statements(schema: str) -> Statements:
    """Return the statements with the schema's name in them."""
    s = quoted(schema)
    # Inside format() a percent sign means something, and inside its literal so does a single quote.
    in_format = s.replace("%", "%%").replace("'", "''")
    return Statements(
        schema=schema,
        create=tuple(
            each.replace("{s}", in_format if each.startswith("DO") else s).replace("{version}", str(VERSION))
            for each in CREATE
        ),
        version=f"SELECT version FROM {s}.version",
        topics=f"SELECT topic, count(*) FROM {s}.partitions GROUP BY topic",
        partition_ids=f"SELECT id FROM {s}.partitions WHERE topic = $1 ORDER BY number",
        add_topic=f"INSERT INTO {s}.partitions (topic, number) SELECT $1, generate_series(0, $2::integer - 1)",
        # The heads are locked in the order of their ids, so two appends over the same partitions cannot deadlock; the
        # locks are held to the commit, so an offset is never seen before a lower one. An asynchronous commit that is
        # lost in a crash would have been acknowledged: `synced` switches it on for this transaction.
        append=f"""WITH synced AS MATERIALIZED (
                SELECT CASE WHEN current_setting('synchronous_commit') = 'off'
                    THEN set_config('synchronous_commit', 'on', true) END
            ), locked AS MATERIALIZED (
                SELECT p.id FROM {s}.partitions p, synced WHERE p.id = ANY($1::bigint[]) ORDER BY p.id
                FOR NO KEY UPDATE OF p
            ), taken AS (
                UPDATE {s}.partitions p SET last_offset = p.last_offset + w.count
                FROM locked l JOIN unnest($1::bigint[], $2::integer[]) AS w (id, count) ON w.id = l.id
                WHERE p.id = l.id RETURNING p.id, p.last_offset, p.last_offset - w.count AS base
            ), added AS (
                INSERT INTO {s}.records
                    (partition_id, "offset", position, previous, appended_at, key, source, envelope, data)
                SELECT t.id, t.base + r.nth, r.position, r.previous, clock_timestamp(), r.key, $3, r.envelope, r.data
                FROM unnest($4::bigint[], $5::integer[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[],
                    $10::bytea[]) AS r (id, nth, position, previous, key, envelope, data)
                JOIN taken t ON t.id = r.id
            )
            SELECT id, last_offset FROM taken""",
        heads=f"SELECT id, last_offset FROM {s}.partitions WHERE id = ANY($1::bigint[])",
        read=f"""SELECT "offset", position, previous, key, source, envelope, data FROM (
                SELECT *, sum(octet_length(data)) OVER (ORDER BY "offset") - octet_length(data) AS size_before FROM (
                    SELECT * FROM {s}.records WHERE partition_id = $1 AND "offset" > $2 ORDER BY "offset" LIMIT $3
                ) AS found
            ) AS sized WHERE size_before < {READ_BYTES_MAX} ORDER BY "offset" """,
        bounds=f"""SELECT (SELECT min("offset") FROM {s}.records WHERE partition_id = $1) AS first, last_offset AS last
            FROM {s}.partitions WHERE id = $1""",
        # The oldest only: what lies behind a young record stays.
        prune=f"""WITH oldest AS MATERIALIZED (
                SELECT "offset", appended_at FROM {s}.records WHERE partition_id = $1 ORDER BY "offset" LIMIT $3
            ), last_old AS (
                SELECT max("offset") AS last FROM oldest WHERE "offset" < coalesce(
                    (SELECT min("offset") FROM oldest WHERE appended_at >= to_timestamp($2::double precision)),
                    9223372036854775807)
            )
            DELETE FROM {s}.records r USING last_old WHERE r.partition_id = $1 AND r."offset" <= last_old.last""",
    )
