"""`ensue config`: the settings that a service would run with here, and where each comes from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import typer

from ensue.addresses import shown
from ensue.app import Service
from ensue.cli.loading import load_service
from ensue.cli.options import Json, Target
from ensue.cli.output import print_json, print_table
from ensue.config import EngineConfig, home_of, log_format
from ensue.retry import Retry
from ensue.variables import Source

app = typer.Typer(help="Settings: which they are, and where they come from.", no_args_is_help=True)

#: Fields of EngineConfig that `Service(...)` itself takes too, and which go before.
_OF_THE_SERVICE = ("handler_limit_s", "retry")


@app.command()
def show(
    service: Target,
    json: Json = False,
) -> None:
    """Show every setting that the service would run with here: its value, and where it comes from.

    That is an argument in code, a variable of the environment, a file that a variable names, or the default. Users and
    passwords of URLs are masked, and of keys only the names are shown. No database is asked.
    """
    definition = load_service(service)
    settings = list(_settings(definition))
    if json:
        rows = [
            {"name": name, "value": value, "source": source.kind, "variable": source.variable, "file": source.file}
            for name, value, source in settings
        ]
        print_json({"service": definition.name, "settings": rows})
        return
    shown = [(name, _text(value), _where(source)) for name, value, source in settings]
    print_table(definition.name, ("setting", "value", "comes from"), shown)


def _settings(service: Service) -> Iterator[tuple[str, Any, Source]]:
    """Name, value without secrets, and source of each."""
    settings, sources = service.settings(), service.setting_sources()
    yield "home", str(home_of()), sources["home"]
    yield "database", shown(settings.database), sources["database"]
    yield "broker", shown(settings.broker), sources["broker"]
    yield "partitions", settings.partitions, sources["partitions"]
    variable = "ENSUE_LOG_FORMAT"
    said = Source("environment", variable) if os.environ.get(variable) else Source("default", variable)
    yield "log_format", log_format(), said
    for field in dataclasses.fields(EngineConfig):
        value, source = getattr(settings.engine, field.name), sources[f"engine.{field.name}"]
        if field.name in _OF_THE_SERVICE and (own := getattr(service, field.name)) is not None:
            value, source = own, Source("argument", source.variable)
        if isinstance(value, Retry):
            yield from _retry(value, source)
        else:
            yield f"engine.{field.name}", value, source
    trust = settings.trust
    yield "trust.signed", trust.signed, sources["trust.signed"]
    yield "trust.keys", [f"{each.service}/{each.id}" for each in trust.keys], sources["trust.keys"]
    yield "trust.unsigned_topics", sorted(trust.unsigned_topics), sources["trust.unsigned_topics"]
    yield "trust.unsigned_sources", sorted(trust.unsigned_sources), sources["trust.unsigned_sources"]


def _retry(retry: Retry, source: Source) -> Iterator[tuple[str, Any, Source]]:
    for field in dataclasses.fields(Retry):
        value = getattr(retry, field.name)
        if field.name == "never":
            value = [each.__name__ for each in value]
        yield f"engine.retry.{field.name}", value, source


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)


def _where(source: Source) -> str:
    if source.kind == "argument":
        return "argument in code"
    if source.kind == "default":
        return f"default ({source.variable})" if source.variable else "default"
    return f"{source.variable}: {source.file}" if source.kind == "file" else source.variable
