"""Views for tests of the command line: a module of its own, as a user has it, by settings alone."""

from __future__ import annotations

from ensue import Event, Service, View


class CommandsSeen(Event, topic="views.commands", key="name"):
    name: str


teller = Service("teller_of_views", publishes=[CommandsSeen])
#: Of one view, as two deployments have it.
first, second = View("seen", version=1), View("seen", version=2)


@first.on
@second.on
async def see(event: CommandsSeen) -> None: ...
