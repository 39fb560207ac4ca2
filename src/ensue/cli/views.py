"""`ensue views`: the versions of a view, to build one beside the one that is asked, and to have it asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from ensue.cli.build_progress import Shown
from ensue.cli.completing import services_here
from ensue.cli.giving_way import NICE, give_way
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import Json, Reason, Yes
from ensue.cli.output import confirm, print_json, print_table, say
from ensue.cli.serving import Stop
from ensue.deciding import Deciding
from ensue.engine.view_runtime import ViewRuntime
from ensue.errors import UsageError
from ensue.operations.views import OpenedView, ViewStatus, opened_view, view_status
from ensue.texts import when
from ensue.view import View
from ensue.views import states
from ensue.views.ready import lines
from ensue.views.states import Accepted, ViewRow

app = typer.Typer(
    help="Views: build a version beside the one that is asked, have it asked, go back.", no_args_is_help=True
)

T = TypeVar("T")
_View = Annotated[
    str,
    typer.Argument(
        metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME of a View; its code's version is meant"
    ),
]
_Who = Annotated[str, typer.Option("--by", "--who", help="Who decides; is kept with the view", show_default="you")]
_RATE = typer.Option(min=0, help="Events per second that one process takes; 0: as fast as it can")
_COLUMNS = (
    "view", "version#", "role", "read", "rate limit", "fed by", "since", "by", "not ready for", "goes on without",
)  # fmt: skip
#: How often it is looked whether a version is ready.
_LOOK_S = 1.0


def load_view(target: str) -> View:
    service = load_service(target)
    if not isinstance(service, View):
        raise UsageError(f"{target} is a Service, which has one state and no versions: expected a View")
    return service


@app.command("list")
def list_(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME of a View, one or several"),
    ],
    json: Json = False,
) -> None:
    """List versions: which is asked, which is fed and by how many, how far each is, and what it goes on without."""

    async def look() -> list[ViewStatus]:
        return [await view_status(load_view(each)) for each in services]

    found = asyncio.run(look())
    if json:
        print_json({"views": found})
        return
    print_table("", _COLUMNS, [line for each in found for line in _lines(each)])


def _lines(view: ViewStatus) -> list[tuple[object, ...]]:
    return [
        (
            view.name,
            each.version,
            each.role + (f", seeded from {each.seeded_from}" if each.seeded_from else ""),
            f"{each.done} of {each.total}",
            f"{view.rate:g}/s" if each.role.startswith("building") and view.rate else "-",
            len(each.workers) or "nobody",
            when(view.swapped_at if each.version == view.active else view.started_at),
            view.by,
            "; ".join(lines(each.obstacles)) or "ready" if each.version == view.building else "-",
            "; ".join(_accepted(one) for one in view.accepted if one.version == each.version) or "-",
        )
        for each in view.versions
    ] or [(view.name, "-", "no version yet", "-", "-", "-", "-", "-", "-", "-")]


@app.command()
def rebuild(
    service: _View,
    rate: Annotated[float, _RATE] = 0.0,
    nice: Annotated[
        int, typer.Option(min=0, max=19, help="How far this process gives way to others, as of nice(1); 0: not at all")
    ] = NICE,
    detach: Annotated[bool, typer.Option(help="Only begin: processes that have the version's code build it")] = False,
    who: _Who = "",
    reason: Reason = "",
) -> None:
    """Build the code's version beside the one that is asked, until it is ready: from the log's beginning, or from
    another version's rows where the code says how.

    This process builds it, together with others that run the version, and gives way to all others of the machine while
    another version answers. Kill it at any time: called again it goes on where it was. Nothing is published, and nobody
    is asked the new version before `ensue views swap`.
    """
    view, by = load_view(service), deciding(who, reason)

    async def begin() -> ViewRow:
        async with opened_view(view, make=True) as access:
            return await access.deciding(by, "views rebuild").rebuild(view.version, by.actor, rate)

    row = asyncio.run(begin())
    if row.active == view.version:
        say(f"view {view.view}: version {view.version} is the first one, and is asked from the first")
    else:
        say(f"view {view.view}: version {view.version} is being built, version {row.active} answers meanwhile")
    if not detach:
        if row.active != view.version:
            give_way(nice)
        with Stop() as stop:
            if asyncio.run(_build(view, stop)):
                say(f"view {view.view}: version {view.version} is ready: ensue views swap {service}")
            else:
                say(f"view {view.view}: stopped; it goes on with: ensue views rebuild {service}")


async def _build(view: View, stop: Stop) -> bool:
    """Whether it is ready; False: it was stopped before."""
    stopping = stop.bind()
    async with view.running() as runtime, opened_view(view) as access, access.versions.looking() as versions:
        with Shown(f"{view.view} version {view.version}") as shown:
            while not stopping.is_set():
                found = await versions.obstacles(view.version, access.broker)
                shown.show(await versions.progress(view.version, access.broker), lines(found))
                if not found:
                    return True
                if isinstance(runtime, ViewRuntime) and isinstance(runtime.not_seeded, UsageError):
                    raise runtime.not_seeded
                if all(each.final for each in found):
                    why = "\n".join(lines(found))
                    raise UsageError(f"view {view.view}: version {view.version} cannot become ready by itself:\n{why}")
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await stopping.wait()
                except TimeoutError:
                    continue
    return False


@app.command()
def pause(service: _View, who: _Who = "", reason: Reason = "") -> None:
    """Feed the version that is building no more until `resume`; the one that is asked is fed as before."""
    by = deciding(who, reason)
    row = _decide(service, states.pause(by.actor), by, "views pause")
    say(f"view {row.name}: the building of version {row.building} is paused")


@app.command()
def resume(
    service: _View,
    rate: Annotated[float | None, _RATE] = None,
    who: _Who = "",
    reason: Reason = "",
) -> None:
    """Have a paused building go on, or one that runs go on at another rate."""
    by = deciding(who, reason)
    row = _decide(service, states.resume(by.actor, rate), by, "views resume")
    limit = f", at most {row.rate:g} events a second in each process" if row.rate else ""
    say(f"view {row.name}: version {row.building} is being built{limit}")


def _decide(service: str, rule: states.Rule, by: Deciding, action: str) -> ViewRow:
    async def decide(access: OpenedView) -> ViewRow:
        return await access.deciding(by, action).book.change(rule)

    return _run(load_view(service), decide)


@app.command()
def swap(
    service: _View,
    accept_missing: Annotated[
        bool,
        typer.Option(help="Go on without what log and outbox have lost; is kept and shown for ever after"),
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is ready")] = 0.0,
    yes: Yes = False,
    who: _Who = "",
    reason: Reason = "",
) -> None:
    """Have queries answered by the code's version from now on. Refused, and said why, while that is not ready.

    The one before is fed as before, so that `ensue views rollback` goes back to it at any time.
    """
    view, by = load_view(service), deciding(who, reason)

    async def work(access: OpenedView) -> ViewRow:
        if accept_missing:
            await _accept(access, view, by, yes)
        until = asyncio.get_running_loop().time() + max(wait, 5.0 if accept_missing else 0.0)
        async with access.deciding(by, "views swap").looking() as versions:
            while True:
                try:
                    return await versions.swap(view.version, by.actor, access.broker)
                except UsageError:
                    if asyncio.get_running_loop().time() >= until:
                        raise
                await asyncio.sleep(_LOOK_S / 4)

    row = _run(view, work)
    say(f"view {row.name}: version {row.active} is asked, version {row.previous} is fed as before")
    say(
        f"to go back: ensue views rollback {service}; to remove version {row.previous}: ensue views drop {service} "
        f"{row.previous}"
    )


@app.command("accept-missing")
def accept_missing_(
    service: _View,
    yes: Yes = False,
    who: _Who = "",
    reason: Reason = "",
) -> None:
    """Have the code's version go on without what log and outbox have lost; is kept and shown for ever after."""
    view, by = load_view(service), deciding(who, reason)
    _run(view, lambda access: _accept(access, view, by, yes))


async def _accept(access: OpenedView, view: View, by: Deciding, yes: bool) -> None:
    missing = await access.versions.missing(view.version, access.broker)
    if not missing:
        say(f"view {view.view}: nothing is missing in version {view.version}")
        return
    say(*lines(missing), f"Nothing of it will ever take effect in version {view.version}.")
    await asyncio.to_thread(confirm, "Go on without it?", yes)
    versions = access.deciding(by, "views accept-missing")
    for each in await versions.accept_missing(view.version, by.actor, access.broker, missing):
        say(f"accepted: {_accepted(each)}")


@app.command()
def rollback(service: _View, who: _Who = "", reason: Reason = "") -> None:
    """Have queries answered by the version that was asked before."""
    view, by = load_view(service), deciding(who, reason)
    row = _run(view, lambda access: access.deciding(by, "views rollback").rollback(by.actor, access.broker))
    say(f"view {row.name}: version {row.active} is asked, version {row.previous} is fed as before")


@app.command()
def drop(
    service: _View,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="As `ensue views list` shows it")],
    force: Annotated[bool, typer.Option(help="I know that no process of the version runs")] = False,
    yes: Yes = False,
    who: _Who = "",
    reason: Reason = "",
) -> None:
    """Feed a version no more, previous or building, and remove its place with all that is in it. Safe to repeat."""
    view, by = load_view(service), deciding(who, reason)

    async def work(access: OpenedView) -> ViewRow:
        states.drop(version, "")(await access.versions.book.row(), 0.0)  # refused before anybody is asked
        await asyncio.to_thread(confirm, f"Remove version {version} of view {view.view} with all its rows?", yes)
        return await access.deciding(by, "views drop").drop(version, by.actor, force=force)

    row = _run(view, work)
    say(f"view {row.name}: version {version} is removed; version {row.active} is asked")


def _run(view: View, work: Callable[[OpenedView], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened_view(view) as access:
            return await work(access)

    return asyncio.run(run())


def _accepted(each: Accepted) -> str:
    return (
        f"{each.topic}/{each.partition} positions {each.after + 1} to {each.through} of {each.source} "
        f"(by {each.by}, {when(each.at)})"
    )
