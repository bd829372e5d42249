"""Pictures by URL: fetched from hosts that the operator allows, at public addresses, within bounds.

The URL is a client's, and a redirect or a DNS answer may be an enemy's; none of them may make the server talk to
the machines around it. So each hop is checked anew, and connects to the very address that was checked. There is no
proxy, whatever the environment says: it would look the name up for itself.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Self

import anyio
import httpx2

from a3s_power.errors import AppError, InvalidRequest
from a3s_power.registry.errors import RegistryFailed
from a3s_power.registry.replies import our_errors, place, read_whole
from a3s_power.registry.session import joined

IPAddress = IPv4Address | IPv6Address

_WHERE = "A3S_POWER_IMAGE_URLS says from where they may be fetched"
_PORTS = {"https": 443, "http": 80}
_MAX_NAME = 253  # characters (RFC 1035)
_CLOSING_S = 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one picture may cost."""

    size_bytes: int = 20 * 1024 * 1024
    redirects: int = 3
    total_s: float = 10.0
    connect_s: float = 3.0
    """With one address of several."""


# ---- addresses ----


# From IANA's special-purpose registries, and one that is not in them.
_NOT_PUBLIC: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("0.0.0.0/8"),         # 0.0.0.0 is this machine
    IPv4Network("10.0.0.0/8"),        # private
    IPv4Network("100.64.0.0/10"),     # behind a carrier's NAT; Alibaba Cloud's metadata
    IPv4Network("127.0.0.0/8"),       # loopback
    IPv4Network("168.63.129.16/32"),  # Azure's host, as its guests see it
    IPv4Network("169.254.0.0/16"),    # link-local; the metadata of most clouds
    IPv4Network("172.16.0.0/12"),     # private
    IPv4Network("192.0.0.0/24"),      # protocols; Oracle Cloud's metadata
    IPv4Network("192.0.2.0/24"),      # documentation
    IPv4Network("192.88.99.0/24"),    # 6to4 relays
    IPv4Network("192.168.0.0/16"),    # private
    IPv4Network("198.18.0.0/15"),     # benchmarks
    IPv4Network("198.51.100.0/24"),   # documentation
    IPv4Network("203.0.113.0/24"),    # documentation
    IPv4Network("224.0.0.0/4"),       # multicast
    IPv4Network("240.0.0.0/4"),       # reserved; broadcast
    IPv6Network("2001::/23"),         # protocols; Teredo, which holds IPv4 addresses
    IPv6Network("2001:db8::/32"),     # documentation
    IPv6Network("2002::/16"),         # 6to4, which holds IPv4 addresses
    IPv6Network("3fff::/20"),         # documentation
)  # fmt: skip

# In IPv6 nothing else is public: not ::1, fc00::/7, fe80::/10, ff00::/8, nor what a kernel or a router takes an
# IPv4 address out of again: ::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48.
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def is_public(address: IPAddress) -> bool:
    """Whether an address means the same machine to everyone on the Internet."""
    is_unicast = isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST
    return is_unicast and not any(address in network for network in _NOT_PUBLIC)


async def resolve(host: str) -> Sequence[IPAddress]:
    """All addresses of a host, best first; none of one that cannot be found. `127.1` means 127.0.0.1 here."""
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # ValueError: what no host can be called
        return []
    return [ip_address(sockaddr[0]) for *_, sockaddr in found]


# ---- hosts ----


def is_listed(url: httpx2.URL, allowed: Sequence[str]) -> bool:
    """Whether an http(s) URL's host is among `images.example`, `images.example:8443`, `*.example.com`, or `*`.

    An entry without a port allows the scheme's own alone.
    """
    name = place(url)
    names = (name, f"{name}:{_PORTS[url.scheme]}") if url.port is None else (name,)
    return ("*" in allowed and url.port is None) or any(_fits(entry, name) for entry in allowed for name in names)


def _fits(entry: str, name: str) -> bool:
    return name == entry or (entry.startswith("*.") and name.endswith(entry[1:]))


# ---- fetching ----


class ImageUrls:
    """Fetches pictures from `allowed` hosts; with none, from nowhere.

    `resolve` and `accepts` are for tests, whose servers are on loopback; no setting leads to them.
    """

    def __init__(
        self,
        allowed: Sequence[str],
        user_agent: str,
        *,
        bounds: Bounds = Bounds(),
        resolve: Callable[[str], Awaitable[Sequence[IPAddress]]] = resolve,
        accepts: Callable[[IPAddress], bool] = is_public,
    ) -> None:
        self._allowed = tuple(allowed)
        self._user_agent = user_agent
        self._bounds = bounds
        self._resolve = resolve
        self._accepts = accepts
        self._tls: ssl.SSLContext | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is allowed."""
        return bool(self._allowed)

    async def fetch(self, text: str) -> bytes:
        """What is at a URL, which may be anything: that it is a picture is for its decoder to find out.

        Raises InvalidRequest.
        """
        if not self._allowed:
            raise InvalidRequest(f"pictures by URL are switched off; {_WHERE}")
        try:
            url = httpx2.URL(text)
        except (httpx2.InvalidURL, UnicodeError) as exc:  # UnicodeError: half of a surrogate pair
            raise InvalidRequest(f"invalid picture URL: {exc}") from exc
        self._check(url)
        try:
            with our_errors(url), anyio.fail_after(self._bounds.total_s):
                return await self._follow(url)
        except RegistryFailed as exc:
            raise InvalidRequest(f"cannot fetch a picture: {exc}") from exc

    def _check(self, url: httpx2.URL) -> None:
        if url.scheme not in _PORTS or url.userinfo or not 0 < len(url.raw_host) <= _MAX_NAME:
            raise InvalidRequest(
                "invalid picture URL: expected http(s)://host/path, without user name and password"
            )
        if not is_listed(url, self._allowed):
            raise InvalidRequest(f"pictures from {place(url)} are not allowed here; {_WHERE}")

    async def _follow(self, url: httpx2.URL) -> bytes:
        """The body at the end of all redirects."""
        for _ in range(self._bounds.redirects + 1):
            async with self._answer(url) as response:
                if not response.has_redirect_location:
                    return await self._body(response)
                target = joined(url, response.headers["Location"])
            self._check(target)
            if target.scheme not in {"https", url.scheme}:
                raise InvalidRequest(f"cannot fetch a picture: {place(url)} redirects from https to http")
            url = target
        raise InvalidRequest(f"cannot fetch a picture: more than {self._bounds.redirects} redirects")

    async def _body(self, response: httpx2.Response) -> bytes:
        if response.status_code != 200:  # other successes are none: a 204 is empty, a 206 a part
            raise InvalidRequest(f"cannot fetch a picture: {place(response.url)} answers {response.status_code}")
        return await read_whole(response, self._bounds.size_bytes)

    @asynccontextmanager
    async def _answer(self, url: httpx2.URL) -> AsyncIterator[httpx2.Response]:
        """The answer to one request, its body still to come; the connection ends with the block."""
        found = await self._resolve(url.raw_host.decode())
        addresses = [address for address in found if self._accepts(address)]
        if not addresses:
            raise InvalidRequest(f"cannot fetch a picture: {place(url)} has no public address")
        async with _Connection(await self._trust()) as connection:
            yield await self._first_answer(connection, url, addresses)

    async def _first_answer(
        self, connection: "_Connection", url: httpx2.URL, addresses: Sequence[IPAddress]
    ) -> httpx2.Response:
        """From the first of a host's addresses that lets us connect."""
        headers = {"User-Agent": self._user_agent, "Accept": "image/*", "Accept-Encoding": "identity"}
        timeout = httpx2.Timeout(self._bounds.total_s, connect=self._bounds.connect_s)
        request = httpx2.Request("GET", url, headers=headers, extensions={"timeout": timeout.as_dict()})
        for address in addresses[:-1]:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await connection.send(request, address)
        return await connection.send(request, addresses[-1])

    async def _trust(self) -> ssl.SSLContext:
        """Whom the machine trusts; read once, when it is first needed."""
        if self._tls is None:
            try:
                self._tls = await anyio.to_thread.run_sync(httpx2.create_ssl_context)
            except (OSError, ValueError) as exc:  # SSL_CERT_FILE names what is none
                raise AppError(f"cannot fetch pictures with this environment's certificates: {exc}") from exc
        return self._tls


class _Connection:
    """A way to one host, for one answer: no cookies, no credentials, no proxy.

    None is kept for later: they are known by their address, so one made under another name could be taken.
    """

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._transport = httpx2.AsyncHTTPTransport(verify=trust)
        self._streams: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with anyio.move_on_after(_CLOSING_S, shield=True):
            await self._transport.aclose()
            for stream in self._streams:
                await stream.aclose()

    async def send(self, request: httpx2.Request, address: IPAddress) -> httpx2.Response:
        """Ask the machine at an address, under the name that the request's URL has, for TLS as for HTTP."""
        name = {"sni_hostname": request.url.raw_host.decode(), "trace": self._trace}
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=str(address)),
            headers=request.headers,  # its `Host` among them
            extensions={**request.extensions, **name},
        )
        response = await self._transport.handle_async_request(pinned)
        response.request = request
        return response

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember what is open: httpcore2 forgets a connection whose TLS handshake is cancelled."""
        if event == "connection.connect_tcp.complete":
            self._streams.append(info["return_value"])
