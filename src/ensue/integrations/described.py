"""The AsyncAPI document of a service that an app serves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ensue.addresses import scheme_of
from ensue.app import Service
from ensue.contracts.asyncapi import asyncapi
from ensue.contracts.contract import contract_of


def described(service: Service, version: str) -> Callable[[], dict[str, Any]]:
    """Return what makes the document, once, when it is first asked for: from what is declared then."""

    @cache
    def document() -> dict[str, Any]:
        return asyncapi(contract_of(service), scheme=scheme_of(service.settings().broker), version=version)

    return document
