"""What a form brings back, so that nobody else can send it, and sending it twice does it once.

A form's token is made of when the form was shown, of chance, and of a cookie that only pages of this site send along. A
page elsewhere has neither the cookie nor a token that fits it. Nothing is kept for that in the process, so another one
behind the same address can check it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from ensue.errors import UsageError

#: Under which name a browser has it: see `cookies`.
COOKIE = "ensue-form"
#: How long a form may lie open in a browser, seconds.
FORM_S = 12 * 3600.0
_CLOCKS_S = 60.0  # by which the clocks of two processes may differ
_TOKEN = re.compile(r"([0-9]{1,12})\.([\w-]{16,40})\.([0-9a-f]{64})")
_COOKIE = re.compile(r"[\w-]{40,60}")


class Form(NamedTuple):
    """A form that came back. id: of this form alone. shown_at: seconds since the epoch."""

    id: str
    shown_at: float


def new_cookie() -> str:
    return secrets.token_urlsafe(32)


def is_cookie(value: str) -> bool:
    return _COOKIE.fullmatch(value) is not None


def issue(cookie: str, now: float) -> str:
    """A token for one form. now: seconds since the epoch."""
    said = f"{now:.0f}.{secrets.token_urlsafe(12)}"
    return f"{said}.{_seal(cookie, said)}"


def check(token: str, cookie: str, now: float) -> Form:
    """Raises UsageError for a token that was not made with this cookie, and for a form that lay open for too long.

    >>> check(issue("c" * 43, 100.0), "c" * 43, 101.0).shown_at
    100.0
    """
    found = _TOKEN.fullmatch(token)
    if (
        found is None
        or not is_cookie(cookie)
        or not hmac.compare_digest(found[3], _seal(cookie, f"{found[1]}.{found[2]}"))
    ):
        raise UsageError(
            "this form was not sent by a page of the console in this browser, so nothing was done: open the page "
            "again, with cookies allowed, and decide there"
        )
    shown_at = float(found[1])
    if not -_CLOCKS_S <= now - shown_at <= FORM_S:
        raise UsageError(
            f"this form was shown more than {FORM_S / 3600:g} hours ago, so nothing was done: open the page again, and "
            "look whether it is still so"
        )
    return Form(found[2], shown_at)


def _seal(cookie: str, said: str) -> str:
    return hmac.new(cookie.encode(), said.encode(), hashlib.sha256).hexdigest()


def run_id(form: Form, cookie: str, what: str) -> str:
    """What is done for a form is found by this name: nobody else's form can have it. what: which of the forms of its
    page it is; they have one token."""
    return hashlib.blake2s(f"{form.id} {cookie} {what}".encode("utf-8", "replace"), digest_size=12).hexdigest()
