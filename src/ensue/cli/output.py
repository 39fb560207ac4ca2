"""How the commands print: tables for people, JSON for machines, errors in one line, and no secret in any of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ensue.addresses import masked
from ensue.errors import UsageError
from ensue.texts import plain

#: Wide enough for a line of anything when the output goes to a file or a pipe.
_WIDE = 200

#: A table that is so many times as wide as the terminal is no table there.
_TOO_WIDE = 2

#: What JSON may hold as it is, and a terminal or a log takes for an order.
_UNSEEN = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def console() -> Console:
    """Made when asked for, since tests and pipes replace standard output. Nothing in the data is taken for markup."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(markup=False, highlight=False, emoji=False, width=width)


def say(*lines: str) -> None:
    """Each is one line, whatever it holds."""
    console().print("\n".join(map(plain, lines)), soft_wrap=True)


def complain(text: str) -> None:
    """One message on standard error; where it has several lines, the others are set in."""
    print("\n  ".join(map(plain, f"ensue: {masked(text)}".split("\n"))), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(_seen(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def json_line(value: Any) -> str:
    """The same on one line, for what is written piece by piece."""
    return _seen(msgspec.json.encode(value).decode())


def _seen(written: str) -> str:
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], written)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns whose name ends in `#` hold numbers and stand to the right.

    On a terminal that is much too narrow each row is shown as lines, one for each column: a table would cut ids and
    keys into pieces, which nobody can copy. The first column, which names the row, stays whole unless it is long.
    """
    shown = console()
    names = [column.rstrip("#") for column in columns]
    cells = [[plain(str(each)) for each in row] for row in rows]
    if _width(names, cells) > _TOO_WIDE * shown.width:
        _print_records(shown, plain(title), names, cells)
        return
    table = Table(title=plain(title) or None, title_justify="left", title_style="bold", header_style="bold")
    whole = all(3 * cell_len(row[0]) <= shown.width for row in cells)
    for number, (name, column) in enumerate(zip(names, columns, strict=True)):
        right = column.endswith("#")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=whole and number == 0)
    for row in cells:
        table.add_row(*row)
    shown.print(table)


def _width(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Of the table when nothing in it is broken: each column has a line at its left, and a space on either side."""
    widest = (max(map(cell_len, column)) for column in zip(names, *cells, strict=True))
    return sum(each + 3 for each in widest) + 1


def _print_records(shown: Console, title: str, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    wide = max(map(cell_len, names))
    records = ("\n".join(f"{name:<{wide}}  {cell}" for name, cell in zip(names, row, strict=True)) for row in cells)
    shown.print("\n\n".join([title, *records] if title else records), soft_wrap=True)


def print_lines(rows: Iterable[Sequence[object]]) -> None:
    """As many as there are, without columns."""
    for row in rows:
        print("  ".join(plain(str(each)) for each in row))


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `yes`. Ends the command with exit code 1 on anything but a yes, also when nobody can answer."""
    if yes:
        return
    try:
        agreed = typer.confirm(plain(question))
    except typer.Abort:  # Ctrl-C, or the end of standard input
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        print()  # ends the line of the question
        raise UsageError("nothing was done: nobody answers the question here; --yes goes on without it") from None
    if not agreed:
        raise typer.Abort


def shown_data(data: bytes) -> str:
    """JSON indented, else what the bytes look like."""
    try:
        return msgspec.json.format(data, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return repr(data)
