"""The tables of `bare_files` as SQLAlchemy knows them, for the loops that send their statements through it."""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()
outbox_table = Table(
    "outbox",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("previous", Integer),
    Column("topic", String),
    Column("partition", Integer),
    Column("key", String),
    Column("envelope", LargeBinary),
    Column("data", LargeBinary),
    Column("written_at", Float),
)
checkpoint = Table(
    "checkpoint",
    metadata,
    Column("topic", String, primary_key=True),
    Column("log_offset", Integer),
    Column("revision", Integer),
    Column("watermark", Integer),
)
