"""The shop's three services as processes of their own, for the benchmarks that look at a whole system from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp

from benchmarks.child import environment
from shop.demo.supervisor import Supervisor


@asynccontextmanager
async def shop(directory: Path) -> AsyncIterator[tuple[Supervisor, aiohttp.ClientSession]]:
    """Three processes on embedded defaults, ready; they are stopped at the end."""
    async with Supervisor(directory, environment()) as services, aiohttp.ClientSession() as client:
        yield services, client


async def create_customers(client: aiohttp.ClientSession, url: str, count: int) -> list[UUID]:
    """Customers whose credit is never used up."""
    customers = [uuid4() for _ in range(count)]
    for number, customer in enumerate(customers):
        new = {"customer_id": str(customer), "name": f"Customer {number}", "credit_limit": "9999999.00"}
        async with client.post(f"{url}/customers", json=new) as answer:
            answer.raise_for_status()
    return customers


async def place_order(client: aiohttp.ClientSession, url: str, customer: UUID, order: UUID) -> None:
    new = {"customer_id": str(customer), "order_id": str(order), "total": "10.00"}
    async with client.post(f"{url}/orders", json=new) as answer:
        answer.raise_for_status()
