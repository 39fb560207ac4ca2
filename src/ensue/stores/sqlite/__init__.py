"""The embedded store: one SQLite file per service, with an SQLAlchemy session in each step and no thread per call.

One write connection lives on the event loop. A step's statements run on it where they are called; what is worth
leaving the loop for is the commit, on a slow disk (`writer.py`). Everything in `ensue_*` tables is Ensue's own, all
else in the file is the user's.
"""

from ensue.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
