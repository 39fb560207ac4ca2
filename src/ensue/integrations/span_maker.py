"""Spans that more than one part of a trace begins, with the attributes of the semantic conventions for messaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from ensue.integrations.careful_spans import begin, end
from ensue.integrations.span_contexts import as_carrier
from ensue.message import Message
from ensue.tracing import Carrier


class SpanMaker:
    """Of one service. by_message: a message's span is a child of its creation, and else of its batch."""

    def __init__(self, tracer: Tracer, service: str, system: str, *, by_message: bool) -> None:
        self.tracer = tracer
        self.service = service
        self.by_message = by_message
        self._system = {"messaging.system": system}

    def attributes(self, operation: str, topic: str) -> dict[str, Any]:
        return {
            **self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }

    def create_in(self, context: Context, topic: str, kind: str, message_id: str, correlation_id: str) -> Carrier:
        """Begin and end a `create` span there."""
        span = self.start_create(context, topic, kind, correlation_id)
        end_create(span, message_id)
        return as_carrier(span.get_span_context())

    def start_create(self, context: Context, topic: str, kind: str, correlation_id: str) -> Span:
        attributes = self.attributes("create", topic) | {
            "messaging.message.conversation_id": correlation_id,
            "cloudevents.event_type": kind,
        }
        return begin(self.tracer, f"create {topic}", context, SpanKind.PRODUCER, attributes)

    def message_span(self, message: Message, attempt: int, context: Context, links: Sequence[Link]) -> Span:
        envelope = message.envelope
        attributes = self.attributes("process", message.topic) | {
            "messaging.destination.partition.id": str(message.partition),
            "messaging.consumer.group.name": self.service,
            "messaging.message.id": envelope.id,
            "messaging.message.conversation_id": message.correlation_id,
            "cloudevents.event_id": envelope.id,
            "cloudevents.event_source": message.source,
            "cloudevents.event_type": envelope.type,
            "ensue.attempt": attempt,
        }
        if message.position:
            attributes["ensue.position"] = message.position
        return begin(self.tracer, f"process {message.topic}", context, SpanKind.CONSUMER, attributes, links)


def end_create(span: Span, message_id: str) -> None:
    span.set_attributes({"messaging.message.id": message_id, "cloudevents.event_id": message_id})
    end(span)
