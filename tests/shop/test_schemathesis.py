"""Schemathesis against each service's own OpenAPI: requests that fit it and requests that do not, many of each.

No answer may be a 500 or other than documented; what fits is accepted, what does not is refused. A failure prints the
seed and the request as a curl command. The services run as in production, by their lifespan, settings from the
environment. SHOP_SEED and SHOP_EXAMPLES look further.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from ensue.integrations import problems
from shop.customers.app import app as customers_app
from shop.order_history.app import app as order_history_app
from shop.orders.app import app as orders_app
from shop.payments.app import app as payments_app

SEED = int(os.environ.get("SHOP_SEED", "20101201"))
KNOWN_ID = UUID(int=1)
EXAMPLES = int(os.environ.get("SHOP_EXAMPLES", "20"))


@pytest.fixture(scope="module", autouse=True)
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the services' databases and log in a directory of their own; end the services afterwards."""
    home = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ENSUE_")]:
            patch.delenv(name)
        patch.setenv("ENSUE_HOME", str(home))
        patch.setenv("ENSUE_PARTITIONS", "2")
        place_an_order()
        yield home
        asgi.shutdown_lifespans()


def place_an_order() -> None:
    """Make a customer and an order that exist: random ids never hit one."""
    customer = {"customer_id": str(KNOWN_ID), "name": "Ann", "credit_limit": "100.00"}
    order = {"order_id": str(KNOWN_ID), "customer_id": str(KNOWN_ID), "total": "1.00"}
    calls: list[tuple[Any, str, Any]] = [(customers_app, "/customers", customer), (orders_app, "/orders", order)]
    for app, path, body in calls:
        with asgi.get_client(app) as client:
            assert client.post(path, json=body).status_code == 201


def schema_of(app: FastAPI) -> OpenApiSchema:
    config = SchemathesisConfig(seed=SEED)
    config.projects.default.generation.update(max_examples=EXAMPLES)
    schema = schemathesis.openapi.from_dict(app.openapi(), config=config)
    schema.app = app
    return schema


orders_schema = schema_of(orders_app)
customers_schema = schema_of(customers_app)
order_history_schema = schema_of(order_history_app)
payments_schema = schema_of(payments_app)


@orders_schema.parametrize()
def test_orders_answers_as_documented(case: Case[Any]) -> None:
    call_and_validate(case)


@customers_schema.parametrize()
def test_customers_answers_as_documented(case: Case[Any]) -> None:
    call_and_validate(case)


@order_history_schema.parametrize()
def test_order_history_answers_as_documented(case: Case[Any]) -> None:
    call_and_validate(case)


@payments_schema.parametrize()
def test_payments_answers_as_documented(case: Case[Any]) -> None:
    call_and_validate(case)


def call_and_validate(case: Case[Any]) -> None:
    """Ask for what was generated, then for the same of an order or customer that exists."""
    print(f"SHOP_SEED={SEED}")
    validate(case, excluded=[])
    for name in case.path_parameters or ():
        case.path_parameters[name] = str(KNOWN_ID)
        validate(case, excluded=[negative_data_rejection])


def validate(case: Case[Any], excluded: list[Any]) -> None:
    """All checks; but a key that came before with another request, and a token that nobody gave out, are rightly
    refused, though they fit the schema."""
    response = case.call()
    refused = response.status_code in (400, 422) and response.json()["type"] in (
        problems.IDEMPOTENCY_MISMATCH,
        problems.TOKEN_INVALID,
    )
    case.validate_response(response, excluded_checks=[*excluded, positive_data_acceptance] if refused else excluded)
