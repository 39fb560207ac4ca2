"""`python -m ensue.cli.contract_process SERVICE...`: the contract of each service, as a line of JSON.

A process of its own, since each service may have a class of its own for one wire type, which one process cannot have
twice. What the user's modules print goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from subprocess import DEVNULL, run

import msgspec

from ensue.addresses import masked, scheme_of
from ensue.cli.loading import load_service
from ensue.contracts.contract import contract_of
from ensue.contracts.described import Contract
from ensue.errors import EnsueError, UsageError


class Answer(msgspec.Struct, frozen=True):
    """contract; None: `error` says why there is none. scheme: of its log's URL, if asked for."""

    contract: Contract | None
    error: str = ""
    scheme: str = ""


def ask(targets: Sequence[str], *, log: bool = False) -> list[Answer]:
    """Return what each service says, in order; all have a contract. log: and the scheme of its log.

    Raises UsageError for what cannot be loaded.
    """
    with ThreadPoolExecutor(max(1, min(len(targets), os.cpu_count() or 1))) as threads:
        return list(threads.map(lambda target: _ask(target, log), targets))


def _ask(target: str, log: bool) -> Answer:
    command = [sys.executable, "-m", "ensue.cli.contract_process", target, *(["--log"] if log else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = run(command, env=environment, stdin=DEVNULL, capture_output=True)
    try:
        answer = msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError as error:
        said = done.stderr.decode(errors="replace").strip()
        raise UsageError(
            f"{target}: the process that loads it ended with status {done.returncode}: "
            f"{masked(said)[-2000:] or 'it said nothing'}"
        ) from error
    if answer.contract is None:
        raise UsageError(answer.error)
    return answer


def answer(target: str, log: bool) -> Answer:
    try:
        service = load_service(target)
        scheme = scheme_of(service.settings().broker) if log else ""
        return Answer(contract_of(service), scheme=scheme)
    except EnsueError as error:
        return Answer(None, masked(str(error)))


if __name__ == "__main__":
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    output.write(msgspec.json.encode(answer(sys.argv[1], "--log" in sys.argv)))
    output.close()
