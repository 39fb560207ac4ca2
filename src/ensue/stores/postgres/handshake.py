"""What is settled when a connection is made, so that no step pays for it; and with PgBouncer, in each transaction."""

from __future__ import annotations

from typing import TypeVar

from ensue.errors import UsageError
from ensue.stores.postgres import failures
from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.postgres.words import WORDS
from ensue.stores.sql.link import Link

#: What a step's statements have set for the rest of its transaction or longer; first whose rights count.
RESTORE = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP"
SETTINGS = "SELECT current_setting('synchronous_commit')"


def session_settings(url: PostgresUrl) -> dict[str, str]:
    """Settings that are sent with the start of a connection."""
    settings = {"application_name": url.application, "lock_timeout": f"{int(url.lock_timeout_s * 1000)}ms"}
    if url.schema:
        settings["search_path"] = quoted(url.schema)
    return settings


class PostgresLink(Link):
    """What is the same whatever the driver."""

    words = WORDS

    @property
    def snapshot_text(self) -> str:
        """REPEATABLE READ is snapshot isolation: whoever writes a row that was changed since fails with 40001."""
        return self.begin_text.replace("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", 1)

    def is_interruption(self, error: Exception) -> bool:
        return failures.is_interruption(failures.code_of(error))

    async def close(self) -> None:
        await self.raw.close()


L = TypeVar("L", bound=Link)


async def settled(link: L, url: PostgresUrl) -> L:
    """Return the connection with what could not be set at its start; end it where that fails."""
    try:
        await _settle(link, url)
    except BaseException:
        link.terminate()
        raise
    return link


async def _settle(link: Link, url: PostgresUrl) -> None:
    """synchronous_commit=off is put on.

    With it off, a crash of the server takes back what was committed and read, and perhaps published, already. Stamping
    would make it safe for a record (its own commit is flushed, and with it every earlier one), but the answer of a
    step, and a checkpoint that others rely on, would still be taken back.
    """
    link.restore_text = RESTORE
    if url.pgbouncer:
        begin = ["BEGIN", f"SET LOCAL lock_timeout TO {int(url.lock_timeout_s * 1000)}"]
        if url.schema:
            begin.append(f"SET LOCAL search_path TO {quoted(url.schema)}")
        link.begin_text = "; ".join(begin)
        await link.begin()
        [(synchronous,)] = await link.fetch(SETTINGS)
        await link.commit()
        if synchronous == "off":
            link.begin_text += "; SET LOCAL synchronous_commit TO on"
        link.restore_text += link.begin_text.removeprefix("BEGIN")
        return
    [(synchronous,)] = await link.fetch(SETTINGS)
    if synchronous == "off":
        await link.script("SET synchronous_commit TO on")
        link.restore_text += "; SET synchronous_commit TO on"


def check_commit(status: str) -> None:
    """Raise UsageError when COMMIT was answered with ROLLBACK: a statement had failed and its error was caught."""
    if status == "ROLLBACK":
        raise UsageError(
            "the step's transaction was ended inside of it by an error of the database that was caught: PostgreSQL "
            "commits nothing after it. Let such errors pass, or do what may fail inside a savepoint (begin_nested)"
        )


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
