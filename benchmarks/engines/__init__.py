"""The step pipeline on real servers: Ensue over its adapters against loops written by hand on the same drivers.

`engines` (entity steps on dataclasses), `engines_orm` (SQLAlchemy entities) and `engines_plain` (a statement an event).
Every server is started here with the durability that it has by default, and stopped.
"""

from __future__ import annotations

from benchmarks.engines.entities import run

__all__ = ["run"]
