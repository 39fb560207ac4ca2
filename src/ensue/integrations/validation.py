"""What FastAPI finds wrong with a request, as a problem document."""

from __future__ import annotations

from typing import cast

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from ensue.integrations import problems


async def invalid_request(request: Request, error: Exception) -> Response:
    invalid = cast(RequestValidationError, error)
    first = invalid.errors()[0] if invalid.errors() else {}
    if first.get("type") == "json_invalid":
        why = problems.printable(str(first.get("ctx", {}).get("error", "")))
        detail = f"The body is no JSON: {why} at character {first['loc'][-1]}"
        return problems.response(request, 400, "Malformed body", detail, type=problems.MALFORMED_BODY)
    if isinstance(invalid.body, bytes):  # FastAPI leaves a body as it came when its content type is not JSON
        detail = "Send the body as JSON, with the header Content-Type: application/json"
        return problems.response(request, 415, detail=detail)
    return problems.response(
        request,
        422,
        "Invalid request",
        "Some fields are wrong, see errors",
        type=problems.VALIDATION,
        errors=problems.field_errors(invalid.errors()),
    )
