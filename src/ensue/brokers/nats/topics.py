"""Topics as streams: their names, how many partitions a topic has, making them, and checking what the server made."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.nats.jetstream import SUBJECTS_OVERLAP, ApiError, JetStream, StreamInfo
from ensue.codec import PARTITIONS_MAX
from ensue.errors import BrokerUnavailable, UsageError
from ensue.ports import TopicTerms
from ensue.texts import logger

log = logger("ensue.nats")

#: A topic of these characters is a part of subjects as it stands; of any other one the bytes are escaped.
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ESCAPED = re.compile(rb"[^A-Za-z0-9_-]")
#: Streams made or looked at at once.
_AT_ONCE = 8
#: How long one attempt to make a stream waits for its answer.
_CREATE_S = 1.0


class Stream(NamedTuple):
    """Where a partition lies."""

    name: str
    subject: str


class _Note(msgspec.Struct, frozen=True):
    """What we write in a stream's description: NATS 2.9 has no metadata."""

    topic: str
    partition: int
    partitions: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS_MAX)]
    ensue: int = 1


def escaped(topic: str) -> str:
    """The topic as a part of a stream's name, where a dot may not stand.

    >>> escaped("ensue.control"), escaped("ü")
    ('ensue=2Econtrol', '=C3=BC')
    """
    return _ESCAPED.sub(lambda found: b"=%02X" % found[0][0], topic.encode()).decode()


class Topics:
    """The streams of topics by name, remembered once they were seen; `forget` when one turns out to be gone."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._prefix = jetstream.options.prefix
        # No dash in it, so that a prefix and a topic can be told apart again.
        self._name_prefix = escaped(self._prefix).replace("-", "=2D") + "-"
        self._streams: dict[str, list[Stream]] = {}
        self._seen: set[str] = set()
        #: Of topics that others have made, or changed.
        self._terms: dict[str, TopicTerms] = {}

    def stream(self, topic: str, partition: int) -> Stream:
        tokens = topic if _PLAIN.fullmatch(topic) else escaped(topic)
        return Stream(f"{self._name_prefix}{escaped(topic)}-{partition}", f"{self._prefix}.{tokens}.{partition}")

    async def find(self, topic: str, partition: int) -> Stream:
        """Return the partition's stream. Raises UsageError for none, BrokerUnavailable when it was there before."""
        streams = self._streams.get(topic) or await self._look_up(topic)
        if not streams and topic in self._seen:
            raise self.gone(topic, partition)
        check_partition(topic, partition, len(streams))
        return streams[partition]

    def gone(self, topic: str, partition: int) -> BrokerUnavailable:
        """The error for a stream that was there and is no more; it is looked up anew after this."""
        self._streams.pop(topic, None)
        name = self.stream(topic, partition).name
        return BrokerUnavailable(
            f"NATS has lost the stream {name} of topic {topic}, partition {partition}: it is made anew when a "
            "publisher or subscriber of the topic goes on, and filled from the outboxes",
            topic=topic, partition=partition,
        )  # fmt: skip

    async def _look_up(self, topic: str) -> list[Stream]:
        partitions = await self.partitions(topic)
        streams = [self.stream(topic, number) for number in range(partitions)]
        if streams:
            self._streams[topic] = streams
            self._seen.add(topic)
        return streams

    async def partitions(self, topic: str) -> int:
        """How many the topic was made with, asked of the server; 0: there is no such topic."""
        first = self.stream(topic, 0)
        info = await self._jetstream.stream_info(first.name)
        if info is None:  # lost, perhaps: any other partition knows as well
            for name in await self._jetstream.stream_names(f"{first.subject.rpartition('.')[0]}.*"):
                info = await self._jetstream.stream_info(name)
                note = _note(info)
                if note is not None and note.topic == topic:
                    return note.partitions
            return 0
        note = _note(info)
        if note is None:
            raise self._strange(first, info)
        return note.partitions

    async def all(self) -> Mapping[str, int]:
        names = [
            name
            for name in await self._jetstream.stream_names(f"{self._prefix}.>")
            if name.startswith(self._name_prefix)
        ]
        one_of_each = {name.rpartition("-")[0]: name for name in names}  # one stream knows of all of its topic
        limit = asyncio.Semaphore(_AT_ONCE)

        async def note(name: str) -> _Note | None:
            async with limit:
                return _note(await self._jetstream.stream_info(name))

        found = await asyncio.gather(*(note(name) for name in one_of_each.values()))
        return {each.topic: each.partitions for each in found if each is not None}

    # --- making them

    async def ensure(self, topic: str, partitions: int) -> TopicTerms:
        check_partitions_wanted(topic, partitions)
        known = self._streams.get(topic)
        if known is None:
            self._terms.pop(topic, None)
            # One whose first stream was lost keeps its number.
            if found := await self.partitions(topic):
                check_partitions(topic, partitions, found)
            # The first stream alone decides how many there are, so that brokers that race agree.
            await self._make(topic, 0, partitions)
            limit = asyncio.Semaphore(_AT_ONCE)

            async def make(number: int) -> None:
                async with limit:
                    await self._make(topic, number, partitions)

            await asyncio.gather(*(make(number) for number in range(1, partitions)))
            known = self._streams[topic] = [self.stream(topic, number) for number in range(partitions)]
            self._seen.add(topic)
        check_partitions(topic, partitions, len(known))
        return self._terms.get(topic, TopicTerms())

    async def _make(self, topic: str, number: int, partitions: int) -> None:
        stream = self.stream(topic, number)
        wanted = self._config(stream, _Note(topic, number, partitions))
        try:
            echo = await self._create(stream, wanted)
        except ApiError as error:
            raise UsageError(f"stream {stream.name} of topic {topic} cannot be made: {error}", topic=topic) from error
        if isinstance(echo, StreamInfo):
            self._check_existing(stream, topic, partitions, wanted, echo)
            return
        dropped = {name: (value, echo.get(name)) for name, value in wanted.items() if echo.get(name) != value}
        if dropped:
            text = ", ".join(
                f"{name}: asked for {asked!r}, came back {got!r}" for name, (asked, got) in dropped.items()
            )
            raise UsageError(
                f"stream {stream.name} of topic {topic} is not as it was asked for ({text}): the NATS server is too "
                "old for the setting and drops it without a word. Use a newer one, or leave out the option of the URL",
                topic=topic, stream=stream.name,
            )  # fmt: skip

    async def _create(self, stream: Stream, wanted: dict[str, Any]) -> dict[str, Any] | StreamInfo:
        """Return the configuration of the stream that was made, or all about one that exists and is configured else.

        A server that is just making a stream of that name for somebody else answers that its subject is taken, and a
        cluster with another configuration in mind does not answer at all (both seen with 2.9.10). So the question is
        short, and put again as often as timeout_s allows: to make the same stream again changes nothing.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + self._jetstream.options.timeout_s
        while True:
            try:
                echo = await self._jetstream.create(wanted, limit_s=_CREATE_S)
            except BrokerUnavailable:
                if clock() > until:
                    raise
                echo = None
            except ApiError as error:
                if error.code != SUBJECTS_OVERLAP or clock() > until:
                    raise
                if others := set(await self._jetstream.stream_names(stream.subject)) - {stream.name}:
                    raise UsageError(
                        f"stream {stream.name} cannot be made: its subject {stream.subject} belongs to stream "
                        f"{', '.join(sorted(others))}. Choose another prefix (?prefix=…), or take the subject from it",
                        stream=stream.name,
                    ) from error
                echo = None
            if echo is not None:
                return echo
            info = await self._jetstream.stream_info(stream.name)
            if info is not None:
                return info

    def _config(self, stream: Stream, note: _Note) -> dict[str, Any]:
        """No limits: what is to be deleted is decided by Ensue's retention, or by an operator later."""
        options = self._jetstream.options
        config: dict[str, Any] = {
            "name": stream.name,
            "subjects": [stream.subject],
            "description": msgspec.json.encode(note).decode(),
            "retention": "limits",
            "storage": options.storage,
            "num_replicas": options.replicas,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
        }
        if options.compression:
            config["compression"] = options.compression
        return config

    def _check_existing(
        self, stream: Stream, topic: str, partitions: int, wanted: dict[str, Any], info: StreamInfo
    ) -> None:
        note = _note(info)
        if note is None or info.config.get("subjects") != [stream.subject]:
            raise self._strange(stream, info)
        check_partitions(topic, partitions, note.partitions)
        differing = {name: info.config.get(name) for name, value in wanted.items() if info.config.get(name) != value}
        self._terms[topic] = self._terms.get(topic, TopicTerms()).stricter(_terms(stream.name, info.config))
        if differing:
            log.info("stream %s is there with other settings than the URL's, and stays so: %s", stream.name, differing)

    def _strange(self, stream: Stream, info: StreamInfo) -> UsageError:
        return UsageError(
            f"stream {stream.name} exists and is not Ensue's (description {info.config.get('description')!r}, subjects "
            f"{info.config.get('subjects')}, expected {stream.subject}): choose another prefix (?prefix=…)",
            stream=stream.name,
        )


def _terms(stream: str, config: dict[str, Any]) -> TopicTerms:
    """How a stream with this configuration loses records by itself, and which it does not take."""
    size_max = int(config.get("max_msg_size") or -1)
    return dataclasses.replace(_losses(stream, config), record_bytes_max=size_max if size_max > 0 else None)


def _losses(stream: str, config: dict[str, Any]) -> TopicTerms:
    todo = f"retention limits, and max_age, max_msgs, max_bytes and max_msgs_per_subject to no limit in stream {stream}"
    if (retention := config.get("retention", "limits")) != "limits":
        return TopicTerms(drops=f"by retention={retention}", todo=todo)
    names = ("max_msgs", "max_bytes", "max_msgs_per_subject")
    # With discard=new the stream takes no more instead: what it does not take is held in the outbox.
    if config.get("discard") != "new" and (found := [each for each in names if int(config.get(each) or 0) > 0]):
        return TopicTerms(drops=f"by {found[0]}={config[found[0]]}", todo=todo)
    age_ns = int(config.get("max_age") or 0)
    return TopicTerms(keeps_s=age_ns / 1e9 if age_ns > 0 else None, todo=todo)


def _note(info: StreamInfo | None) -> _Note | None:
    if info is None:
        return None
    try:
        return msgspec.json.decode(str(info.config.get("description", "")), type=_Note)
    except (msgspec.DecodeError, RecursionError):  # a stranger wrote it
        return None
