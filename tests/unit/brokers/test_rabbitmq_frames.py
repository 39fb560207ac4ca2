"""AMQP 0.9.1 on the wire, with pamqp, a library that is not ours, as the oracle."""

from __future__ import annotations

import pamqp.commands
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import encode
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from ensue.brokers.rabbitmq import frames
from ensue.errors import BadMessage

names = st.text(min_size=1, max_size=40)
FRAME_MAX = 4096


def unmarshalled(data: bytes) -> list[object]:
    found: list[object] = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 5
        found.append(frame)
        data = data[size:]
    return found


@given(
    fields=st.dictionaries(names, st.text(max_size=100), max_size=8),
    content_type=names,
    message_id=st.text(max_size=30),
    body=st.binary(max_size=3 * FRAME_MAX),
)
def test_a_message_that_we_write_is_read_by_others_as_it_was(
    fields: dict[str, str], content_type: str, message_id: str, body: bytes
) -> None:
    encoded = b"".join(frames.text_field(name, value) for name, value in fields.items())
    head = frames.properties(content_type, encoded, message_id)
    data = frames.message_frames(5, frames.publish_arguments("a.queue"), head, body, FRAME_MAX)
    publish, header, *bodies = unmarshalled(data)
    assert isinstance(publish, pamqp.commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("", "a.queue", True)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    assert (header.properties.headers or {}) == fields
    assert (header.properties.content_type, header.properties.delivery_mode) == (content_type, 2)
    assert (header.properties.message_id or "") == message_id
    assert b"".join(each.value for each in bodies if isinstance(each, ContentBody)) == body
    content = frames.read_content(data[data.index(b"\xce\x02\x00\x05") + 8 :])
    assert content.size == len(body)
    assert content.headers == {name.encode(): value.encode() for name, value in fields.items()}
    assert (content.content_type, content.id) == (content_type.encode(), message_id.encode())


values = st.one_of(
    st.text(max_size=50),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.none(),
    st.binary(max_size=20).map(bytearray),
    st.lists(st.integers(0, 100), max_size=3),
    st.dictionaries(st.text(min_size=1, max_size=5), st.booleans(), max_size=3),
)


@given(fields=st.dictionaries(names, values, max_size=8))
def test_tables_of_others_are_read_whatever_they_hold(fields: dict[str, object]) -> None:
    data = b"behind" + encode.field_table(fields)  # type: ignore[arg-type]  # hypothesis makes field values
    found, end = frames.read_table(data + b"more", 6)
    assert end == len(data)
    for name, value in fields.items():
        wanted: object = value
        if isinstance(value, str):
            wanted = value.encode()
        elif isinstance(value, bytearray):
            wanted = bytes(value)
        elif isinstance(value, (list, dict)):
            wanted = None  # nested: nothing of ours
        assert found[name.encode()] == wanted


def test_a_name_longer_than_amqp_carries_is_refused() -> None:
    with pytest.raises(BadMessage, match="255"):
        frames.short("x" * 256)
