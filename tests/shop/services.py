"""The shop's services as they are by SHOP_PLACEMENT and SHOP_CUSTOMERS, which they read at import: each way once a
process."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import SimpleNamespace
from typing import Any

import shop.customers.app  # those that any other test finds, by whatever SHOP_PLACEMENT it has
import shop.order_history.app
import shop.orders.app  # noqa: F401

#: What is imported anew. Not what travels: a class of an event is the same for all.
OWN = ("shop.settings", "shop.orders", "shop.customers", "shop.order_history", "shop.payments")


@functools.cache
def services(way: str) -> Any:
    """way: the placement, and how customers are kept, `choreography/event-sourced`; alone: as state.

    orders, customers, order_history, by orchestration payments, each with its `service` and `app`.

    modules: by name, `shop.orders.model`.
    """
    placement, _, customers = way.partition("/")
    names = ["orders", "customers", "order_history"] + ["payments"] * (placement == "orchestration")
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _own(name)}
    settings = {"SHOP_PLACEMENT": placement, "SHOP_CUSTOMERS": customers}
    was = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        members = {
            name: SimpleNamespace(
                service=getattr(importlib.import_module(f"shop.{name}"), name),
                app=importlib.import_module(f"shop.{name}.app").app,
            )
            for name in names
        }
        modules = {name: module for name, module in sys.modules.items() if _own(name)}
        return SimpleNamespace(placement=placement, modules=modules, **members)
    finally:
        sys.modules.update(before)  # the others stay: annotations are looked up there, some of them later
        for name, module in before.items():
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)
        for name, value in was.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _own(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in OWN)
