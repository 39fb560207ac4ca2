"""librdkafka's errors as ours."""

from __future__ import annotations

from confluent_kafka import KafkaError

from ensue.brokers.kafka.settings import KafkaSettings
from ensue.errors import BrokerUnavailable, RecordRefused

#: A topic or partition that is not there, or not any more.
GONE = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_ID,
    }
)
#: A partition whose leader is changing, or was just made: the same question is answered a moment later.
MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.REPLICA_NOT_AVAILABLE, KafkaError._WAIT_COORD,
    }
)  # fmt: skip
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_TIMED_OUT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT})


#: The same record is refused however often it is sent, or it was too much at once.
_REFUSED = _TOO_LARGE | {
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.POLICY_VIOLATION, KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
}  # fmt: skip


def code(error: object) -> int:
    """The code of a KafkaError, 0 for anything else."""
    return error.code() if isinstance(error, KafkaError) else 0


def text(error: object) -> str:
    return error.str() if isinstance(error, KafkaError) else str(error)


def unavailable(settings: KafkaSettings, what: str, error: object, hint: str = "") -> BrokerUnavailable:
    """What failed, where, why, and what happens next. hint: the last trouble that librdkafka told of."""
    said = f"Kafka at {settings.servers}: {what}: {text(error)}"
    if code(error) in _TOO_LARGE:
        said += (
            f". A record is larger than the client ({settings.max_message_bytes} bytes, the URL's max_message_bytes) "
            "or the topic (max.message.bytes) takes: raise the limit, or publish a reference instead of the data"
        )
    elif code(error) in _TIMED_OUT:
        said += f" after {settings.timeout_s:g} s"
    if hint and hint not in said:
        said += f" ({hint})"
    return BrokerUnavailable(said, code=code(error))


def not_appended(settings: KafkaSettings, error: object, hint: str = "") -> BrokerUnavailable | RecordRefused:
    """Why records were not appended. RecordRefused: they will not be, all of them or one, or not so many at once."""
    failed = unavailable(settings, "append", error, hint)
    return RecordRefused(str(failed)) if code(error) in _REFUSED else failed
