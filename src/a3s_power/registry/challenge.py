"""The `WWW-Authenticate` header and the question for a token that it asks for. Pure.

Sources: RFC 6750, the distribution project's token specification, and Ollama's signed form of it.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import httpx2
import msgspec

from a3s_power.registry.errors import BadReply

_MAX_HEADER = 4096  # characters; the pattern below takes quadratic time on a hostile one
_PARAMETER = re.compile(r'(\w+)="(.*?)"(?=\s*,|\s*$)')
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_NO_BODY = base64.b64encode(hashlib.sha256().hexdigest().encode()).decode()


@dataclass(frozen=True, slots=True)
class Basic:
    """Show a password with every request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Show a token, which the service at `realm` gives."""

    realm: httpx2.URL
    service: str
    scope: str


def parse_challenges(headers: Iterable[str]) -> Basic | Bearer | None:
    """The challenge to answer, a token before a password; None when there is none that we know.

    Raises BadReply for a realm that is no URL.
    """
    found: Basic | Bearer | None = None
    for header in headers:
        scheme, _, rest = header.strip()[:_MAX_HEADER].partition(" ")
        match scheme.lower():
            case "bearer":
                return _bearer(dict(_PARAMETER.findall(rest)))
            case "basic":
                found = Basic()
    return found


def _bearer(parameters: dict[str, str]) -> Bearer:
    realm = parameters.get("realm", "")
    try:
        url = httpx2.URL(realm)
    except httpx2.InvalidURL as exc:
        raise BadReply(f"invalid realm {realm!r}: {exc}") from exc
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadReply(f"invalid realm {realm!r}: expected a URL")
    return Bearer(
        url.copy_with(userinfo=b"", fragment=None), parameters.get("service", ""), parameters.get("scope", "")
    )


def token_url(challenge: Bearer, **extra: str) -> httpx2.URL:
    """The realm with what is asked for, sorted by key as Go's `url.Values.Encode` has it."""
    query = parse_qsl(challenge.realm.query.decode(), keep_blank_values=True)
    query += [("service", challenge.service), *(("scope", scope) for scope in challenge.scope.split(" "))]
    query += extra.items()
    encoded = urlencode(sorted(query, key=lambda pair: pair[0]))
    return challenge.realm.copy_with(query=encoded.encode())


def signed_text(url: httpx2.URL) -> bytes:
    """What the key signs: method, whole URL, and the digest of no body (its hex text in base64)."""
    return f"GET,{url},{_NO_BODY}".encode()


class _TokenReply(msgspec.Struct):
    token: str = ""
    access_token: str = ""  # OAuth's name for it, which some services use


def parse_token(body: bytes) -> str:
    """The token in a service's reply. Raises BadReply."""
    try:
        reply = msgspec.json.decode(body, type=_TokenReply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadReply(f"the token service sent something unexpected: {exc}") from exc
    token = reply.token or reply.access_token
    if not _TOKEN.fullmatch(token):
        raise BadReply("the token service sent no token")
    return token
