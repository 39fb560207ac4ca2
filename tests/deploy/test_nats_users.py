"""The users in deploy/nats: the shop runs with these rights, and no service writes another's topic or empties it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import NatsServer
from tests.deploy.documents import DEPLOY
from tests.deploy.test_roles import SERVICES, init, place_and_cancel_an_order

from ensue.adapters import make_broker
from ensue.conformance.broker import SOURCE, entries
from ensue.errors import BrokerUnavailable, RecordRefused

USERS = re.sub(r"\$[A-Z_]+_NATS_PASSWORD", "secret", (DEPLOY / "nats" / "users.conf").read_text())


def url_of(server: NatsServer, service: str) -> str:
    return server.url().replace("//", f"//{service}_service:secret@") + f"?inbox=_INBOX_{service}"


async def test_the_shop_runs_with_these_rights(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server: NatsServer = start(NatsServer, settings=[USERS])
    brokers = {name: url_of(server, name) for name in SERVICES}
    for name, service in SERVICES.items():
        monkeypatch.setenv(f"ENSUE_{name.upper()}_DATABASE", f"sqlite:///{tmp_path}/{name}.db")
        await init(service)
    await place_and_cancel_an_order(monkeypatch, brokers)
    assert not [each for each in caplog.messages if "Permissions Violation" in each]


@pytest.mark.parametrize(
    ("service", "topic"), [("customers", "orders"), ("orders", "customers"), ("order_history", "orders")]
)
async def test_a_service_neither_writes_nor_empties_anothers_topic(
    start: Callable[..., Any], service: str, topic: str
) -> None:
    server: NatsServer = start(NatsServer, settings=[USERS])
    broker = make_broker(url_of(server, service))
    await broker.open()
    try:
        await broker.ensure_topic(topic, 8)
        with pytest.raises(RecordRefused, match=f'Permissions Violation for Publish to "ensue.{topic}.3"'):
            await broker.append(topic, 3, SOURCE, entries(1, 1))
        owner = make_broker(url_of(server, topic))
        await owner.open()
        try:
            await owner.append(topic, 3, SOURCE, entries(1, 2))
            refusal = rf'Permissions Violation for Publish to "\$JS.API.STREAM.PURGE.ensue-{topic}-3"'
            with pytest.raises(BrokerUnavailable, match=refusal):
                await broker.prune(topic, 3, time.time() + 60, 10)
            assert await owner.prune(topic, 3, time.time() + 60, 10) == 2
        finally:
            await owner.close()
    finally:
        await broker.close()
