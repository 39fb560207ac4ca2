"""Problem documents in OpenAPI: what every operation may answer besides its own responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from ensue.integrations import problems
from ensue.integrations.routes import step_paths

_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_CHANGING = ("post", "put", "patch", "delete")

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "A problem document (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "description": "A URI that names the kind of problem.", "default": "about:blank"},
        "title": {"type": "string", "description": "The same for each problem of its type."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What went wrong this time, and what to do."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "errors": {
            "type": "array",
            "description": "The fields that are wrong.",
            "items": {
                "type": "object",
                "required": ["location", "message", "type"],
                "properties": {
                    "location": {"type": "string", "description": "Where, e.g. body.total"},
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}

IDEMPOTENCY_KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key again with the same request gets the same answer and has no second effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}

TOKEN_PARAMETER: dict[str, Any] = {
    "name": "Ensue-Token",
    "in": "header",
    "required": False,
    "description": "Of an earlier answer, or of several, with commas: this one waits until it sees what they wrote.",
    "schema": {
        "type": "string",
        "maxLength": 8192,
        "pattern": r"^[ ,]*(1\.[A-Za-z0-9_.-]+[ ,]+)*(1\.[A-Za-z0-9_.-]+)?$",
    },
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: `@app.get("/orders/{id}", responses=problem_responses(404))`."""
    return {
        status: {"description": problems.phrase(status), "content": {problems.MEDIA_TYPE: {"schema": _REFERENCE}}}
        for status in statuses
    }


def describe(app: FastAPI, tokens: Callable[[], bool] = lambda: False) -> None:
    """Let `app.openapi()` tell of the problem documents and of the Idempotency-Key. tokens: of Ensue-Token as well, for
    the routes that know it?"""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:  # FastAPI keeps the schema and hands out the same one again
            schemas["Problem"] = PROBLEM_SCHEMA
            waiting = step_paths(app) if tokens() else frozenset()
            for name, path in schema.get("paths", {}).items():
                for method in _METHODS:
                    if method in path:
                        _complete(path[method], method, tokens=(method, name) in waiting)
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _complete(operation: dict[str, Any], method: str, *, tokens: bool) -> None:
    possible = [400, 503]
    if tokens:
        possible += [409, 504]
        operation.setdefault("parameters", []).append(TOKEN_PARAMETER)
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]
        possible.append(422)
    if "requestBody" in operation:
        possible += [413, 415]
    if method in _CHANGING:
        possible.append(422)
        operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY_PARAMETER)
    for status, described in problem_responses(*sorted(set(possible))).items():
        operation["responses"].setdefault(str(status), described)
