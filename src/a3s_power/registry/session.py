"""Requests to one site: authorised, following redirects as far as is safe, their failures ours."""

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import httpx2

from a3s_power.hosts import is_loopback
from a3s_power.registry.auth import HUGGING_FACE, Keychain, is_hugging_face
from a3s_power.registry.authorization import Authorization, origin
from a3s_power.registry.errors import (
    BadReply,
    InsecureRegistry,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    Unauthorized,
)
from a3s_power.registry.replies import MAX_TEXT, check, close, message, our_errors, place, read_whole

CONNECT_S = 10.0
SILENCE_S = 30.0

ERROR_BODY_S = 30.0
_MAX_REDIRECTS = 10
_PRIVATE = "private and gated repositories need a token in HF_TOKEN that may read them"

# What a client that wants https sees of a server without it, or without a certificate it trusts.
_NO_TLS = (
    ssl.SSLError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    ConnectionRefusedError,
    ConnectionResetError,
)


@dataclass(frozen=True, slots=True)
class Site:
    """Who is talked to: `localhost:5000`.

    `insecure`: any certificate is trusted, and plain http is spoken where there is no https at all.
    """

    host: str
    insecure: bool = False
    scheme: str = "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, not yet authorised. `may_leave`: a redirect may lead to another host."""

    method: str
    url: httpx2.URL
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | AsyncIterator[bytes] = b""
    may_leave: bool = False
    silence_s: float = SILENCE_S

    @property
    def is_repeatable(self) -> bool:
        """Whether its body is still there after it was sent."""
        return isinstance(self.content, bytes)

    @property
    def deadline_s(self) -> float | None:
        """For all of an answer that is read at once, for the head of another; a long body takes what it takes."""
        return 2 * self.silence_s if self.is_repeatable else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    url: httpx2.URL
    status: int
    headers: httpx2.Headers
    body: bytes


class Session:
    """One conversation with the registry at `base` (`https://registry.ollama.ai`); made by `open_session`."""

    def __init__(self, http: httpx2.AsyncClient, base: httpx2.URL, keychain: Keychain, *, insecure: bool) -> None:
        self.base = base
        self._http = http
        self._insecure = insecure
        self._authorization = Authorization(http, base, keychain, is_private=not insecure)

    def url(self, path: str) -> httpx2.URL:
        """A path here, be it `//host/x`, with its query. Raises RegistryFailed for what no URL can have."""
        try:
            return httpx2.URL(f"{self.base}{path}")
        except httpx2.InvalidURL as exc:
            raise RegistryFailed(f"{place(self.base)}: no file's address: {exc}") from exc

    def is_own(self, url: httpx2.URL) -> bool:
        """Whether `url` is at the registry itself."""
        return origin(url) == origin(self.base)

    async def call(self, ask: Ask, limit: int = MAX_TEXT) -> Reply:
        """An answer of at most `limit` bytes, read to its end. Raises as `stream` does."""
        with our_errors(ask.url), anyio.fail_after(ask.deadline_s):
            async with self.stream(ask) as response:
                body = await read_whole(response, limit)
                return Reply(response.url, response.status_code, response.headers, body)

    @asynccontextmanager
    async def stream(self, ask: Ask) -> AsyncIterator[httpx2.Response]:
        """An answer that is no error, its body still to come. Raises RegistryFailed in all its forms."""
        with our_errors(ask.url), anyio.fail_after(ask.deadline_s):
            response = await self._follow(ask)
        try:
            with our_errors(ask.url), anyio.fail_after(ERROR_BODY_S):
                await check(response, is_own=self.is_own(response.url))
            yield response
        finally:
            await close(response)

    async def _follow(self, ask: Ask) -> httpx2.Response:
        """The answer at the end of all redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._authorized(ask)
            if not response.has_redirect_location:
                return response
            await close(response)
            target = joined(ask.url, response.headers["Location"])
            self._check_redirect(ask, target)
            ask = replace(ask, url=target)
        raise BadReply(f"maximum redirects exceeded ({_MAX_REDIRECTS})")

    def _check_redirect(self, ask: Ask, target: httpx2.URL) -> None:
        source = place(ask.url)
        if ask.method not in {"GET", "HEAD"}:
            raise BadReply(f"{source} redirects a {ask.method}, which is not followed")
        if not ask.may_leave and not self.is_own(target):
            raise BadReply(f"{source} redirects to another host, {place(target)}, which is not followed")
        if target.scheme not in {"https", ask.url.scheme}:  # never away from https, nor to a file
            raise BadReply(f"{source} redirects from {ask.url.scheme} to {target.scheme}, which is not followed")

    async def _authorized(self, ask: Ask) -> httpx2.Response:
        """The answer to one request, after a token was fetched if that was what it took."""
        response = await self._send(ask)
        if response.status_code != 401 or not self.is_own(ask.url):
            return response
        try:
            if is_hugging_face(self.base.host):  # its challenges have no answer but the token, which it has seen
                raise Unauthorized(f"unauthorized: access denied: {await message(response)}; {_PRIVATE}")
            await self._authorization.answer(response)
        finally:
            await close(response)
        if not ask.is_repeatable:
            raise RegistryRefused(401, "authorised anew, send it again", is_transient=True)
        response = await self._send(ask)
        if response.status_code == 401:
            await close(response)
            raise Unauthorized
        return response

    async def _send(self, ask: Ask) -> httpx2.Response:
        timeout = httpx2.Timeout(ask.silence_s, connect=CONNECT_S)
        request = self._http.build_request(
            ask.method, ask.url, headers=ask.headers, content=ask.content, timeout=timeout
        )
        if header := self._authorization.header(ask.url):
            request.headers["Authorization"] = header
        try:
            with our_errors(ask.url):
                return await self._http.send(request, stream=True)
        except RegistryUnreachable as exc:
            if self._wants_trust(ask.url) and any(isinstance(cause, _NO_TLS) for cause in _causes(exc)):
                raise InsecureRegistry(place(self.base), str(exc.__cause__)) from exc
            raise

    def _wants_trust(self, url: httpx2.URL) -> bool:
        return self.is_own(url) and url.scheme == "https" and not self._insecure


@asynccontextmanager
async def open_session(
    site: Site, *, keychain: Keychain, user_agent: str, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[Session]:
    """Talk to a site, trusting what the machine trusts (`SSL_CERT_FILE`), through the environment's proxies.

    Raises InsecureRegistry for plain http that nobody allowed, and RegistryFailed.
    """
    base = _base(site)
    if base.scheme != "https" and not site.insecure:
        raise InsecureRegistry(place(base), f"its address is {base.scheme}")
    headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}  # digests are of the bytes as stored
    try:
        client = httpx2.AsyncClient(
            headers=headers, verify=not site.insecure, transport=transport, mounts=_no_proxy(base)
        )
    except (OSError, ValueError, ImportError) as exc:  # a proxy or certificates of the environment that are none
        raise RegistryFailed(f"cannot speak to {site.host} with this environment: {exc}") from exc
    async with client as http:
        if site.insecure and base.scheme == "https" and not await _speaks_tls(http, base):
            base = base.copy_with(scheme="http")
        yield Session(http, base, keychain, insecure=site.insecure)


def _base(site: Site) -> httpx2.URL:
    """Where a site is asked; Hugging Face's short name only leads to its long one."""
    host = HUGGING_FACE if is_hugging_face(site.host) else site.host
    try:
        return httpx2.URL(f"{site.scheme}://{host}")
    except httpx2.InvalidURL as exc:
        raise RegistryFailed(f"{site.host}: no registry's address: {exc}") from exc


def _no_proxy(base: httpx2.URL) -> dict[str, None]:
    """HTTPS_PROXY does not lead back to this machine; Go makes the same exception."""
    return {f"all://{base.host}": None} if is_loopback(base.host) else {}


async def _speaks_tls(http: httpx2.AsyncClient, base: httpx2.URL) -> bool:
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    try:
        with our_errors(base), anyio.fail_after(2 * SILENCE_S):
            async with http.stream("GET", base.join("/v2/"), timeout=timeout):
                return True
    except RegistryUnreachable as exc:
        if isinstance(exc.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
            return False
        raise


def joined(url: httpx2.URL, location: str) -> httpx2.URL:
    """Where a `Location` leads, from `url`. Raises BadReply."""
    try:
        return url.join(location).copy_with(userinfo=b"", fragment=None)
    except httpx2.InvalidURL as exc:
        raise BadReply(f"{place(url)} leads to {location[:100]!r}: {exc}") from exc


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that led to it, members of groups included: `localhost` is tried at two addresses."""
    while exc:
        yield exc
        if isinstance(exc, BaseExceptionGroup):
            for member in exc.exceptions:
                yield from _causes(member)
        exc = exc.__cause__ or exc.__context__
