"""The command line page says what the commands say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.command_line import PAGE, commands, render
from typer.main import get_command

from ensue.cli.main import app


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text() == render(), "write it anew: python -m tests.docs.command_line"


def test_commands_named_in_the_documents_exist() -> None:
    known = {path for path, _ in commands("ensue", get_command(app))}
    known |= {path.rpartition(" ")[0] for path in known}  # groups
    root = Path(__file__).parents[2]
    for page in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for words in re.findall(r"`(?:\$ )?(ensue(?: [a-z][a-z-]*)+)", page.read_text()):
            named = words.split(" shop")[0]
            assert named in known, f"{page.name}: {named}"
