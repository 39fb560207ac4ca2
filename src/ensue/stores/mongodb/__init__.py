"""A store on MongoDB: each entity is one document, which knows by itself what took effect on it."""

from ensue.stores.mongodb.store import MongoDbStore

__all__ = ["MongoDbStore"]
