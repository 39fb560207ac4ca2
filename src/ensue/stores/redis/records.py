"""Ensue's own records as the server keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ensue.errors import UsageError
from ensue.message import Checkpoint, Counters, DeadLetter, Gap, Partition, StoredResponse
from ensue.stores.redis.keys import Keys

_WATERMARK = b"w:"


class _State(msgspec.Struct):
    """What of a checkpoint is written whole with each commit."""

    offset: int
    gaps: dict[str, Gap]
    counters: Counters


_encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(_State).decode
decode_letter = msgspec.msgpack.Decoder(DeadLetter).decode
decode_response = msgspec.msgpack.Decoder(StoredResponse).decode
encode_partition = _encode
decode_partition = msgspec.msgpack.Decoder(Partition).decode


def checkpoint_writes(
    keys: Keys, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str], token: bytes
) -> list[list[bytes | str]]:
    """token: tells this revision from one of the same number that a server that forgot has reached another way."""
    key = keys.checkpoint(partition)
    state = _encode(_State(checkpoint.offset, checkpoint.gaps, checkpoint.counters))
    words: list[bytes | str] = ["HSET", key, "revision", str(checkpoint.revision + 1), "state", state, "token", token]
    for source in sources:
        words += [_WATERMARK + source.encode(), str(checkpoint.watermarks[source])]
    return [words, ["SADD", keys.checkpoints, encode_partition(partition)]]


def checkpoint_of(fields: Mapping[bytes, bytes]) -> Checkpoint:
    """From all the fields of its hash; a new one when there are none."""
    if b"state" not in fields:
        return Checkpoint()
    state = _decode_state(fields[b"state"])
    watermarks = {
        name[len(_WATERMARK) :].decode(): int(value) for name, value in fields.items() if name.startswith(_WATERMARK)
    }
    return Checkpoint(state.offset, int(fields[b"revision"]), watermarks, state.gaps, state.counters)


def letter_writes(keys: Keys, letter: DeadLetter) -> list[list[bytes | str]]:
    letter_id = str(letter.id)
    error = letter.error.encode("utf-8", "replace").decode()  # half a character cannot be stored
    value = _encode(msgspec.structs.replace(letter, error=error))
    return [
        ["HSET", keys.letters, letter_id, encode_partition(letter.partition)],
        ["HSET", keys.letters_of(letter.partition), letter_id, value],
    ]


def no_sessions() -> UsageError:
    return UsageError(
        "a Redis store has no SQLAlchemy sessions: declare entities with TableRepository, and read them by `rows`"
    )


def no_outbox(service: str) -> UsageError:
    return UsageError(
        f"service {service} published an event, and its Redis store is for views: it has no outbox. Let this service "
        f"publish nothing (publishes=[]), or give it another database, e.g. postgresql://"
    )
