"""A store in this process's memory: for tests, and as the limit that others are measured against."""

from ensue.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
