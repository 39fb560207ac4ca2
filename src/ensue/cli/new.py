"""`ensue new`: a project to begin with, which passes its tests at once."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import packages_distributions, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from ensue.cli.output import say
from ensue.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
#: What the package of a project would hide from it, besides the standard library.
_TAKEN = frozenset({"ensue", "fastapi", "httpx", "pytest", "sqlalchemy", "tests", "uvicorn"})

#: The file of a project, and the template beside this module that it is made of.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "$package/__init__.py": "",
    "$package/services.py": "services.py",
    "tests/test_services.py": "test_services.py",
}


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the project, and of the directory that it gets")],
) -> None:
    """Make a project: two services, an order that they open together, and tests that pass at once.

    It gets a directory of its own here, with pyproject.toml, README.md, a package and tests. A directory that has
    something in it is left alone.
    """
    directory, made = Path(name), project(name)
    _check_empty(directory)
    try:
        for path, text in made.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from error
    say(
        f"{directory}/ is there: {', '.join(made)}",
        f"Next: cd {directory}, and the six lines of its README.md",
    )


def project(name: str) -> dict[str, str]:
    """Return the files of a project by their paths. Raises UsageError for a name that no package can have."""
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a project: expected lower-case letters, digits, - and _")
    if keyword.iskeyword(package):
        raise UsageError(f"{package} is a word of Python's, and no package: choose another, e.g. {name}-shop")
    if package in _TAKEN or package in sys.stdlib_module_names or package in packages_distributions():
        raise UsageError(f"a package {package} would hide another one of that name: choose another, e.g. {name}-shop")
    values = {"name": name, "package": package, "version": version("ensue")}
    templates = files("ensue.cli").joinpath("new_project")

    def made(template: str) -> str:
        if not template:
            return ""
        text = templates.joinpath(f"{template}.template").read_text(encoding="utf-8")
        return Template(text).substitute(values)

    return {Template(path).substitute(values): made(template) for path, template in _FILES.items()}


def _check_empty(directory: Path) -> None:
    if directory.is_dir():
        if found := sorted(each.name for each in directory.iterdir()):
            shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise UsageError(f"{directory}/ is there and not empty ({shown}): choose another name, or remove it")
    elif directory.exists() or directory.is_symlink():
        raise UsageError(f"{directory} is there and no directory: choose another name, or remove it")
