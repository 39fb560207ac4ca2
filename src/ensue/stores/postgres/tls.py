"""What a connection that did not come about over TLS means, and what to set. TLS itself is the drivers' business.

A server that is met in the wrong state may be met in the right one later: StoreUnavailable. A file or an option that
is not as the URL says is the URL's own fault: UsageError.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.stores.postgres.url import PostgresUrl

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
#: Of the drivers, which say it in English and give no code; what a server says in its own language is told by code.
_UNTRUSTED = ("certificate verify failed", "does not match host name")
_NO_TLS = ("rejected SSL upgrade", "server does not support SSL")
#: libpq's words for a file or an option that it cannot use.
_UNUSABLE = ("certificate file", "private key file", "certificate revocation list", "sslmode")


def explained(error: BaseException, url: PostgresUrl) -> EnsueError | None:
    """Return our error for a driver's, met before a connection stood; None: TLS is not the reason."""
    text, place = str(error).strip(), url.place
    if any(words in text for words in _UNTRUSTED):
        return StoreUnavailable(
            f"{place}: the server's certificate is not trusted: {text}. It must be signed by an authority in the file "
            "that sslrootcert names and, with sslmode=verify-full, be for the host that the URL names"
        )
    if any(words in text for words in _NO_TLS):
        return StoreUnavailable(
            f"{place}: the server does not speak TLS, which sslmode in the URL demands: {text}. Set ssl = on, "
            "ssl_cert_file and ssl_key_file there"
        )
    for name, file in parse_qsl(urlsplit(url.dsn).query):
        unreadable = _unreadable(file) if name in _FILES else ""
        if unreadable:
            return UsageError(f"{place}: {name} in the URL: {file}: {unreadable}")
    if isinstance(error, ssl.SSLError) and error.library == "SSL":
        return StoreUnavailable(
            f"{place}: TLS with the server failed, or a file of {', '.join(_FILES)} is none: {text}"
        )
    if isinstance(error, ssl.SSLError):
        return UsageError(f"{place}: a file of {', '.join(_FILES)} in the URL is none: {text}")
    if any(words in text for words in _UNUSABLE):
        return UsageError(f"{place}: see {', '.join(_FILES)} and sslmode in the URL: {text}")
    return None


def _unreadable(file: str) -> str:
    """Why a file cannot be read; empty: it can. `system` is libpq's word for the system's authorities."""
    if file == "system" and not Path(file).exists():
        return "only psycopg knows this word for the system's authorities, for asyncpg name their file"
    try:
        with open(file, "rb"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__
