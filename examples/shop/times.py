"""Moments: aware `datetime` in UTC in the code; in the database ISO 8601 text of one length, which sorts right."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator
from sqlalchemy import Dialect, String
from sqlalchemy.types import TypeDecorator


def to_text(moment: datetime) -> str:
    """
    >>> to_text(datetime(2011, 12, 9, 12, 50, tzinfo=UTC))
    '2011-12-09T12:50:00.000000+00:00'
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


class UtcDateTime(TypeDecorator[datetime]):
    """A column of moments; SQLite knows no time zones, so the text carries it."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


def _text_only(value: Any) -> Any:
    if isinstance(value, str) and value[:1].isdigit() and "-" in value[:5]:
        return value
    raise ValueError("a moment with its time zone as RFC 3339 text, e.g. 2011-12-09T12:50:00Z")


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment between the years 1 and 9999 in UTC") from None


#: A moment as a client may give it. Text only: pydantic would also take a number, as seconds since 1970.
Moment = Annotated[AwareDatetime, BeforeValidator(_text_only), AfterValidator(_to_utc)]
