"""Amounts in pounds: `Decimal` with two decimals in the code, whole pence in the database, a string in JSON.

Never a float: a JSON number is taken by the digits it is written with, and refused when it has more than two decimals.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from sqlalchemy import BigInteger, Dialect
from sqlalchemy.types import TypeDecorator

PENNY = Decimal("0.01")
POUNDS_MAX = 10_000_000
_POUNDS = r"10000000(\.0{1,2})?|[1-9][0-9]{0,6}(\.[0-9]{1,2})?"
_MORE_THAN_ZERO = rf"({_POUNDS}|0\.(0[1-9]|[1-9][0-9]?))"
_ZERO_OR_MORE = rf"({_POUNDS}|0(\.[0-9]{{1,2}})?)"


def to_pence(amount: Decimal) -> int:
    """Return the amount in pence; raises ValueError when it is not a whole number of them.

    >>> to_pence(Decimal("12.30"))
    1230
    """
    pence = amount.scaleb(2)
    if pence != pence.to_integral_value():
        raise ValueError(f"{amount} is not a whole number of pence")
    return int(pence)


def from_pence(pence: int) -> Decimal:
    """
    >>> from_pence(1230)
    Decimal('12.30')
    """
    return Decimal(pence).scaleb(-2)


class Pence(TypeDecorator[Decimal]):
    """A column that holds an amount as whole pence, exact on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else to_pence(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else from_pence(value)


def _reader(pattern: str, bounds: str) -> BeforeValidator:
    accepted = re.compile(pattern)

    def read(value: Any) -> Decimal:
        """Take a string or a number as JSON has them; raise ValueError for anything else."""
        text = ""
        if isinstance(value, str):
            text = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= POUNDS_MAX:  # not NaN
            text = str(int(value)) if value == int(value) else repr(value)  # repr: the shortest digits, the sender's
        if not accepted.fullmatch(text):
            raise ValueError(f"an amount in pounds with at most two decimals, {bounds} {POUNDS_MAX:,}")
        return Decimal(text).quantize(PENNY)

    return BeforeValidator(read)


def _schema(pattern: str, **number: Any) -> WithJsonSchema:
    limits = {"maximum": POUNDS_MAX, "multipleOf": 0.01, **number}
    return WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{pattern}$"}, {"type": "number", **limits}], "examples": ["12.30"]},
        mode="validation",
    )


_SHOWN = WithJsonSchema({"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}$", "examples": ["12.30"]}, "serialization")

#: More than zero, at most ten million.
Amount = Annotated[
    Decimal, _reader(_MORE_THAN_ZERO, "more than 0, at most"), _schema(_MORE_THAN_ZERO, exclusiveMinimum=0)
]
#: Zero is an amount too.
Limit = Annotated[Decimal, _reader(_ZERO_OR_MORE, "from 0 to"), _schema(_ZERO_OR_MORE, minimum=0)]
#: An amount that is shown.
Shown = Annotated[Decimal, _SHOWN]
