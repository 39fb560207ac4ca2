"""What several commands take, said once."""

from __future__ import annotations

from typing import Annotated

import typer

from ensue.cli.completing import services_here

Target = Annotated[str, typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME")]
Json = Annotated[bool, typer.Option("--json", help="For a machine")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
By = Annotated[str, typer.Option("--by", help="Who decides; is kept with the decision", show_default="you")]
Reason = Annotated[str, typer.Option("--reason", help="Why; is kept with the decision")]
