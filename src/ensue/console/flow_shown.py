"""A flow without what errors say, for who is not shown payloads: see `payloads.shown_error`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ensue.console.payloads import Payloads, shown_error, shown_reason
from ensue.operations.flow.sagas import SagaSeen
from ensue.operations.flow.sequence import Published, Reaction


def shown_flow(
    events: Sequence[Published], sagas: Sequence[SagaSeen], mode: Payloads
) -> tuple[list[Published], list[SagaSeen]]:
    def reaction(of: Reaction) -> Reaction:
        if of.letter is None:
            return of
        return replace(of, letter=replace(of.letter, error=shown_reason(of.letter.error, mode)))

    return (
        [replace(each, reactions=tuple(map(reaction, each.reactions))) for each in events],
        [replace(each, reason=shown_error(each.reason, mode)) for each in sagas],
    )
