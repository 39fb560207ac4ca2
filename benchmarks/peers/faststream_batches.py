"""As `faststream_nats`, with FastStream's batches: a list of up to 500 messages for each call of the handler.

FastStream takes messages in batches; one transaction and one statement for a whole batch is what the user writes by
hand, set-based SQL with the inbox in it. FastStream holds a batch that is not full for `timeout`, here 100 ms. What
arrives in the moment in which a fetch ends is lost to the client until JetStream delivers it again, after 30 seconds by
default, here after one; the inbox makes that harmless.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import ConsumerConfig, DeliverPolicy

from benchmarks.peers.faststream_nats import STREAM, SUBJECT, packages, prepare, producing, relay
from benchmarks.peers.ground import Ground

__all__ = ["backlog", "consume", "guarantee", "packages", "prepare", "producing", "relay", "title"]

title = "FastStream + outbox, batched SQL by hand"
guarantee = "once, by an inbox by hand; one consumer process"
backlog = 20_000

#: Two orders of one customer in a batch: an UPDATE changes a row once, so they are added up first.
ADD_BATCH_ONCE = (
    "WITH new AS (INSERT INTO inbox (id) SELECT unnest($1::bigint[]) ON CONFLICT DO NOTHING RETURNING id), "
    "added AS (SELECT customer_id, sum(amount) AS amount, count(*) AS changes "
    "FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS event (id, customer_id, amount) JOIN new USING (id) "
    "GROUP BY customer_id) "
    "UPDATE customers SET total = total + added.amount, changes = customers.changes + added.changes FROM added "
    "WHERE customers.id = added.customer_id"
)


async def consume(ground: Ground) -> None:
    broker = NatsBroker(ground.nats, log_level=logging.WARNING)
    pool = await asyncpg.create_pool(ground.consumer, min_size=2, max_size=2)

    @broker.subscriber(
        SUBJECT,
        stream=JStream(STREAM, declare=False),
        durable="customers",
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        config=ConsumerConfig(ack_wait=1.0, max_ack_pending=10_000),
        pull_sub=PullSub(batch_size=500, timeout=0.1, batch=True),
    )
    async def placed(events: list[dict[str, Any]]) -> None:
        await pool.execute(
            ADD_BATCH_ONCE,
            [event["order_id"] for event in events],
            [event["customer_id"] for event in events],
            [event["amount"] for event in events],
        )

    await broker.start()
    await asyncio.Event().wait()
