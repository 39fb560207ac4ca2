"""A step that would commit after the answer was sent is refused at start-up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from ensue import Service, Step
from ensue.dependable import dependable
from ensue.errors import UsageError
from ensue.integrations.fastapi import StepRoute, install
from ensue.integrations.routes import check_step_scope


class Shop:
    @dependable
    async def step(self) -> AsyncIterator[str]:
        yield "step"


shop, other = Shop(), Shop()


def an_app(declare: Callable[[FastAPI], Any]) -> FastAPI:
    app = FastAPI()
    install(app, Service("shop"))
    declare(app)
    return app


def test_function_scope_is_accepted() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        async def create(step: str = Depends(shop.step, scope="function")) -> None: ...

    check_step_scope(an_app(declare), shop.step)


def test_other_scope_names_the_route_and_says_what_to_write() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders/{order_id}/cancel")
        async def cancel(order_id: str, step: str = Depends(shop.step)) -> None: ...

    with pytest.raises(UsageError, match=r"^POST /orders/\{order_id\}/cancel: .*step_of"):
        check_step_scope(an_app(declare), shop.step)


def test_step_deep_among_the_dependencies_is_seen() -> None:
    async def repository(step: str = Depends(shop.step)) -> str:
        return step

    def declare(app: FastAPI) -> None:
        @app.put("/orders")
        async def change(found: str = Depends(repository)) -> None: ...

    with pytest.raises(UsageError, match="PUT /orders"):
        check_step_scope(an_app(declare), shop.step)


def test_step_of_an_included_router_is_seen_with_its_full_path() -> None:
    def declare(app: FastAPI) -> None:
        inner = APIRouter(prefix="/orders", route_class=StepRoute)

        @inner.post("/{order_id}")
        async def change(order_id: str, step: str = Depends(shop.step)) -> None: ...

        outer = APIRouter()
        outer.include_router(inner)
        app.include_router(outer, prefix="/v1")

    with pytest.raises(UsageError, match=r"POST /v1/orders/\{order_id\}"):
        check_step_scope(an_app(declare), shop.step)


def test_step_of_a_mounted_app_is_seen() -> None:
    def declare(app: FastAPI) -> None:
        inner = FastAPI()

        @inner.delete("/orders")
        async def remove(step: str = Depends(shop.step)) -> None: ...

        app.mount("/inner", inner)

    with pytest.raises(UsageError, match="DELETE /inner/orders"):
        check_step_scope(an_app(declare), shop.step)


def test_step_of_a_websocket_is_seen() -> None:
    def declare(app: FastAPI) -> None:
        @app.websocket("/live")
        async def live(step: str = Depends(shop.step)) -> None: ...

    with pytest.raises(UsageError, match="WEBSOCKET /live"):
        check_step_scope(an_app(declare), shop.step)


def test_step_of_another_service_is_not_this_one_s_business() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        async def create(step: str = Depends(other.step)) -> None: ...

    check_step_scope(an_app(declare), shop.step)


def test_router_without_the_route_class_is_refused_since_its_keys_would_have_no_effect() -> None:
    def declare(app: FastAPI) -> None:
        router = APIRouter()

        @router.post("/orders")
        async def create(step: str = Depends(shop.step, scope="function")) -> None: ...

        app.include_router(router)

    with pytest.raises(UsageError, match=r"POST /orders: .*route_class=StepRoute"):
        check_step_scope(an_app(declare), shop.step)


async def test_an_app_with_such_a_route_does_not_start() -> None:
    service = Service("shop", database="memory://", broker="memory://")
    app = FastAPI()
    install(app, service)

    @app.post("/orders")
    async def create(step: Step = Depends(service.step)) -> None: ...

    with pytest.raises(UsageError, match=r"POST /orders: .*step_of\(\.\.\.\)"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.parametrize("mounted", [False, True])
async def test_such_a_route_answers_nothing_where_the_lifespan_did_not_look(mounted: bool) -> None:
    """The app's lifespan is another one, or does not run, as that of an app which is mounted."""
    service = Service("shop", database="sqlite://", broker="memory://")
    app = FastAPI()
    install(app, service)
    app.router.lifespan_context = contextlib.nullcontext

    @app.post("/orders")
    async def create(step: Step = Depends(service.step)) -> None: ...

    @app.post("/others")
    async def create_other() -> None: ...

    outer = FastAPI()
    outer.mount("/inner", app)
    asked, prefix = (outer, "/inner") if mounted else (app, "")
    async with (
        service.running(work=False),
        asked.router.lifespan_context(asked),
        httpx.AsyncClient(transport=httpx.ASGITransport(asked), base_url="http://test") as client,
    ):
        for path in ("/orders", "/others", "/orders"):
            with pytest.raises(UsageError, match=r"POST /orders: .*step_of\(\.\.\.\)"):
                await client.post(prefix + path)


async def test_a_service_that_only_a_mounted_app_would_run_says_where_to_install_it() -> None:
    service = Service("shop", database="sqlite://", broker="memory://")
    outer, app = FastAPI(), FastAPI()
    install(app, service)
    outer.mount("/inner", app)

    @app.post("/orders")
    async def create(step: Step = Depends(service.step, scope="function")) -> None: ...

    async with (
        outer.router.lifespan_context(outer),
        httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test") as client,
    ):
        with pytest.raises(UsageError, match=r"install\(app, shop\) .*the outermost app, mounted ones are not started"):
            await client.post("/inner/orders")
