"""The body of a request as a value of a type, where the framework does not read it."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from ensue.integrations import problems
from ensue.integrations.problems import Problem

T = TypeVar("T")

#: How msgspec says where it is: "Expected `int`, got `str` - at `$.total`".
_AT = re.compile(r"(?P<said>.*) - at `\$\.?(?P<where>.*)`", re.DOTALL)


async def read_json(request: Request, type: type[T]) -> T:
    """Return what the body says, as `type`: a msgspec struct, a dataclass, or what else msgspec reads.

    Raises Problem: 415 for a body that does not say that it is JSON, 400 for one that is not, 422 for one that does not
    fit, with the place and the reason in `errors`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise Problem(415, detail="Send the body as JSON, with the header Content-Type: application/json")
    body = await request.body()
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        found = _AT.fullmatch(str(error))
        where, said = (found["where"], found["said"]) if found else ("", str(error))
        location = f"body.{where}" if where else "body"
        errors = [{"location": location, "message": problems.printable(said), "type": "invalid"}]
        raise Problem(
            422, "Invalid request", "Some fields are wrong, see errors", type=problems.VALIDATION, errors=errors
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        detail = f"The body is no JSON: {problems.printable(str(error))}"
        raise Problem(400, "Malformed body", detail, type=problems.MALFORMED_BODY) from error
