"""Stores: the databases that services own, behind the `Store` port. `ensue.adapters` chooses one by its URL."""
