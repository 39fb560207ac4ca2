"""The outbox in MariaDB and MySQL, for sessions of the user's. Whose relay waits looks several times a second."""

from __future__ import annotations

from ensue.stores.mariadb.url import parse
from ensue.stores.sql.session_outbox import SqlSessionOutbox


class OwnSessionOutbox(SqlSessionOutbox):
    """url: of the service's database."""

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service, parse(url).place, ("mysql", "mariadb"), clock="UNIX_TIMESTAMP(SYSDATE(6))", quote="`")
