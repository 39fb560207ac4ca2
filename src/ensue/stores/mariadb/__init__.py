"""The store on MariaDB (and MySQL) by asyncmy. Everything in `ensue_*` tables is Ensue's own."""

from ensue.stores.mariadb.store import MariaDbStore

__all__ = ["MariaDbStore"]
