"""What Ensue itself keeps in a service's database, besides the outbox: tables declared as a user declares theirs.

Every store makes them when it is opened, and reads and writes them with the verbs that it has for entities. What the
rows mean is known to `engine/books` alone. See docs/adr/0028.
"""

from __future__ import annotations

from typing import Final

from ensue.ports import Kind, Lookup, Table

#: Of what a store makes by itself, its outbox say; a database with another one is refused. What is added to Ensue's own
#: tables since has a schema instead, by which older processes may stay: see docs/adr/0032.
VERSION: Final = 3

_REVISION = ("revision", Kind.INT)


def _table(name: str, *columns: tuple[str, Kind], lookups: tuple[Lookup, ...] = ()) -> Table:
    """With the column `id` before the others, and guarded by `revision` where there is such a column."""
    names = ("id", *(column for column, _ in columns))
    kinds = (Kind.NAME, *(kind for _, kind in columns))
    return Table(name, names, "id", lookups, kinds, "revision" if _REVISION in columns else "")


#: How far the subscription has come: a row a partition, named `<topic>/<number>`. state: watermarks, gaps and counters
#: as JSON, since they are always read and written together.
CHECKPOINTS: Final = _table(
    "ensue_checkpoint", ("log_offset", Kind.INT), _REVISION, ("state", Kind.TEXT), lookups=(Lookup((), ("id",)),)
)

#: Messages set aside, named `<partition>:<number>`. place: the checkpoint's name. source and record_key as bytes: what
#: strangers send need not be text that a database takes.
LETTERS: Final = _table(
    "ensue_dead_letter",
    ("place", Kind.NAME),
    ("number", Kind.INT),
    ("state", Kind.NAME),
    _REVISION,
    ("log_offset", Kind.INT),
    ("source", Kind.BYTES),
    ("position", Kind.INT),
    ("previous", Kind.INT),
    ("record_key", Kind.BYTES),
    ("envelope", Kind.BYTES),
    ("data", Kind.BYTES),
    ("attempts", Kind.INT),
    ("due_at", Kind.FLOAT),
    ("error_type", Kind.TEXT),
    ("error", Kind.TEXT),
    ("parked_at", Kind.FLOAT),
    lookups=(Lookup(("place", "state"), ("number", "id")), Lookup(("state",), ("parked_at", "id"))),
)

#: Messages without a chain that took effect, by a digest of (source, message id).
CLAIMS: Final = _table("ensue_inbox", ("claimed_at", Kind.FLOAT), lookups=(Lookup((), ("claimed_at", "id")),))

#: Answers to requests with an Idempotency-Key, by a digest of the key. headers: JSON.
ANSWERS: Final = _table(
    "ensue_response",
    ("response_key", Kind.TEXT),
    ("fingerprint", Kind.TEXT),
    ("status", Kind.INT),
    ("headers", Kind.TEXT),
    ("body", Kind.BYTES),
    ("saved_at", Kind.FLOAT),
    lookups=(Lookup((), ("saved_at", "id")),),
)

#: Who lives, and who works on what: one row for all, named `leases`, as JSON, since every heartbeat reads all of it.
#: And a row for each suspect partition, named as its checkpoint: what was attempted last (`engine/attempt.py`).
LEASES: Final = _table("ensue_lease", _REVISION, ("state", Kind.TEXT))

#: Through which position the outbox is in the log: a row a source. And before which time records were taken away, and
#: where its relay stood when the log knew nothing of it. And the key of its ids.
RELAY: Final = _table("ensue_relay", ("position", Kind.INT))

#: Events that are published later, by message id. ordinal: among those of one transaction. record_key as bytes, like
#: that of a letter.
TIMERS: Final = _table(
    "ensue_timer",
    ("due_at", Kind.FLOAT),
    ("ordinal", Kind.INT),
    ("topic", Kind.NAME),
    ("number", Kind.INT),
    ("record_key", Kind.BYTES),
    ("envelope", Kind.BYTES),
    ("data", Kind.BYTES),
    lookups=(Lookup((), ("due_at", "ordinal", "id")),),
)

#: Recurring steps, by name: what each is run by, as JSON, and its next run, or the one that is on its way. timer: that
#: one's message id. since: when the step was declared first; what a log has from before that is not this step's.
RECURRING: Final = _table(
    "ensue_recurring",
    ("schedule", Kind.TEXT),
    ("timer", Kind.NAME),
    ("due_at", Kind.FLOAT),
    ("since", Kind.FLOAT),
    lookups=(Lookup((), ("id",)),),
)

#: Answers to commands, by the id of the command. reply: see `ensue.reply`.
REPLIES: Final = _table(
    "ensue_reply",
    ("reply", Kind.BYTES),
    ("saved_at", Kind.FLOAT),
    lookups=(Lookup((), ("saved_at", "id")),),
)

#: Sagas, by `<name>:<id>`. What the columns hold is known to `ensue.saga.instance`.
SAGAS: Final = _table(
    "ensue_saga",
    ("name", Kind.NAME),
    ("version", Kind.INT),
    ("status", Kind.NAME),
    ("correlation_id", Kind.TEXT),
    ("started_at", Kind.FLOAT),
    ("updated_at", Kind.FLOAT),
    ("waits_for", Kind.TEXT),
    ("reason", Kind.TEXT),
    ("request", Kind.BYTES),
    ("journal", Kind.BYTES),
    ("undos", Kind.BYTES),
    ("mailbox", Kind.BYTES),
    ("state", Kind.BYTES),
    _REVISION,
    lookups=(
        Lookup(("status",), ("updated_at", "id")),
        Lookup(("status",), ("name", "version", "id")),
        Lookup(("status", "name", "version"), ("id",)),
    ),
)

#: Which version of a view is asked, and which are fed: one row, by the view's name, in the place that has no version.
#: No other database has it, so it is none of `TABLES`: who needs it makes it. See `ensue.views.states`. accepted: JSON.
VIEWS: Final = _table(
    "ensue_view",
    ("active", Kind.INT),
    ("previous", Kind.INT),
    ("building", Kind.INT),
    ("state", Kind.NAME),
    ("rate", Kind.FLOAT),
    ("started_at", Kind.FLOAT),
    ("swapped_at", Kind.FLOAT),
    ("decided_by", Kind.TEXT),
    ("accepted", Kind.TEXT),
    _REVISION,
)

#: Aggregates, by `<stream>:<id>`: the row that is locked, and how many events the stream has. snapshot: the state after
#: the first `snapshot_version` of them, of a `shape`; see `ensue.aggregate.kind`.
AGGREGATES: Final = Table(
    "ensue_aggregate",
    ("id", "stream", "version", "snapshot_version", "shape", "snapshot"),
    "id",
    (Lookup(("stream",), ("id",)),),
    (Kind.NAME, Kind.NAME, Kind.INT, Kind.INT, Kind.NAME, Kind.BYTES),
    "version",
)

#: The events of aggregates, by `<stream>:<id>:<version>`. They are never deleted.
STREAMS: Final = _table("ensue_stream", ("envelope", Kind.BYTES), ("data", Kind.BYTES))

#: What people have decided, and why. state_before, state_after: of the target, as JSON; an edited letter's bytes are in
#: the first. They are never changed, and never pruned.
DECISIONS: Final = _table(
    "ensue_decision",
    ("decided_at", Kind.FLOAT),
    ("actor", Kind.TEXT),
    ("origin", Kind.NAME),
    ("action", Kind.NAME),
    ("target", Kind.TEXT),
    ("reason", Kind.TEXT),
    ("state_before", Kind.TEXT),
    ("state_after", Kind.TEXT),
    lookups=(Lookup((), ("decided_at", "id")),),
)

TABLES: Final = (
    CHECKPOINTS, LETTERS, CLAIMS, ANSWERS, LEASES, RELAY, TIMERS, RECURRING, REPLIES, SAGAS, AGGREGATES, STREAMS,
    DECISIONS,
)  # fmt: skip
