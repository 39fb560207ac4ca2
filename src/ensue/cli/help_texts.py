"""Help texts as a terminal wants them: each paragraph one line, which is broken where that terminal ends."""

from __future__ import annotations

from inspect import getdoc

import typer


def unwrap(app: typer.Typer) -> None:
    """Have each command's help be its docstring without the line breaks inside of paragraphs, which typer keeps."""
    for command in app.registered_commands:
        text = command.help or getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            unwrap(group.typer_instance)
