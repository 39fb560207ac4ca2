"""The SQLSTATE with which a server refuses a connection, which libpq keeps to itself.

psycopg has the message alone, in the language of the server's `lc_messages`. So a connection that was refused is asked
for once more, with the one setting of libpq (PQERRORS_SQLSTATE) that has it write the code instead of the words.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import re

from psycopg import pq

_SQLSTATE_ONLY = 3
_CODE = re.compile(r": +([0-9A-Z]{5})$", re.M)
_TIME_S = 10.0


async def sqlstate(conninfo: str) -> str:
    """Return the code of the last host's refusal; empty: there is none, or it is no refusal any more."""
    connection = await asyncio.to_thread(pq.PGconn.connect_start, conninfo.encode())  # looks the host up
    try:
        pointer = connection.pgconn_ptr  # type: ignore[attr-defined]  # psycopg documents it for this
        _library().PQsetErrorVerbosity(ctypes.c_void_p(pointer), _SQLSTATE_ONLY)
        async with asyncio.timeout(_TIME_S):
            await _end(connection)
    except TimeoutError:
        return ""
    else:
        if connection.needs_password:  # the server wants one, and libpq has none: no code comes with that
            return "28P01"
        found: list[str] = _CODE.findall(connection.error_message.decode(errors="replace"))
        return found[-1] if found else ""
    finally:
        connection.finish()


async def _end(connection: pq.abc.PGconn) -> None:
    while connection.status != pq.ConnStatus.BAD:
        state = connection.connect_poll()
        if state not in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
            return
        await ready(connection.socket, writing=state == pq.PollingStatus.WRITING)


async def ready(socket: int, *, writing: bool = False) -> None:
    """Return when something can be read from the socket, or written to it."""
    loop = asyncio.get_running_loop()
    event: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(socket, _set, event)
    try:
        await event
    finally:
        remove(socket)


def _set(event: asyncio.Future[None]) -> None:
    if not event.done():
        event.set_result(None)


def _library() -> ctypes.CDLL:
    """The libpq of psycopg's own: what is asked of its compiled module is found in the library that came with it."""
    names = {"binary": "psycopg_binary.pq", "c": "psycopg_c.pq"}
    if pq.__impl__ in names:
        return ctypes.CDLL(importlib.import_module(names[pq.__impl__]).__file__)
    from psycopg.pq.misc import find_libpq_full_path

    return ctypes.CDLL(find_libpq_full_path())
