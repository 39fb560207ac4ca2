"""Real servers for tests, demos and benchmarks: each on a free loopback port, in a directory of its own, and stopped.

    with PostgresServer() as server:
        Service("orders", database=server.url("orders"))

Nothing here touches a server that it did not start. `make servers` installs them where they are missing.
"""

from __future__ import annotations

from servers.base import Server, ServerFailed, ServerMissing
from servers.kafka import KafkaServer, MeasuredKafkaServer
from servers.mariadb import MariaDbServer
from servers.mongodb import MongoDbServer
from servers.nats import NatsCluster, NatsServer
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.proxy import TcpProxy
from servers.rabbitmq import RabbitMqServer
from servers.redis import RedisServer
from servers.standby import PostgresStandby

__all__ = [
    "KafkaServer",
    "MariaDbServer",
    "MeasuredKafkaServer",
    "MongoDbServer",
    "NatsCluster",
    "NatsServer",
    "PgBouncer",
    "PostgresServer",
    "PostgresStandby",
    "RabbitMqServer",
    "RedisServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "TcpProxy",
]
