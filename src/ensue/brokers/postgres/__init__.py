"""PostgreSQL as the broker: a partitioned log in tables, for teams that want no broker at all.

broker.py is what implements the port; connections.py runs statements, signals.py wakes who waits, sql.py has the
statements, address.py reads the URL, and failures.py turns the driver's exceptions into ours.
"""

from ensue.brokers.postgres.broker import PostgresBroker

__all__ = ["PostgresBroker"]
