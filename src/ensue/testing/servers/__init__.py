"""Real servers for tests, demos and benchmarks: each on a free loopback port, in a directory of its own, and stopped.

    with PostgresServer() as server:
        Service("orders", database=server.url("orders"))

Nothing here touches a server that it did not start. `make servers` installs them where they are missing.
"""

from __future__ import annotations

from ensue.testing.servers.base import Server, ServerFailed, ServerMissing
from ensue.testing.servers.kafka import KafkaServer
from ensue.testing.servers.mariadb import MariaDbServer
from ensue.testing.servers.mongodb import MongoDbServer
from ensue.testing.servers.nats import NatsCluster, NatsServer
from ensue.testing.servers.pgbouncer import PgBouncer
from ensue.testing.servers.postgres import PostgresServer
from ensue.testing.servers.proxy import TcpProxy
from ensue.testing.servers.rabbitmq import RabbitMqServer
from ensue.testing.servers.redis import RedisServer

__all__ = [
    "KafkaServer",
    "MariaDbServer",
    "MongoDbServer",
    "NatsCluster",
    "NatsServer",
    "PgBouncer",
    "PostgresServer",
    "RabbitMqServer",
    "RedisServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "TcpProxy",
]
