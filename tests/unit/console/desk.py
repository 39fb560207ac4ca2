"""Two services and a view for the tests of what is asked over HTTP: a shop sells, its books enter what was sold."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette

import ensue.console
from ensue import Event, Retry, Saga, Service, View
from ensue.console import Actor, Payloads
from ensue.engine.books import Books
from ensue.ports import Store


class DeskSold(Event, topic="desk", key="customer"):
    customer: str
    amount: float = 0
    note: str = ""


shop = Service("desk_shop", publishes=[DeskSold])
books = Service("desk_books", retry=Retry(attempts_max=1))
#: Of one view, as two deployments have it.
first, second = View("desk_seen", version=1), View("desk_seen", version=2)


def broken() -> bool:
    return Path(os.environ["ENSUE_HOME"], "broken").exists()


@books.on
def enter(event: DeskSold) -> None:
    if event.amount < 0 and broken():
        raise ValueError(f"negative amount {event.amount}")


@books.local
def pack(customer: str) -> int:
    if broken():
        raise RuntimeError("no box")
    return 1


@books.saga
async def ship(saga: Saga, sold: DeskSold) -> None:
    await saga.local(pack, sold.customer, undo=None)


@first.on
@second.on
async def see(event: DeskSold) -> None: ...


SERVICES = (shop, books, first, second)


def who(connection: Any) -> Actor | None:
    """The host's: whoever says a name has the roles that they say."""
    name = connection.headers.get("x-user")
    return None if name is None else Actor(name, connection.headers.get("x-roles", "admin").split())


def desk_api(**options: Any) -> FastAPI:
    return ensue.console.api(*SERVICES, **{"authorize": who, "payloads": Payloads.FULL, **options})


@asynccontextmanager
async def client(
    app: Starlette | None = None, user: str = "ann", roles: str = "admin"
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app or desk_api())
    headers = {"x-user": user, "x-roles": roles}
    async with httpx.AsyncClient(transport=transport, base_url="http://desk", headers=headers) as asking:
        yield asking


@asynccontextmanager
async def books_of(service: Service) -> AsyncIterator[tuple[Store, Books]]:
    store = service.make_store()
    await store.open()
    try:
        yield store, Books(store, service.name)
    finally:
        await store.close()
