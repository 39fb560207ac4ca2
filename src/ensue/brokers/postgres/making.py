"""Making the log's tables and topics; of several processes that find none at once, one makes them."""

from __future__ import annotations

from ensue.brokers.postgres import sql
from ensue.brokers.postgres.address import Address
from ensue.brokers.postgres.connections import Connections
from ensue.errors import UsageError


async def make_tables(connections: Connections, statements: sql.Statements, address: Address) -> None:
    """Make the tables in a new schema. Raises UsageError for tables of another version."""
    async with connections.locked(address.schema, opening=True) as connection:
        if not await connection.fetchval(sql.EXISTS, address.schema):
            for statement in statements.create:
                await connection.execute(statement)
        version = await connection.fetchval(statements.version)
    if version != sql.VERSION:
        raise UsageError(
            f"{address.place} has tables of version {version}, expected {sql.VERSION}: use the Ensue that "
            "made them, or let every service drain the log and give the next one another schema (?schema=)",
            expected=sql.VERSION,
            found=version,
        )


async def make_topic(
    connections: Connections, statements: sql.Statements, address: Address, topic: str, partitions: int
) -> int:
    """Make it unless another process was faster; return how many partitions it has."""
    async with connections.locked(address.schema) as connection:
        name = address.prefix + topic
        found = len(await connection.fetch(statements.partition_ids, name))
        if not found:
            await connection.execute(statements.add_topic, name, partitions)
    return found or partitions
