"""The store on PostgreSQL, by asyncpg or psycopg 3. Everything in `ensue_*` tables is Ensue's own.

`postgresql://` and `postgresql+asyncpg://` use asyncpg, `postgresql+psycopg://` uses psycopg.
"""

from ensue.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
