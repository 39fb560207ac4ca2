"""What the tests ask of the shop's services, over HTTP."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import UUID, uuid4

import httpx

import ensue.testing
from shop.provider.server import Provider


@dataclasses.dataclass
class Shop:
    """One HTTP client a service, and the world they run in. services: see `services`."""

    services: Any
    world: ensue.testing.World
    orders: httpx.AsyncClient
    customers: httpx.AsyncClient
    history: httpx.AsyncClient
    provider: Provider

    @property
    def orchestrated(self) -> bool:
        return bool(self.services.placement == "orchestration")

    async def new_customer(self, credit_limit: str, name: str = "Ann") -> UUID:
        customer_id = uuid4()
        body = {"customer_id": str(customer_id), "name": name, "credit_limit": credit_limit}
        answer = await self.customers.post("/customers", json=body)
        assert answer.status_code == 201, answer.text
        return customer_id

    async def order(self, customer_id: UUID, total: str, *, settle: bool = True) -> UUID:
        """Place an order, and let it be decided."""
        answer = await self.orders.post("/orders", json={"customer_id": str(customer_id), "total": total})
        assert answer.status_code == 201, answer.text
        if settle:
            await self.world.settle()
        return UUID(answer.json()["order_id"])

    async def get_order(self, order_id: UUID) -> dict[str, Any]:
        return await get(self.orders, f"/orders/{order_id}")

    async def get_customer(self, customer_id: UUID) -> dict[str, Any]:
        return await get(self.customers, f"/customers/{customer_id}")

    async def get_history(self, customer_id: UUID) -> dict[str, Any]:
        return await get(self.history, f"/customers/{customer_id}/orders")


async def get(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
