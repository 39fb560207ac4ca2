"""What the stores on SQL servers share: everything that is SQL and not one database's own.

A store is put together of a `Driver` (how to connect and send statements: asyncpg, psycopg, asyncmy), a `Dialect` (what
PostgreSQL and MariaDB write differently) and an `Outbox` (where positions come from). No ORM inside.
"""
