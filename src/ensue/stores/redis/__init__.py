"""A store for views on Redis: what a step did, and how far it has read, become visible in one script or not at all."""

from ensue.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
