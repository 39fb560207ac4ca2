"""From `MODULE:SERVICE` on the command line to the service it names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from types import ModuleType

import ensue
from ensue.app import Service
from ensue.cli.completing import services_here
from ensue.errors import UsageError


def load_service(target: str) -> Service:
    """Import what `target` names, also from the current directory. Raises UsageError that says what is there instead.

    An error inside the module itself is a UsageError too: its text, and the lines of the user's files that led to it.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        there = services_here(f"{module_name.removesuffix('.py')}:") if module_name else []
        raise UsageError(
            f"{target!r} names no service: write MODULE:SERVICE, "
            + (f"there is {', '.join(there)}" if there else "e.g. shop.orders:orders")
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name, target)
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Service):
        return found
    services = [f"{module_name}:{each}" for each, value in vars(module).items() if isinstance(value, Service)]
    raise UsageError(
        f"{target}: {name} in {module.__file__} is {'not there' if found is None else f'a {type(found).__name__}'}, "
        + (f"expected a service; there is {', '.join(services)}" if services else "and there is no service in it")
    )


def load_services(targets: Sequence[str]) -> list[Service]:
    """Load them all. Raises UsageError for two of one name: their leases and databases would be the same."""
    services = [load_service(target) for target in targets]
    names = [service.name for service in services]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"service {name} is named twice: name it once (more processes: --processes)")
    return services


def _is_file(module_name: str, target: str) -> UsageError:
    path = os.path.normpath(module_name).removesuffix(".py").replace(os.sep, ".").lstrip(".")
    name = target.partition(":")[2]
    return UsageError(f"{target}: {module_name} is a file, and a module is wanted; did you mean {path}:{name}?")


def _import(module_name: str, target: str) -> ModuleType:
    if os.sep in module_name:
        raise _is_file(module_name, target)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            # the module is there, and something that it imports is not
            raise UsageError(_broken(module_name, error)) from error
        if module_name.endswith(".py"):
            raise _is_file(module_name, target) from error
        raise UsageError(
            f"{target}: no module {missing!r} in {os.getcwd()} or on the Python path (PYTHONPATH): "
            "run the command in the directory above the package"
        ) from error
    except Exception as error:
        raise UsageError(_broken(module_name, error)) from error


def _broken(module_name: str, error: Exception) -> str:
    """One line, and below it the frames of the error that lie in the user's files."""
    ours = (os.path.dirname(ensue.__file__), *(sysconfig.get_path(each) for each in ("stdlib", "purelib", "platlib")))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *(f"{each}{os.sep}" for each in ours)))
    ]
    lines = [f"module {module_name} cannot be imported: {type(error).__name__}: {error}"]
    return "\n".join(lines + [line.rstrip("\n") for line in traceback.format_list(frames)])
