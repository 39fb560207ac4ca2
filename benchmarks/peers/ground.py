"""The ground that every side stands on: two databases on one PostgreSQL, one NATS JetStream, the same rows.

The producer's database has `orders`, one row for each order; the consumer's has `customers`, 1,000 rows, of which each
order changes one. Nothing here knows a peer, and everything runs in the peers' virtual environment too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

CUSTOMERS = 1000
PAYLOAD_BYTES = 300

INSERT_ORDER = "INSERT INTO orders (id, customer_id, amount, payload) VALUES ($1, $2, $3, $4)"
ADD_TO_CUSTOMER = "UPDATE customers SET total = total + $2, changes = changes + 1 WHERE id = $1"
#: For a consumer that is told of an event at least once, in one statement and one round trip: the update takes place
#: where the event's id is new. Two deliveries at once: the second waits for the first one's row.
ADD_ONCE = (
    "WITH new AS (INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id) "
    "UPDATE customers SET total = total + $3, changes = changes + 1 WHERE id = $2 AND EXISTS (SELECT 1 FROM new)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """producer, consumer: `postgresql://` URLs of the two databases. nats: URL of the broker."""

    producer: str
    consumer: str
    nats: str


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """payload: JSON of 300 bytes that says everything about the order; it is what is published too. note: its filling,
    for who encodes the event itself."""

    id: int
    customer_id: str
    amount: int
    payload: str
    note: str

    @property
    def row(self) -> tuple[int, str, int, str]:
        return self.id, self.customer_id, self.amount, self.payload


def order(number: int) -> Order:
    """Orders of 1,000 numbers in a row are of 1,000 customers."""
    fields: dict[str, Any] = {
        "order_id": number,
        "customer_id": customer_id(number),
        "amount": amount_of(number),
        "note": "",
    }
    fields["note"] = "n" * (PAYLOAD_BYTES - len(json.dumps(fields)))
    return Order(number, fields["customer_id"], fields["amount"], json.dumps(fields), fields["note"])


def orders(first: int, count: int) -> Iterator[Order]:
    return (order(number) for number in range(first, first + count))


def customer_id(number: int) -> str:
    return f"customer-{number % CUSTOMERS:04d}"


def amount_of(number: int) -> int:
    return number % 997 + 1


async def make_tables(ground: Ground) -> None:
    """The tables of both services, empty of orders and with all customers."""
    async with connected(ground.producer) as connection:
        await connection.execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, customer_id text NOT NULL, amount bigint NOT NULL, "
            "payload text NOT NULL)"
        )
    async with connected(ground.consumer) as connection:
        await connection.execute(
            "CREATE TABLE customers (id text PRIMARY KEY, total bigint NOT NULL, changes bigint NOT NULL)"
        )
        await connection.executemany(
            "INSERT INTO customers VALUES ($1, 0, 0)", [(customer_id(number),) for number in range(CUSTOMERS)]
        )


async def make_inbox(ground: Ground) -> None:
    """For consumers that are told of an event at least once and whose library keeps no account of it."""
    async with connected(ground.consumer) as connection:
        await connection.execute("CREATE TABLE inbox (id bigint PRIMARY KEY)")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
