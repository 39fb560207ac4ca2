"""A step that failed, as those who narrow it down pass it on."""

from __future__ import annotations


class StepFailed(Exception):
    """A handler failed with `error`; the transaction must be rolled back.

    index: of the message whose handler failed, or None when entities failed to load or save, which may be due to any.
    handler: its name; empty when no handler ran (the data does not fit the event), or when it may be any of several.
    made: how many entities it was to insert, when that is what failed, and may have because another process has
    inserted one of them since it was looked for; 0: that is not why.
    """

    def __init__(self, index: int | None, error: BaseException, handler: str = "", *, made: int = 0) -> None:
        super().__init__(index, error, handler)
        self.index = index
        self.error = error
        self.handler = handler
        self.made = made
