"""The AsyncAPI document of a service: its topics, what it writes there and what it reads, with schemas and headers.

Source: AsyncAPI 3.1. Its schemas are of JSON Schema's draft 7 with references into `components`, so ours are rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ensue.contracts.described import Contract, Described
from ensue.contracts.plain import READS
from ensue.message import JSON, REPLY, REPLY_KEY, REPLY_TO
from ensue.reply import replies_of

ASYNCAPI = "3.1.0"
_Document = dict[str, Any]

#: How the attributes of CloudEvents are named in a log, by the scheme of its URL; elsewhere, by themselves.
PREFIXES = {
    "kafka": "ce_", "kafkas": "ce_", "redis": "ce_", "rediss": "ce_", "nats": "ce-", "tls": "ce-",
    "amqp": "cloudEvents:", "amqps": "cloudEvents:",
}  # fmt: skip
_NUMBER = {"type": "string", "pattern": "^[0-9]{1,19}$"}
_TEXT = {"type": "string", "minLength": 1}
#: Attributes by name: what they hold. The last ones are not with every message.
_ALWAYS: Mapping[str, _Document] = {
    "specversion": {"const": "1.0"},
    "id": {**_TEXT, "description": "Unique within its source."},
    "source": {**_TEXT, "description": "Who sent it: service and epoch."},
    "time": {"type": "string", "format": "date-time", "description": "When it was published, in UTC."},
    "partitionkey": {**_TEXT, "description": "Messages of one key stay in order."},
    "ensuepartition": {**_NUMBER, "description": "Of the topic, from 0."},
    "ensueposition": {**_NUMBER, "description": "Its number in the outbox of its source, from 1."},
    "ensueprevious": {**_NUMBER, "description": "The position before it in this partition, of the same source."},
    "ensuecrc": {"type": "string", "pattern": "^[0-9a-f]{8}$", "description": "A checksum."},
}
_SOMETIMES: Mapping[str, _Document] = {
    "correlationid": {
        **_TEXT,
        "description": "Shared by all messages of one flow; without it, the message begins one.",
    },
    "causationid": {**_TEXT, "description": "The id of the message that led to this one."},
    "traceparent": {**_TEXT, "description": "W3C trace context."},
    "ensuesignature": {**_TEXT, "description": "Where its sender signs."},
}
_ASKING: Mapping[str, _Document] = {
    REPLY_TO: {**_TEXT, "description": "The topic where an answer is wanted; without it, nobody waits for one."},
    REPLY_KEY: {**_TEXT, "description": "The answer's key there; without it, the command's id."},
}


def asyncapi(contract: Contract, *, scheme: str = "", version: str = "0.1.0") -> _Document:
    """Return the document of a service, valid by the schema of AsyncAPI 3.1.

    scheme: of its log's URL, which decides how headers are named. version: of the service, for `info`.
    """
    return _Maker(contract, PREFIXES.get(scheme.partition("+")[0], "")).document(version)


class _Maker:
    def __init__(self, contract: Contract, prefix: str) -> None:
        self._contract = contract
        self._prefix = prefix
        self._channels: dict[str, _Document] = {}
        self._operations: dict[str, _Document] = {}
        self._messages: dict[str, _Document] = {}
        self._schemas: dict[str, _Document] = {}

    def document(self, version: str) -> _Document:
        for action, messages in (("send", self._contract.writes), ("receive", self._contract.reads)):
            for each in messages:
                if each.kind in ("event", "command"):
                    self._operation(action, each)
        return {
            "asyncapi": ASYNCAPI,
            "id": f"urn:ensue:{self._contract.service}",
            "info": {"title": self._contract.service, "version": version},
            "defaultContentType": JSON,
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": self._messages, "schemas": self._schemas},
        }

    def _operation(self, action: str, message: Described) -> None:
        channel = self._channel(message.topic, message.topic, [self._event(message)])
        wanted = {"action": action, "channel": _reference("channels", channel)}
        name = _word(f"{action}.{message.topic}" if message.kind == "event" else f"{action}.{message.name}")
        operation = self._operations.setdefault(name, {**wanted, "messages": []})
        operation["messages"].append(_reference("channels", channel, "messages", _word(message.name)))
        if message.kind == "command":
            operation["reply"] = self._reply(action, message)

    def _reply(self, action: str, command: Described) -> _Document:
        """What is answered: to whoever asks, or in this service's own topic."""
        answers = self._contract.writes if action == "receive" else self._contract.reads
        replies = [each for each in answers if each.name == f"{command.name}.reply"]
        failures = [each for each in answers if each.kind == "failure"]
        names = [self._answer(command, replies[0] if replies else None), *map(self._failure, failures)]
        own = replies_of(self._contract.service)
        channel = self._channel(own, own, names) if action == "send" else self._channel("ensue.replies", None, names)
        found: _Document = {
            "channel": _reference("channels", channel),
            "messages": [_reference("channels", channel, "messages", each) for each in names],
        }
        if action == "receive":
            found["address"] = {"location": f"$message.header#/{self._prefix}{REPLY_TO}"}
        return found

    def _channel(self, name: str, address: str | None, messages: Iterable[str]) -> str:
        key = _word(name)
        channel = self._channels.setdefault(key, {"address": address, "messages": {}})
        channel["messages"] |= {each: _reference("components", "messages", each) for each in messages}
        return key

    def _event(self, message: Described) -> str:
        more = _ASKING if message.kind == "command" else {}
        payload = self._schema(message) if message.schema else {"type": "object"}
        told = (
            f"Its key is {message.key}." if not message.upcast else "An older version, of which the service makes one."
        )
        return self._message(message.name, message.name, payload, told, more)

    def _answer(self, command: Described, reply: Described | None) -> str:
        """The data of an answer: which command it answers, and the reply inside."""
        data = {"type": "null"} if reply is None else self._schema(reply)
        required = ["command"] if reply is None else ["command", "data"]
        fields = {"command": {**_TEXT, "description": "The command's id."}, "data": data}
        payload = {"type": "object", "properties": fields, "required": required}
        return self._message(f"{command.name}.reply", REPLY, payload, f"{command.name} is done.", {})

    def _failure(self, failure: Described) -> str:
        fields = {
            "command": {**_TEXT, "description": "The command's id."},
            "failure": {"const": failure.name.partition(".")[2]},
            "fields": self._schema(failure),
        }
        payload = {"type": "object", "properties": fields, "required": ["command", "failure"]}
        return self._message(failure.name, REPLY, payload, "A command was refused.", {})

    def _message(self, name: str, kind: str, payload: _Document, told: str, more: Mapping[str, _Document]) -> str:
        attributes = {**_ALWAYS, "type": {"const": kind}, **_SOMETIMES, **more}
        headers = {f"{self._prefix}{attribute}": schema for attribute, schema in attributes.items()}
        self._messages[_word(name)] = {
            "name": name,
            "description": told,
            "contentType": JSON,
            "correlationId": {"location": f"$message.header#/{self._prefix}correlationid"},
            "headers": {
                "type": "object",
                "properties": headers,
                "required": [f"{self._prefix}{attribute}" for attribute in (*_ALWAYS, "type")],
            },
            "payload": payload,
        }
        return _word(name)

    def _schema(self, message: Described) -> _Document:
        """Put its schema among the components, with those it refers to."""
        name = _word(message.name)
        document = dict(message.schema)
        for called, schema in document.pop("$defs", {}).items():
            self._schemas[f"{name}.{called}"] = _draft_7(schema, name)
        self._schemas[name] = _draft_7(document, name)
        return _reference("components", "schemas", name)


def _draft_7(schema: Any, name: str) -> Any:
    """A schema as AsyncAPI has it. What it names by itself is data, and stays: its values, its examples."""
    if not isinstance(schema, dict):
        return schema
    found: _Document = {}
    for keyword, value in schema.items():
        if keyword == "$ref":
            found["$ref"] = f"#/components/schemas/{name}.{value.rpartition('/')[2]}"
        elif keyword in ("properties", "patternProperties"):
            found[keyword] = {field: _draft_7(each, name) for field, each in value.items()}
        elif keyword in ("anyOf", "oneOf", "allOf"):
            found[keyword] = [_draft_7(each, name) for each in value]
        elif keyword == "prefixItems":
            found["items"] = [_draft_7(each, name) for each in value]
            found["additionalItems"] = _draft_7(schema.get("items", True), name)
        elif (keyword == "items" and "prefixItems" in schema) or keyword == "discriminator":
            pass  # an object there in OpenAPI, a text in AsyncAPI, and the tags say the same
        elif keyword in ("items", "additionalProperties", "propertyNames", READS):
            found[keyword] = _draft_7(value, name)
        else:
            found[keyword] = value
    return found


def _reference(*path: str) -> _Document:
    return {"$ref": "#/" + "/".join(each.replace("~", "~0").replace("/", "~1") for each in path)}


def _word(name: str) -> str:
    """A key that AsyncAPI allows; of names that come to one word, which nobody should have, the types differ still."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"_{ord(found[0]):x}_", name)
