"""What a column keeps less of than a handler writes is told at start: no store says so when it happens."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, time
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Event, Service, TableRepository
from ensue.adapters import make_store
from ensue.testing import run

WHOLE = 1 / 3
MOMENT = datetime(2026, 1, 31, 23, 30, 15, 123456, tzinfo=UTC)


class Measured(Event, topic="kept-otherwise", key="of"):
    of: UUID


class AsPeopleDo(DeclarativeBase):
    pass


class Mean(AsPeopleDo):
    """Columns as people declare them, and others that keep all."""

    __tablename__ = "kept_means"
    of: Mapped[UUID] = mapped_column(primary_key=True)
    mean: Mapped[float] = mapped_column(sa.Float)
    at: Mapped[datetime]
    daily: Mapped[time]
    small: Mapped[float] = mapped_column(sa.REAL)
    whole: Mapped[float] = mapped_column(sa.Double)
    wide: Mapped[float] = mapped_column(sa.Float(53))
    zoned: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6, timezone=True), "mysql", "mariadb")
    )
    exact: Mapped[datetime] = mapped_column(sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"))


@dataclasses.dataclass
class Plain:
    of: UUID
    mean: float
    at: datetime


plain = sa.Table(
    "kept_plain",
    AsPeopleDo.metadata,
    sa.Column("of", sa.Uuid, primary_key=True),
    sa.Column("mean", sa.Float),
    sa.Column("at", sa.DateTime(timezone=True)),
)

#: By the kind of database.
TOLD = {
    "sqlite": {"kept_means.zoned"},
    "postgresql": {"kept_means.small"},
    "mariadb": {
        "kept_means.mean",
        "kept_means.at",
        "kept_means.daily",
        "kept_means.zoned",
        "kept_plain.mean",
        "kept_plain.at",
    },
}


async def test_a_start_tells_of_columns_that_keep_less_and_they_do(
    sql_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(
        "means",
        tables=AsPeopleDo.metadata,
        publishes=[Measured],
        repositories=[TableRepository(Plain, plain)],
    )

    @service.on(id="of")
    def measure(mean: Mean | None, event: Measured) -> Mean | None:
        naive = MOMENT.replace(tzinfo=None)
        return Mean(
            of=event.of, mean=WHOLE, at=naive, daily=naive.time(), small=WHOLE, whole=WHOLE, wide=WHOLE, exact=naive,
            zoned=MOMENT,
        )  # fmt: skip

    @service.on(id="of")
    def keep(found: Plain | None, event: Measured) -> Plain | None:
        return Plain(event.of, WHOLE, MOMENT)

    event = Measured(of=UUID(int=1))
    async with run(service, make_store=lambda name: make_store(sql_database, name)) as world:
        async with service.step() as step:
            step.publish(event)
        await world.settle()
        async with service.query() as session:
            mean = await session.get_one(Mean, event.of)
        async with service.rows() as rows:
            other = await rows.get(Plain, event.of)
    assert other is not None
    naive = MOMENT.replace(tzinfo=None)
    lost = {
        f"kept_means.{name}"
        for name, value in {
            "mean": WHOLE, "at": naive, "daily": naive.time(), "small": WHOLE, "whole": WHOLE, "wide": WHOLE,
            "exact": naive, "zoned": MOMENT,
        }.items()
        if getattr(mean, name) != value
    }  # fmt: skip
    lost |= {
        f"kept_plain.{name}" for name, value in {"mean": WHOLE, "at": MOMENT}.items() if getattr(other, name) != value
    }
    told = {
        word.removesuffix(",")
        for each in caplog.messages
        if "keeps less than a handler writes in" in each
        for word in each.split()
        if word.startswith("kept_")
    }
    assert told == lost == TOLD[sa.make_url(sql_database).get_backend_name()]
