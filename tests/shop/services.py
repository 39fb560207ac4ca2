"""The shop's services as they are by SHOP_PLACEMENT, which they read at import: each way once a process."""

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
def services(placement: str) -> Any:
    """orders, customers, order_history, by orchestration payments, each with its `service` and `app`.

    modules: by name, `shop.orders.model`.
    """
    names = ["orders", "customers", "order_history"] + ["payments"] * (placement == "orchestration")
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _own(name)}
    setting = os.environ.get("SHOP_PLACEMENT")
    os.environ["SHOP_PLACEMENT"] = placement
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
        if setting is None:
            del os.environ["SHOP_PLACEMENT"]
        else:
            os.environ["SHOP_PLACEMENT"] = setting


def _own(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in OWN)
