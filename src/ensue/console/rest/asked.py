"""The parts of a path and a query that several routes have."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query

from ensue.console.rest.route import Asking, asking

Who = Annotated[Asking, Depends(asking)]
Named = Annotated[str, Path(min_length=1, max_length=200, description="A service's name, of a view with its version")]
Topic = Annotated[str, Path(max_length=250, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Number = Annotated[int, Path(ge=0, lt=2**31, description="Of the topic's partitions, from 0")]
OfLetter = Annotated[int, Path(gt=-(2**63), lt=2**63, description="The letter's number in its partition")]
GroupName = Annotated[str, Path(max_length=64, pattern=r"^[0-9a-f]+$")]
SagaName = Annotated[str, Path(max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
SagaId = Annotated[str, Path(min_length=1, max_length=200)]
#: Of one page.
PAGE, PAGE_MAX = 100, 10_000
#: Of users' data on one page: it is shorter than was asked for where they are large. A record may have a megabyte, and
#: whoever may look at ten thousand of them must not take the host's memory by that.
PAGE_BYTES_MAX = 16 << 20
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
After = Annotated[str | None, Query(max_length=1_000, description="`next` of the page before")]
