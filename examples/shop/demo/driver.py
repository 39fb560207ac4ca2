"""Does the plan over HTTP: each customer's operations in order, different customers at the same time.

Every request names what it does (the id of what it creates, else an Idempotency-Key), so it can be sent again
whenever the answer did not come.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any
from uuid import UUID

import aiohttp

from shop.demo.plan import CancelOrder, CreateCustomer, Operation, PlaceOrder, Plan, Planned
from shop.demo.reachable import Reachable

CONCURRENCY = 32
#: Where an operation waits until its order is decided, by two more services and a provider.
CONCURRENCY_WAITING = 100
#: How long one operation may be tried before the run is given up, in seconds. A restart takes a second or two.
GIVE_UP_S = 60.0
#: The same where the servers go down one after the other, each for seconds: on a loaded machine with five of them, an
#: order may wait for minutes until all that it needs is up at once.
GIVE_UP_WITH_SERVERS_S = 420.0
#: The same where an order goes to and fro between four services; shorter than the time within which it has to be paid.
GIVE_UP_PAID_S = 800.0


class OperationFailed(Exception):
    """A service answered what it must not, or did not answer for too long; the text says which and what."""


@dataclasses.dataclass(slots=True)
class Sent:
    """What the driver did. done: operations by kind. resent: requests sent again, by reason.

    undecided: answers 409 to a cancellation because its order was still NEW (tried again). refused: because it was
    REJECTED. known_before: creations that an earlier try, whose answer was lost, had done.
    """

    done: Counter[str] = dataclasses.field(default_factory=Counter)
    resent: Counter[str] = dataclasses.field(default_factory=Counter)
    undecided: int = 0
    refused: int = 0
    known_before: int = 0

    @property
    def operations(self) -> int:
        return self.done.total()


class Driver:
    """rate: orders per second, None: as fast as the answers come. on_order(id, time): an order is being placed.

    The time is monotonic seconds, of the moment when the first request was sent, or was due, with a rate (so that a
    stalled service cannot hide behind requests that waited for it). decided(id, limit_s): waits until an order is
    decided, and returns whether it is: then the next operation of its customer comes after that, and not after the
    answer.
    """

    def __init__(
        self,
        plan: Plan,
        urls: Mapping[str, str],
        random: Random,
        *,
        rate: float | None = None,
        concurrency: int = CONCURRENCY,
        give_up_s: float = GIVE_UP_S,
        on_order: Callable[[UUID, float], None] = lambda order_id, at: None,
        decided: Callable[[UUID, float], Awaitable[bool]] | None = None,
    ) -> None:
        self.sent = Sent()
        self._plan = plan
        self._urls = urls
        self._random = random
        self._rate = rate
        self._concurrency = concurrency
        self._give_up_s = give_up_s
        self._on_order = on_order
        self._decided = decided
        self._orders_started = 0
        self._began = 0.0
        self._reachable = {service: Reachable(url) for service, url in urls.items()}
        #: Customers with something left to do, the one whose turn is next first: (turn, number, operations, index).
        self._waiting: asyncio.PriorityQueue[tuple[float, int, list[Planned], int]] = asyncio.PriorityQueue()
        self._customers_left = len(plan.by_customer)
        self._finished = asyncio.Event()

    async def run(self) -> None:
        """Do every operation of the plan. Raises OperationFailed, in a group."""
        if not self._customers_left:
            return
        self._began = time.monotonic()
        for number, planned in enumerate(self._plan.by_customer.values()):
            self._waiting.put_nowait((planned[0].turn, number, planned, 0))
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=30, connect=5)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
                asyncio.TaskGroup() as group,
            ):
                workers = [group.create_task(self._work(client)) for _ in range(self._concurrency)]
                await self._finished.wait()
                for worker in workers:
                    worker.cancel()
        finally:
            for each in self._reachable.values():
                each.close()

    async def _work(self, client: aiohttp.ClientSession) -> None:
        """Take the customer whose turn is next, do one operation, put the customer back; until cancelled."""
        while True:
            _, number, planned, index = await self._waiting.get()
            await self._do(client, planned[index].operation)
            if index + 1 < len(planned):
                self._waiting.put_nowait((planned[index + 1].turn, number, planned, index + 1))
            else:
                self._customers_left -= 1
                if not self._customers_left:
                    self._finished.set()

    async def _do(self, client: aiohttp.ClientSession, operation: Operation) -> None:
        match operation:
            case CreateCustomer(customer_id, name, limit):
                body = {"customer_id": str(customer_id), "name": name, "credit_limit": str(limit)}
                await self._create(client, "customers", "/customers", body)
                self.sent.done["customers"] += 1
            case PlaceOrder(customer_id, order_id, total, placed_at):
                self._on_order(order_id, await self._turn())
                body = {
                    "order_id": str(order_id),
                    "customer_id": str(customer_id),
                    "total": str(total),
                    "placed_at": placed_at.isoformat(),
                }
                await self._create(client, "orders", "/orders", body)
                if self._decided is not None and not await self._decided(order_id, self._give_up_s):
                    raise self._undecided(order_id)
                self.sent.done["orders"] += 1
            case CancelOrder():
                await self._cancel(client, operation)
                self.sent.done["cancellations"] += 1

    async def _turn(self) -> float:
        """Wait until the next order is due; return the time at which it was (without a rate: now)."""
        if self._rate is None:
            return time.monotonic()
        due = self._began + self._orders_started / self._rate
        self._orders_started += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        return due

    async def _cancel(self, client: aiohttp.ClientSession, operation: CancelOrder) -> None:
        """Cancel the order, as soon as it is decided; refused when it was rejected."""
        path = f"/orders/{operation.order_id}/cancel"
        began = time.monotonic()
        attempt = 0
        while time.monotonic() - began < self._give_up_s:
            # A refusal is not kept with the key (its step rolled back), so the same request may ask again.
            status, answer = await self._post(client, "orders", path, None, operation.key)
            if status == 202:
                return
            found = answer.get("status_of_order")
            if status == 409 and found == "REJECTED":
                self.sent.refused += 1
                return
            if status != 409 or found != "NEW":
                raise OperationFailed(f"POST {path} was answered {status}, expected 202 or 409: {answer}")
            self.sent.undecided += 1
            attempt += 1
            await asyncio.sleep(min(0.01 * 2 ** min(attempt, 6), 0.4) * self._random.uniform(0.5, 1.0))
        raise self._undecided(operation.order_id)

    def _undecided(self, order_id: UUID) -> OperationFailed:
        return OperationFailed(f"order {order_id} was still NEW after {self._give_up_s:g} s: nobody decides it")

    async def _create(self, client: aiohttp.ClientSession, service: str, path: str, body: Mapping[str, str]) -> None:
        """Create what the body names by its id: 201, or 200 when an earlier try did it and its answer was lost."""
        status, answer = await self._post(client, service, path, body, None)
        if status not in (200, 201):
            raise OperationFailed(f"POST {path} of {service} was answered {status}, expected 201 or 200: {answer}")
        self.sent.known_before += status == 200

    async def _post(
        self, client: aiohttp.ClientSession, service: str, path: str, body: Mapping[str, str] | None, key: str | None
    ) -> tuple[int, Any]:
        """Send the same request until there is an answer below 500; return the status and the problem."""
        url = self._urls[service] + path
        headers = {"Idempotency-Key": key} if key else {}
        last = ""
        began = time.monotonic()
        attempt = 0
        while time.monotonic() - began < self._give_up_s:
            try:
                async with client.post(url, json=body, headers=headers) as response:
                    text = await response.read()
                    if response.status < 400:
                        return response.status, None
                    if response.status < 500:
                        return response.status, json.loads(text)
                    last = f"{response.status} {text[:500]!r}"
                    reason = str(response.status)
            except aiohttp.ClientConnectorError as error:
                self.sent.resent["no connection"] += 1
                last = repr(error)
                await self._reachable[service].wait(self._give_up_s - (time.monotonic() - began))
                continue
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
                last = repr(error)
                reason = "no answer"
            self.sent.resent[reason] += 1
            await asyncio.sleep(min(0.02 * 2 ** min(attempt, 5), 0.5) * self._random.uniform(0.5, 1.0))
            attempt += 1
        raise OperationFailed(f"POST {url} had no answer for {self._give_up_s:g} s; the last try: {last}")
