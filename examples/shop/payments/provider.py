"""What the provider is asked, over HTTP and in no transaction. It may be slow or away, or answer too late.

Each call may be made several times, so it carries the key of its effect: under one key the provider does a thing once.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp

from ensue import EffectKey
from shop import settings
from shop.commands import CardRefused
from shop.money import to_pence
from shop.payments.service import payments

REFUSED = 402


class ProviderFailed(Exception):
    """It answered that it cannot, so it is asked again."""


@payments.outside
async def hold(order_id: UUID, card: UUID, amount: Decimal, key: EffectKey) -> str:
    """Returns what the provider calls it."""
    answer = await _ask("authorisations", key, {"payment": str(order_id), "card": str(card), "pence": to_pence(amount)})
    return str(answer["reference"])


@payments.outside
async def let_go(order_id: UUID, key: EffectKey) -> None:
    """Whatever is held for the order, perhaps nothing; nor is anything held for it later."""
    await _ask("voids", key, {"payment": str(order_id)})


@payments.outside
async def take(order_id: UUID, amount: Decimal, key: EffectKey) -> None:
    await _ask("captures", key, {"payment": str(order_id), "pence": to_pence(amount)})


@payments.outside
async def give_back(order_id: UUID, amount: Decimal, key: EffectKey) -> None:
    await _ask("refunds", key, {"payment": str(order_id), "pence": to_pence(amount)})


async def _ask(what: str, key: EffectKey, body: dict[str, Any]) -> dict[str, Any]:
    """Raises CardRefused, ProviderFailed, and what aiohttp does."""
    url = f"{settings.provider()}/{what}"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url, json=body, headers={"Idempotency-Key": key}) as response,
    ):
        if response.status not in (200, REFUSED):
            raise ProviderFailed(f"POST {url} was answered {response.status}: {(await response.text())[:200]}")
        answer: dict[str, Any] = await response.json()
    if response.status == REFUSED:
        raise CardRefused(reason=answer["reason"])
    return answer
