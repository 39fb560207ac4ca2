"""What the shell completes where a command wants MODULE:SERVICE: the services that the files here declare.

The files are read and not imported: whoever presses Tab has nothing run. So what is made by a function, or in a file
with a name of another kind, is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

#: `orders = Service("orders"`, at the beginning of a line; also with a type, and of a module.
_DECLARED = re.compile(rb"^(\w+)(?:[ \t]*:[^=\n]+)?[ \t]*=[ \t]*(?:\w+\.)?(?:Service|View)\(", re.MULTILINE)
#: Nobody's services are in these.
_PASSED_OVER = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"})
#: It is asked at each Tab: so many files are read, down to so many directories, and so much of each.
_FILES_MAX, _DEPTH_MAX, _BYTES_MAX = 2_000, 5, 200_000


def services_here(incomplete: str) -> list[str]:
    """Return MODULE:NAME of each service in the files below this directory that begins with what is typed so far."""
    module, _, _ = incomplete.partition(":")
    found: set[str] = set()
    for root in _roots():
        for file, name in _modules(root):
            # Most files are passed over by their names alone.
            if name == module if ":" in incomplete else name.startswith(module):
                found.update(each for each in _declared(file, name) if each.startswith(incomplete))
    return sorted(found)


def _roots() -> list[Path]:
    """From where modules are imported: this directory, and what of the Python path is in it."""
    here = Path.cwd()
    paths = [Path(each).absolute() for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return [here, *(each for each in paths if here in each.parents)]


def _modules(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file below with its module's name, at most _FILES_MAX."""
    left = _FILES_MAX
    for directory, directories, files in os.walk(root):
        at = Path(directory).relative_to(root).parts
        deeper = len(at) < _DEPTH_MAX
        directories[:] = sorted(each for each in directories if deeper and each.isidentifier())
        directories[:] = [each for each in directories if each not in _PASSED_OVER]
        for file in sorted(files):
            stem, dot, ending = file.partition(".")
            if (dot, ending) == (".", "py") and stem.isidentifier() and not stem.startswith("test_"):
                parts = at if stem == "__init__" else (*at, stem)
                if parts:
                    yield Path(directory, file), ".".join(parts)
                left -= 1
                if not left:
                    return


def _declared(file: Path, module: str) -> Iterator[str]:
    try:
        with file.open("rb") as opened:
            text = opened.read(_BYTES_MAX)
    except OSError:
        return  # it is not for this user to read, and so not to run either
    for found in _DECLARED.finditer(text):
        yield f"{module}:{found[1].decode()}"
