"""Schemathesis against the API's own OpenAPI document: requests that fit it, and requests that do not, many of each.

No answer may be a 500, or other than documented. A failure prints the seed and the request as a curl command.
DESK_SEED and DESK_EXAMPLES look further.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    negative_data_rejection,
    positive_data_acceptance,
)
from tests.unit.console.conftest import settle
from tests.unit.console.desk import client, desk_api

from ensue.console.rest import schema as described
from ensue.console.rest.route import ACTION, ROLE

SEED = int(os.environ.get("DESK_SEED", "20261128"))
EXAMPLES = int(os.environ.get("DESK_EXAMPLES", "3"))
#: Of what is there, for a part of a path that was generated: a random one never hits.
KNOWN: dict[str, Any] = {
    "service": "desk_books", "topic": "desk", "partition": 0, "number": 1, "name": "ship", "saga": "one",
}  # fmt: skip

app = desk_api()
config = SchemathesisConfig(seed=SEED)
config.projects.default.generation.update(max_examples=EXAMPLES)
# Every boundary of every field takes two minutes: for who looks further.
config.projects.default.phases.coverage.enabled = "DESK_EXAMPLES" in os.environ
api = schemathesis.openapi.from_dict(described.document(app), config=config)
api.app = app


@pytest.fixture(scope="module", autouse=True)
def home(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    copy = tmp_path_factory.mktemp("openapi") / "desk"
    shutil.copytree(seeded, copy)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, copy)
        yield


@api.parametrize()
def test_the_api_answers_as_its_document_says(case: Case[Any]) -> None:
    print(f"DESK_SEED={SEED}")
    validate(case, excluded=[positive_data_acceptance])
    parts = case.path_parameters or {}
    if parts:
        parts.update({name: value for name, value in KNOWN.items() if name in parts})
        validate(case, excluded=[negative_data_rejection, positive_data_acceptance])


def validate(case: Case[Any], excluded: list[Any]) -> None:
    # The id of a saga may hold a slash, so what comes behind it may be a part of the id: GET .../retry shows a saga.
    response = case.call(headers={"x-user": "ann"})
    case.validate_response(response, excluded_checks=[*excluded, allow_header_conformance])


async def test_the_document_is_served_and_says_who_may_ask() -> None:
    document = described.document(app)
    async with client(app) as asking:
        assert (await asking.get("/openapi.json")).json() == json.loads(json.dumps(document))
    assert document["openapi"] == "3.1.0"
    for name, each in document["components"]["schemas"].items():
        rooted = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.Draft202012Validator(
            rooted
        )  # raises for what is no schema, and for a reference that leads nowhere
        assert each
    for path in document["paths"].values():
        for operation in path.values():
            assert operation[ACTION]
            assert operation[ROLE]
            assert operation["description"]
