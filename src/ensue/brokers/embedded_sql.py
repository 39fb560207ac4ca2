"""The SQL of the embedded log. Each statement has a name and says what it is for; a test checks the plan of each.

The log has one integer key, partition id * 2**40 + offset, rather than PRIMARY KEY (partition, offset) WITHOUT ROWID or
a row id with an index on the two. Measured (batches of 100, 8 partitions, µs a record to append / to read): with 300
bytes of data 4.1 / 0.8, 4.5 / 0.8 and 4.2 / 0.9, so it hardly matters; with 1,500 bytes 8.5 / 1.3, 23.2 / 2.7 and
9.1 / 1.3, because rows of a WITHOUT ROWID table spill into pages of their own above 1,000 bytes. One key is never the
slower one, and at 1,000,000 records it is no slower than at 10,000.
"""

from __future__ import annotations

OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1

#: Marks the file as ours ("Ensu"), with the version of its tables beside it.
APPLICATION_ID = 0x456E7375
VERSION = 1

#: `last_offset` is kept here and not taken from the log, so that pruning everything does not give offsets twice.
#: `records` is the log as a person would want to see it: sqlite3 broker.db "SELECT * FROM records".
SCHEMA = (
    """CREATE TABLE partitions (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        number INTEGER NOT NULL,
        last_offset INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, number)
    ) STRICT""",
    """CREATE TABLE log (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        source TEXT NOT NULL,
        position INTEGER NOT NULL,
        previous INTEGER NOT NULL,
        appended_at REAL NOT NULL,
        envelope BLOB NOT NULL,
        data BLOB NOT NULL
    ) STRICT""",
    f"""CREATE VIEW records AS
        SELECT topic, number AS partition, log.id & {OFFSET_MASK} AS offset, log.*
        FROM log JOIN partitions ON partitions.id = log.id >> {OFFSET_BITS}""",
)

#: What is in this file? Refuses somebody else's database.
COUNT_TABLES = "SELECT count(*) FROM sqlite_master"

#: Every topic, for `topics`.
TOPICS = "SELECT topic, count(*) FROM partitions GROUP BY topic"

#: The row ids of a topic's partitions by number, for the cache.
PARTITION_IDS = "SELECT id FROM partitions WHERE topic = ? ORDER BY number"

#: One partition of a new topic.
ADD_PARTITION = "INSERT INTO partitions (topic, number) VALUES (?, ?)"

#: Take the next offsets, inside the transaction that appends.
TAKE_OFFSETS = "UPDATE partitions SET last_offset = last_offset + ? WHERE id = ? RETURNING last_offset"

#: One record, by executemany.
APPEND = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

#: A range of one partition, oldest first.
READ = (
    "SELECT id, key, source, position, previous, envelope, data FROM log WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
)

#: First key and last offset of a partition.
BOUNDS = "SELECT (SELECT min(id) FROM log WHERE id > ?1 AND id <= ?2), last_offset FROM partitions WHERE id = ?3"

#: The oldest records with their times, for retention.
OLDEST = "SELECT id, appended_at FROM log WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"

#: Delete what retention has chosen: a range of one partition.
PRUNE = "DELETE FROM log WHERE id >= ? AND id <= ?"
