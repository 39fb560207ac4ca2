"""Reading what stands in deploy/, and what any setting in it must satisfy."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # no stubs are installed, and little of it is used here
from fastapi import FastAPI

from ensue.adapters import BROKERS, STORES
from ensue.config import Settings, load_settings
from shop.customers.app import app as customers_app
from shop.order_history.app import app as order_history_app
from shop.orders.app import app as orders_app

DEPLOY = Path(__file__).parents[2] / "deploy"
APPS: Mapping[str, FastAPI] = {
    "shop.orders.app:app": orders_app,
    "shop.customers.app:app": customers_app,
    "shop.order_history.app:app": order_history_app,
}


def documents(path: Path) -> Iterator[Any]:
    yield from yaml.safe_load_all(path.read_text())


def check_settings(
    service: str,
    environment: Mapping[str, str],
    files: Mapping[str, str],
    directory: Path,
    caplog: pytest.LogCaptureFixture,
) -> Settings:
    """Every ENSUE_ variable is one that is read, none has a secret, and all lead to adapters that exist; return what
    they mean. files: by its path, what each file says that is mounted. directory: for these files here."""
    ours = {name: value for name, value in environment.items() if name.startswith("ENSUE_")}
    assert [name for name, value in ours.items() if "@" in value] == [], "a password in the environment"
    for name, path in ours.items():
        if name.endswith("_FILE") and path:
            here = directory / f"{service}_{name}"
            here.write_text(files[path])
            ours[name] = str(here)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="ensue.config"):
        settings = load_settings(service, environment=ours)
    assert [record.getMessage() for record in caplog.records] == []
    databases = [name for name in ours if "_DATABASE" in name]
    assert databases == [f"ENSUE_{service.upper()}_DATABASE_FILE"], "its own database, and nobody else's"
    assert settings.database.partition(":")[0] in STORES
    assert settings.broker.partition(":")[0] in BROKERS
    return settings


def routes_of(app: FastAPI) -> set[str]:
    return set(app.openapi()["paths"])


def check_image(image: str) -> None:
    tagged, _, digest = image.partition("@")
    name, _, tag = tagged.rpartition(":")
    assert name, f"{image} has no version"
    assert not digest or re.fullmatch("sha256:[0-9a-f]{64}", digest), f"{image}: {digest} is no digest"
    assert tag[0].isdigit(), f"{image} does not say which version"
