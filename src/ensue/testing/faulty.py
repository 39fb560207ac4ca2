"""Run a Python program that dies, by SIGKILL, at a named fault point:

    python -m ensue.testing.faulty POINT[:N] PROGRAM [ARGUMENT ...]

N: the pass at which it dies, 1 if not given. PROGRAM: a file, or -m MODULE, as for python itself. Processes that the
program starts in their turn are not affected.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from ensue.engine.faults import Faults
from ensue.errors import UsageError


def main(arguments: list[str]) -> None:
    match arguments:
        case [spec, "-m", module, *rest]:
            _name(spec)
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [spec, program, *rest] if program != "-m":
            _name(spec)
            sys.argv = [program, *rest]
            sys.path[0] = str(Path(program).resolve().parent)
            runpy.run_path(program, run_name="__main__")
        case _:
            sys.exit(__doc__)


def _name(spec: str) -> None:
    try:
        Faults.die_in_this_process(spec)
    except UsageError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
