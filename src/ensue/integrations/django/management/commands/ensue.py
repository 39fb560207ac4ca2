"""`manage.py ensue`: Ensue's own commands, on the project's service."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from ensue.integrations.django.project import all_services

TARGET = "ensue.integrations.django.target:service"
#: Commands that have commands of their own.
GROUPS = frozenset({
    "config", "db", "dead-letters", "decisions", "gaps", "outbox", "partitions", "sagas", "schemas", "timers", "views",
})  # fmt: skip


class Command(BaseCommand):
    help = (
        "Run the project's service, look at it, and decide what waits for a person: "
        "run, status, dead_letters, gaps, check, and every other command of `ensue` that takes a SERVICE. "
        "--service NAME: of another service of the project than that of settings.ENSUE."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own attribute

    def run_from_argv(self, argv: list[str]) -> None:
        """All that follows is Ensue's command line, its options too."""
        words = without_djangos(argv[2:])
        if words[:1] in (["-h"], ["--help"]) or not words:
            self.print_help(argv[0], argv[1])
            return
        self._run(words)

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("words", nargs="+", help="as after `ensue`, without SERVICE")

    def handle(self, *_: Any, words: list[str], **__: Any) -> None:
        self._run(words)

    def _run(self, words: list[str]) -> None:
        words, target = target_in(words)
        if words[:1] == ["check"]:
            name = target.partition(":")[2]
            using = [each.using for each in all_services() if target == TARGET or each.name == name]
            call_command("check", databases=using)
            _ensue(["db", "check", target])
            return
        # The processes that `run --processes` starts find the project where this one has found it.
        known = [each for each in (os.getcwd(), *sys.path) if each]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(known))
        _ensue(with_target(words, target))


def _ensue(arguments: list[str]) -> None:
    """As `python -m ensue`, in this process."""
    sys.argv = ["ensue", *arguments]
    runpy.run_module("ensue", run_name="__main__")


def without_djangos(words: list[str]) -> list[str]:
    """Leave out what manage.py has acted on before it called this: which settings, and where modules are.

    >>> without_djangos(["--settings=shop.live", "status", "--pythonpath", "src", "--json"])
    ['status', '--json']
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for each in ("--settings", "--pythonpath"):
        parser.add_argument(each)
    return parser.parse_known_args(words)[1]


def target_in(words: list[str]) -> tuple[list[str], str]:
    """Take `--service billing` out: another service of the project than that of settings.ENSUE.

    >>> target_in(["--service", "billing", "status", "--json"])
    (['status', '--json'], 'ensue.integrations.django.target:billing')
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--service")
    known, left = parser.parse_known_args(words)
    return left, TARGET if known.service is None else f"{TARGET.partition(':')[0]}:{known.service}"


def with_target(words: list[str], target: str = TARGET) -> list[str]:
    """Name the service where `ensue` wants it: behind the command's own words.

    >>> with_target(["dead_letters", "retry", "orders/0:1", "--reason", "mended"])[:3]
    ['dead-letters', 'retry', 'ensue.integrations.django.target:service']
    """
    first = words[0].replace("_", "-")
    count = 2 if first in GROUPS else 1
    return [first, *words[1:count], target, *words[count:]]
