"""What a handler is, and what it may return: whatever can be called, as long as calling it does the work.

Calling a generator function, a class or a decorated `async def` only makes an object. What is known at the declaration
is refused there; what shows in the result alone is awaited, or is a failure that names the handler.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

from ensue.errors import UsageError
from ensue.event import is_event_class


def name_of(function: Callable[..., Any]) -> str:
    """The function's name; of a `functools.partial` that of its function, of an object that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def written_in(function: Any) -> Any:
    """The function with the annotations, below partials, static and bound methods, and objects with `__call__`."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod | types.MethodType):
            function = function.__func__
        elif not inspect.isfunction(function) and inspect.isfunction(type(function).__call__):
            function = type(function).__call__
        else:
            return function


def bound_by_partial(function: Any) -> frozenset[str]:
    """Names of parameters that a `functools.partial` has given a value."""
    return frozenset(function.keywords) if isinstance(function, functools.partial) else frozenset()


def is_async(function: Any) -> bool:
    """Whether calling it is sure to return a coroutine. What a decorator hides shows in the result (`finished`)."""
    return inspect.iscoroutinefunction(written_in(function))


def wraps_async(function: Any) -> bool:
    """Whether an `async def` is below the decorators that say what they wrap (`functools.wraps`)."""
    return inspect.iscoroutinefunction(written_in(inspect.unwrap(written_in(function))))


def check_callable(function: Any, where: str) -> None:
    """Raise UsageError for what can be called but would do nothing then, or not each time."""
    if isinstance(function, type):
        raise UsageError(f"{where} is a class, and calling it only makes an object: declare a function or a method")
    if not callable(function):
        raise UsageError(
            f"{where} is a {type(function).__name__}, which cannot be called: declare a function, or a method of an "
            "object or class that exists, service.on(object.method)"
        )
    written = written_in(function)
    if inspect.isgeneratorfunction(written) or inspect.isasyncgenfunction(written):
        raise UsageError(f"{where} has `yield` in it, so calling it does nothing: write a function without `yield`")
    if any(hasattr(each, "cache_info") for each in (function, written)):
        raise UsageError(
            f"{where} is cached (functools.cache, lru_cache): for an event like an earlier one it would not run. "
            "Cache a function that the handler calls"
        )


def by_place(function: Callable[..., Any], keywords: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function for calls by place alone. keywords: its last parameters, which can be given by name only."""
    if not keywords:
        return function

    def call(*values: Any) -> Any:
        first = len(values) - len(keywords)
        return function(*values[:first], **dict(zip(keywords, values[first:], strict=True)))

    return call


async def finished(where: str, result: Any, *, answers: bool = False) -> Any:
    """Return what a call came to: an awaitable is awaited, also one that another returned. answers: it may be an event,
    as the reply to a command.

    Raises UsageError for a generator, of which nothing has run, and for an event, which nobody has published.
    """
    while inspect.isawaitable(result):
        awaited = await result
        if awaited is result:  # some are done and are their own result
            return result
        result = awaited
    if result is None:
        return None
    for each in (result, getattr(result, "gen", None)):  # `gen` is where a function under @contextmanager is
        if isinstance(each, Generator | AsyncGenerator):
            raise UsageError(
                f"{where} returned a {type(each).__name__}, of which nothing has run: write it without `yield`, or "
                "run it to its end in the handler"
            )
    if answers:
        return result
    for each in result if isinstance(result, list | tuple | set | frozenset) else (result,):
        if is_event_class(type(each)):
            name = type(each).__qualname__
            raise UsageError(
                f"{where} returned a {name}, which publishes nothing: take `step: Step` and write "
                f"step.publish({name}(...))"
            )
    return result


IMPORT_IT = "import the class where the handler is declared, not only under TYPE_CHECKING"


def resolved(function: Callable[..., Any], of: str, annotation: Any, where: str, local_names: Mapping[str, Any]) -> Any:
    """What one annotation means. One at a time, so that an error can name it. of: what it says something about."""

    def one() -> None: ...

    one.__annotations__ = {"one": annotation}
    namespace = getattr(inspect.unwrap(written_in(function)), "__globals__", {})
    try:
        return typing.get_type_hints(one, namespace, dict(local_names))["one"]
    except Exception as error:  # annotations are expressions: they can fail in any way
        raise UsageError(
            f"{where}: the annotation {annotation!r} {of} cannot be resolved ({error}); {IMPORT_IT}"
        ) from error


def options_of(kind: Any) -> Sequence[Any]:
    """The alternatives of a union, also of one that has a name of its own; of anything else itself."""
    if not isinstance(kind, type) and hasattr(kind, "__value__"):  # type Answer = Reserved | LimitExceeded
        return options_of(kind.__value__)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [option for each in typing.get_args(kind) for option in options_of(each)]
    return (kind,)
