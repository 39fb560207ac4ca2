"""The command line page, made from the commands themselves: `python -m tests.docs.command_line` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from ensue.cli.main import app

PAGE = Path(__file__).parents[2] / "docs/reference/command-line.md"

HEAD = """# Command line

`SERVICE` is always `MODULE:NAME`, as in `ensue run shop.orders:orders`: the module is imported, also from the current
directory, and the service in it is run or looked at. Where its database and its log are comes from the
[configuration](configuration.md), so give these commands the same environment as the service.

Commands that look take nothing and change nothing; they may run beside the service. Exit status: 0 done; 1 refused or
failed, with one message on standard error; 2 a command line that makes no sense. Lists are tables; on a terminal that
is too narrow for one each row is shown as lines, so that ids stay whole. `--json` is for a machine.

`ensue --install-completion` has your shell (bash, zsh, fish, PowerShell) complete commands and options;
`--show-completion` shows what it would add.
"""


def render() -> str:
    sections = [HEAD]
    for path, command in commands("ensue", typer.main.get_command(app)):
        usage = " ".join([path, *(_shown(each) for each in command.params if _is_argument(each))])
        sections.append(f"## {path}\n\n`{usage}`\n\n{' '.join((command.help or '').split())}\n")
        options = [each for each in command.params if not _is_argument(each) and not getattr(each, "hidden", False)]
        if options:
            rows = [f"| {_names(each)} | {getattr(each, 'help', None) or ''} |" for each in options]
            sections.append("\n".join(["| option | |", "|---|---|", *rows, ""]))
    return "\n".join(sections)


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from commands(f"{path} {name}", child)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _shown(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    several = "..." if parameter.nargs == -1 else ""
    return f"{name}{several}" if parameter.required else f"[{name}]{several}"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    metavar = f" {option.metavar}" if option.metavar else ""
    given = not option.is_flag and isinstance(option.default, int | str | Path) and option.default != ""
    default = " (required)" if option.required else f" (default {option.default})" if given else ""
    return f"{names}{metavar}{default}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render())
