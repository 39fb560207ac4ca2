"""One callable for `async with orders.step()` and for FastAPI's `Depends(orders.step)`.

FastAPI looks through decorators for an async generator and makes a context manager of it itself. A function that
`contextlib.asynccontextmanager` has decorated is therefore wrapped twice, and fails with "not an async iterator" (seen
with FastAPI 0.165). So the object here is both: a context manager, and an async generator with the same steps.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, _AsyncGeneratorContextManager
from typing import Any, NoReturn, ParamSpec, TypeVar

from ensue.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class _Dependable(_AsyncGeneratorContextManager[T]):
    """Hands on the three calls that `contextlib` makes on an async generator."""

    gen: Any

    def __enter__(self) -> NoReturn:
        name = self.func.__name__
        raise UsageError(f"`with ....{name}()` cannot wait: write `async with ....{name}()`, inside `async def`")

    def __exit__(self, *_: object) -> None:
        """Never called; without it Python says "not a context manager" before it calls `__enter__`."""

    def __getattr__(self, name: str) -> NoReturn:
        """What is forgotten most: a step that has not begun has nothing."""
        made = getattr(self.__dict__.get("func"), "__name__", "step")
        raise AttributeError(
            f"{made}() has not begun, so it has no {name!r}: write `async with ....{made}() as it:`, and use what that "
            "gives",
            name=name,
            obj=self,
        )

    def __aiter__(self) -> _Dependable[T]:
        return self

    async def __anext__(self) -> T:
        value: T = await anext(self.gen)
        return value

    async def athrow(self, error: BaseException, *rest: Any) -> T:
        value: T = await self.gen.athrow(error, *rest)
        return value

    async def aclose(self) -> None:
        await self.gen.aclose()


def dependable(function: Callable[P, AsyncIterator[T]]) -> Callable[P, AbstractAsyncContextManager[T]]:
    """As `contextlib.asynccontextmanager`, and good for `fastapi.Depends(...)` as well."""

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
        return _Dependable(function, args, kwargs)  # type: ignore[arg-type]  # typeshed wants AsyncGenerator, as we get

    return make
