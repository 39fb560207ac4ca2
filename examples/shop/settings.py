"""The shop's own settings, read from the environment when a service starts (those of Ensue begin with ENSUE_).

SHOP_PLACEMENT: how an order is placed, `choreography` (as it is unless told) or `orchestration`; the same in all
services. Orders that are on their way when it changes end as they began: each knows how it was placed.
SHOP_CUSTOMERS: how customers are kept, as `state` (as it is unless told) or `event-sourced`. They are not moved when it
changes: begin with an empty database.
SHOP_HISTORY_VERSION: which version of the view order_history a process has, 1 unless told. All have the same code here.
SHOP_PROVIDER: the URL of the payment provider.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ensue import UsageError

PLACEMENTS = ("choreography", "orchestration")
CUSTOMERS = ("state", "event-sourced")


def placement(environment: Mapping[str, str] = os.environ) -> str:
    """
    >>> placement({}), placement({"SHOP_PLACEMENT": "orchestration"})
    ('choreography', 'orchestration')
    """
    found = environment.get("SHOP_PLACEMENT") or PLACEMENTS[0]
    if found not in PLACEMENTS:
        raise UsageError(f"SHOP_PLACEMENT is {found!r}, expected {' or '.join(PLACEMENTS)}")
    return found


def customers(environment: Mapping[str, str] = os.environ) -> str:
    """
    >>> customers({}), customers({"SHOP_CUSTOMERS": "event-sourced"})
    ('state', 'event-sourced')
    """
    found = environment.get("SHOP_CUSTOMERS") or CUSTOMERS[0]
    if found not in CUSTOMERS:
        raise UsageError(f"SHOP_CUSTOMERS is {found!r}, expected {' or '.join(CUSTOMERS)}")
    return found


def history_version(environment: Mapping[str, str] = os.environ) -> int:
    """
    >>> history_version({}), history_version({"SHOP_HISTORY_VERSION": "2"})
    (1, 2)
    """
    found = environment.get("SHOP_HISTORY_VERSION") or "1"
    if not found.isdecimal():
        raise UsageError(f"SHOP_HISTORY_VERSION is {found!r}, expected a whole number from 1")
    return int(found)


def provider(environment: Mapping[str, str] = os.environ) -> str:
    """
    >>> provider({})
    'http://127.0.0.1:8090'
    """
    return environment.get("SHOP_PROVIDER") or "http://127.0.0.1:8090"


ORCHESTRATED = placement() == "orchestration"
EVENT_SOURCED = customers() == "event-sourced"
