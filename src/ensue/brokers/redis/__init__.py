"""Redis Streams as the log: one stream per partition."""

from ensue.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
