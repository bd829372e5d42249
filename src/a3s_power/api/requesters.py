"""Who sends a request, and how urgently: read off HTTP, alike in all dialects."""

import hashlib
import ipaddress
import secrets
from collections.abc import Mapping
from functools import cache
from typing import Any

from starlette.requests import Request

from a3s_power.errors import InvalidRequest
from a3s_power.requester import Priority, Requester

HEADER = "X-Priority"
"""For clients that cannot add a field to the body."""

IPV6_PREFIX = 64
"""Bits that one network has: within it a machine changes its address as it likes (RFC 8981)."""

KEY_BYTES = 8


class InvalidPriority(InvalidRequest):
    """A priority that there is not."""

    def __init__(self) -> None:
        super().__init__("priority must be " + " or ".join(f'"{priority}"' for priority in Priority))


def requester_of(request: Request, priority: object) -> Requester:
    """The sender; `priority` is what the body says, and where that is nothing, the header counts.

    Raises InvalidPriority.
    """
    said = request.headers.get(HEADER) if priority is None else priority
    address = request.client.host if request.client else ""
    return Requester(client_of(address, request.headers, _secret()), _priority(said))


def _priority(said: Any) -> Priority:
    try:
        return Priority.INTERACTIVE if said is None else Priority(said)
    except ValueError:
        raise InvalidPriority from None


def client_of(address: str, headers: Mapping[str, str], secret: bytes) -> str:
    """`10.0.0.7`, or `10.0.0.7#3f9c…` with a key, which tells apart those who share a machine.

    Keys are not checked, so one proves nothing: it does not make two addresses the same client. Its digest depends
    on `secret`, lest it be looked up in a list of keys. Headers that claim to forward for others are not read:
    anyone can send them. Empty for a client that has neither address nor key.
    """
    key = _key(headers)
    mark = f"#{hashlib.blake2b(key.encode(), key=secret, digest_size=KEY_BYTES).hexdigest()}" if key else ""
    return f"{_network(address)}{mark}"


def _key(headers: Mapping[str, str]) -> str:
    """The same one counts as the same, whether a client of OpenAI's sends it or one of Anthropic's."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or headers.get("x-api-key", "")


def _network(address: str) -> str:
    """What cannot be changed at will of an address; empty for what is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if not isinstance(found, ipaddress.IPv6Address):
        return str(found)
    if found.ipv4_mapped:  # so a listener for both sees IPv4; all of it would be one network
        return str(found.ipv4_mapped)
    if found.is_link_local:  # all neighbours share that prefix
        return str(found)
    return str(ipaddress.IPv6Network((int(found), IPV6_PREFIX), strict=False))


@cache
def _secret() -> bytes:
    """Another one in each process."""
    return secrets.token_bytes(32)
