"""A step that would commit after the answer was sent is refused at start-up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI

from ensue.dependable import dependable
from ensue.errors import UsageError
from ensue.integrations.fastapi import StepRoute, check_step_scope, install


class Shop:
    @dependable
    async def step(self) -> AsyncIterator[str]:
        yield "step"


shop, other = Shop(), Shop()


def an_app(declare: Callable[[FastAPI], Any], *, installed: bool = True) -> FastAPI:
    app = FastAPI()
    if installed:
        install(app)
    declare(app)
    return app


def test_function_scope_is_accepted() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        async def create(step: str = Depends(shop.step, scope="function")) -> None: ...

    check_step_scope(an_app(declare), shop.step)
    check_step_scope(an_app(declare, installed=False), shop.step)


def test_other_scope_names_the_route_and_says_what_to_write() -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders/{order_id}/cancel")
        async def cancel(order_id: str, step: str = Depends(shop.step)) -> None: ...

    with pytest.raises(UsageError, match=r'^POST /orders/\{order_id\}/cancel: .*scope="function"'):
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
    check_step_scope(an_app(declare, installed=False), shop.step)


def test_a_changing_route_without_install_is_warned_of_since_its_keys_have_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def declare(app: FastAPI) -> None:
        @app.post("/orders")
        async def create(step: str = Depends(shop.step, scope="function")) -> None: ...

        @app.get("/orders")
        async def show(step: str = Depends(shop.step, scope="function")) -> None: ...

    check_step_scope(an_app(declare), shop.step)
    assert caplog.messages == []
    check_step_scope(an_app(declare, installed=False), shop.step)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("ensue.integrations", "WARNING")
    assert record.getMessage() == (
        "POST /orders: Idempotency-Key has no effect here; call install(app) right after FastAPI(...), "
        "or APIRouter(route_class=StepRoute)"
    )
