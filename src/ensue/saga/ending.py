"""How a saga has ended, as `Service.ended` says it."""

from __future__ import annotations

import dataclasses
from typing import Generic, Literal, TypeVar

from ensue.failure import Failure

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class SagaEnd(Generic[T]):
    """result: what its function returned; None when it was undone. failure: for which it was undone."""

    status: Literal["COMPLETED", "UNDONE"]
    result: T | None
    failure: Failure | None
