"""What the URL of a Redis may say, whether it is a log or a store: of TLS, and of what redis-py makes of answers."""

from __future__ import annotations

from urllib.parse import urlsplit

from ensue.addresses import Options, check_encoded, check_one_host
from ensue.errors import UsageError
from ensue.tls import demanded

#: In a URL they would win over what we tell redis-py: what an answer looks like, and what it makes of one.
_OURS = ("decode_responses", "encoding", "encoding_errors", "protocol")


def redis_url(what: str, url: str) -> str:
    """Return the URL as redis-py has it, to which TLS is a scheme. what: which URL, e.g. "broker URL".

    Raises UsageError that names the option, never the URL.
    """
    check_encoded(what, url)
    check_one_host(what, url)
    parts = urlsplit(url)
    options = Options(what, parts.query).left
    for name in _OURS:
        if name in options:
            raise UsageError(
                f"{what}: {name} cannot be set, Ensue reads answers as RESP2 has them, in bytes, which every server "
                "speaks: leave it out",
                found=name,
            )
    return parts._replace(scheme="rediss").geturl() if demanded(what, parts.scheme, options) else url
