"""The host's `authorize`, which gets as long as an answer may take, and holds up nobody else.

A plain `def` may block, on the host's database say. In the event loop that would stop every other request of the
process, and no limit could end it; so it is called in a thread. See docs/adr/0063.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from typing import Any, Final

from starlette.requests import HTTPConnection

from ensue.console.access import Actor, Authorize, checked_authorize
from ensue.console.patience import NoAnswer, within

#: Calls in threads that have not come back: a thread cannot be stopped, so there is an end to beginning more of them.
CALLS_MAX: Final = 64


class HostSilent(NoAnswer):
    """The host did not say in time who asks: HTTP 504, and nobody is let in."""


class Patient:
    """The host's callable, to be asked as it is. authorize: see `access.Authorize`. answer_s: how long it may take.

    Raises UsageError, when it is made, for what cannot be asked.
    """

    def __init__(self, authorize: object, answer_s: float) -> None:
        self._authorize: Authorize = checked_authorize(authorize)
        self._answer_s = answer_s
        self._in_loop = inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(
            getattr(authorize, "__call__", None)  # noqa: B004 - of an object, whose call may be a coroutine
        )
        self._running = 0
        self._lock = threading.Lock()

    async def __call__(self, connection: HTTPConnection) -> Actor | None:
        """Raises HostSilent, and whatever the host raises."""
        try:
            return await within(self._answer_s, self._ask(connection))
        except HostSilent:
            raise
        except NoAnswer as error:
            raise HostSilent(
                f"no answer within {self._answer_s:g} s: this application does not say who asks (`authorize`); nobody "
                "is let in, and nothing was changed",
                goes_on=False,
            ) from error

    async def _ask(self, connection: HTTPConnection) -> Any:
        answer = self._authorize(connection) if self._in_loop else await self._in_thread(connection)
        return await answer if inspect.isawaitable(answer) else answer

    async def _in_thread(self, connection: HTTPConnection) -> Any:
        """In a daemon, which does not hold up the end of the process. It sees the context variables of here."""
        with self._lock:
            if self._running >= CALLS_MAX:
                raise HostSilent(
                    f"{CALLS_MAX} calls of this application's `authorize` have not come back: nobody is let in, and "
                    "nothing was changed",
                    goes_on=False,
                )
            self._running += 1
        loop, over, context = asyncio.get_running_loop(), asyncio.Event(), contextvars.copy_context()
        answers: list[Any] = []
        raised: list[BaseException] = []

        def work() -> None:
            try:
                answers.append(context.run(self._authorize, connection))
            except BaseException as error:  # whatever it is, whoever awaits it gets it
                raised.append(error)
            with self._lock:
                self._running -= 1
            try:
                loop.call_soon_threadsafe(over.set)
            except RuntimeError:  # nobody is there any more
                if not loop.is_closed():
                    raise

        try:
            threading.Thread(target=work, name="ensue console authorize", daemon=True).start()
        except BaseException:  # there can be no more threads now
            with self._lock:
                self._running -= 1
            raise
        await over.wait()
        if raised:
            raise raised[0]
        return answers[0]
