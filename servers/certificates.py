"""Certificates for servers that speak TLS: an authority of its own for each server, made by `openssl`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from servers.base import Server, ServerMissing

_NEW = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
_AUTHORITY = (
    f"{_NEW} -x509 -days 2 -subj /CN=authority -addext keyUsage=critical,keyCertSign,cRLSign "
    "-keyout authority.key -out authority.pem"
)
_REQUEST = f"{_NEW} -subj /CN=server -keyout server.key -out server.csr"
_SIGN = (
    "x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names "
    "-out server.pem"
)


class Certificates(NamedTuple):
    """authority: what a client has to trust. certificate, key: the server's, for 127.0.0.1 alone."""

    authority: Path
    certificate: Path
    key: Path


def certificates(server: Server) -> Certificates:
    """Make them in the server's directory, unless they are there, as its account: PostgreSQL takes no other's key.

    The name `localhost` is left out, so that a test can call the server by a name that is not its own.
    Raises ServerMissing where openssl is not installed.
    """
    directory = server.directory
    made = Certificates(directory / "authority.pem", directory / "server.pem", directory / "server.key")
    if not made.certificate.exists():
        openssl = server.find("openssl")
        if openssl is None:
            raise ServerMissing(f"{server.name}: openssl is not installed, which makes certificates for TLS")
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        for command in (_AUTHORITY, _REQUEST, _SIGN):
            server.run(openssl, *command.split())
    return made
