"""What the API is asked with: a body for each decision. A field that is none of them is refused: it is a slip."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ensue.deciding import REASON_CHARS_MAX

#: Of a list of ids in one request.
IDS_MAX = 1_000

#: No store keeps a text with a zero in it.
Id = Annotated[str, Field(min_length=1, max_length=600, pattern=r"^[^\x00]+$")]
Ids = Annotated[list[Id], Field(min_length=1, max_length=IDS_MAX)]


class Why(BaseModel):
    """Why it is decided; is kept with the decision."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=REASON_CHARS_MAX, pattern=r"\S", examples=["the rates are there now"])


class EditLetter(Why):
    data: Any = Field(description="The event's new data, as JSON: exactly these bytes are kept")
    seen: str = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="`seen` of the letter that was changed into it: data that somebody else has written since is not "
        "written over. It is there for who is shown the data whole",
    )


class ManyLetters(Why):
    ids: Ids = Field(description="Of the letters, as <topic>/<partition>:<number>")


class PurgeLetters(Why):
    older_s: float = Field(
        ge=0, le=1e10,
        description="Set aside longer ago than this, in seconds. Which these are is not asked: each was discarded, by "
        "somebody's decision, or refused",
    )  # fmt: skip


class DiscardGroup(Why):
    dead: int = Field(ge=1, description="How many of its letters are dead, as it was seen: another count is refused")
    seen: str = Field(pattern=r"^[0-9a-f]{16}$", description="`seen` of the group: other letters are refused")


class AcceptLoss(Why):
    source: str = Field(min_length=1, max_length=600)
    positions: int = Field(ge=1, description="How many positions are lost, as it was seen: another count is refused")
    through: int = Field(
        ge=1, lt=2**63, description="`lost_through` of the gap, as it was seen: others of the same count are refused"
    )


class OfSource(Why):
    source: str = Field(min_length=1, max_length=600)


class ForgetGap(OfSource):
    watermark: int = Field(
        ge=0, lt=2**63, description="Of the gap, as it was seen: one behind which more was applied since is another one"
    )


class Rewind(OfSource):
    watermark: int = Field(
        ge=1, lt=2**63, description="Up to which the source is applied, as it was seen: another one is refused"
    )
    position: int = Field(ge=0, lt=2**63, description="Up to which the source stays applied")


class NewEpoch(Why):
    source: str = Field(min_length=1, max_length=600, description="Of the epoch that ends, as it was seen")
    published_through: int = Field(
        ge=0, lt=2**63, description="As it was seen: a log that says something else by now is refused"
    )


class Replay(Why):
    type: str = Field(min_length=1, max_length=600, examples=["orders.OrderPlaced.v1"])


class PublishEvent(Why):
    type: str = Field(min_length=1, max_length=600, examples=["orders.OrderPlaced.v1"])
    data: Any = Field(description="The fields of its class, as JSON")


class Withdraw(Why):
    id: str = Field(min_length=1, max_length=1_000, description="Message id of the event that holds its partition")


class CancelTimers(Why):
    ids: Ids


class ManySagas(Why):
    sagas: Ids = Field(description="As <name>:<id>; all of them, or none")


class Refused(BaseModel):
    """A failure, which what was asked for came to."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    fields: dict[str, Any] = {}


class SkipOperation(Why):
    revision: int = Field(
        ge=1, lt=2**63, description="Of the saga, as it was seen: one that has gone on since is not skipped elsewhere"
    )
    operation: int | None = Field(None, ge=0, lt=2**63, description="Its number, where the saga is at several")
    result: Any = Field(None, description="What it came to; left out: it returns none")
    failure: Refused | None = Field(None, description="What it failed with, instead of a result")


class Rebuild(Why):
    rate: float = Field(0.0, ge=0, le=1e9, description="Events per second that one process takes; 0: as fast as it can")


class ResumeBuild(Why):
    rate: float | None = Field(None, ge=0, le=1e9, description="As for a rebuild; left out: as it was")


class AcceptMissing(Why):
    positions: int = Field(ge=1, description="How many positions are missing, as it was seen: another count is refused")
    seen: str = Field(
        pattern=r"^[0-9a-f]{16}$", description="`missing.seen` of the version: others of the same count are refused"
    )


class RollBack(Why):
    version: int = Field(
        ge=1, le=999_999,
        description="To which to go back, as it was seen: another one is refused, so that asked for twice it does not "
        "go there and back",
    )  # fmt: skip


class DropVersion(Why):
    version: int = Field(ge=1, le=999_999)
