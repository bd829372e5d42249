"""How one pull or push answers a registry that asks who is there.

What identifies us, a signature or a password, goes to the registry's own scheme, host and port and nowhere else.
A token service on another host may be asked, over https, as nobody in particular.
"""

import secrets
import time

import anyio
import httpx2
from anyio import to_thread

from a3s_power.registry.auth import Keychain
from a3s_power.registry.challenge import Basic, Bearer, parse_challenges, parse_token, signed_text, token_url
from a3s_power.registry.errors import RegistryFailed, RegistryRefused, Unauthorized
from a3s_power.registry.replies import MAX_TEXT, check, close, our_errors, place, read_whole

_TOKEN_S = 60.0


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port: whom one talks to."""
    return url.scheme, url.host, url.port


class Authorization:
    """The `Authorization` header of one conversation with the registry at `base`; kept until it is refused."""

    def __init__(
        self, http: httpx2.AsyncClient, base: httpx2.URL, keychain: Keychain, *, is_private: bool
    ) -> None:
        self._http = http
        self._base = base
        self._keychain = keychain
        self._lock = anyio.Lock()
        token = keychain.token(place(base)) if is_private and base.scheme == "https" else None
        self._header: str | None = f"Bearer {token}" if token else None
        self._answered: Basic | Bearer | None = None

    def header(self, url: httpx2.URL) -> str | None:
        """What to show at `url`: nothing anywhere but at the registry."""
        return self._header if origin(url) == origin(self._base) else None

    async def answer(self, refused: httpx2.Response) -> None:
        """Get what a 401 asks for. Raises Unauthorized when there is nothing more to show."""
        challenge = parse_challenges(refused.headers.get_list("WWW-Authenticate"))
        if challenge is None:
            raise Unauthorized
        shown = refused.request.headers.get("Authorization")
        async with self._lock:
            if challenge == self._answered and shown != self._header:
                return  # another request of ours was refused too and has asked meanwhile
            self._header = await self._ask(challenge)
            self._answered = challenge

    async def _ask(self, challenge: Basic | Bearer) -> str:
        match challenge:
            case Basic():
                password = await self._password()
                if password is None:
                    raise Unauthorized
                return f"Basic {password}"
            case Bearer():
                return f"Bearer {await self._token(challenge)}"

    async def _token(self, challenge: Bearer) -> str:
        if origin(challenge.realm) != origin(self._base):
            return await self._foreign_token(challenge)
        password = await self._password()
        if password is not None:
            return await self._fetch(token_url(challenge), f"Basic {password}")
        try:
            return await self._signed_token(challenge)
        except RegistryRefused as refusal:
            # A registry that knows nothing of Ollama's keys may still give everyone a token to read with.
            try:
                return await self._fetch(token_url(challenge))
            except RegistryFailed:
                raise refusal from None

    async def _foreign_token(self, challenge: Bearer) -> str:
        if challenge.realm.scheme != "https":
            raise Unauthorized(
                f'realm host "{place(challenge.realm)}" does not match original host "{place(self._base)}"'
            )
        return await self._fetch(token_url(challenge))

    async def _signed_token(self, challenge: Bearer) -> str:
        url = token_url(challenge, ts=str(int(time.time())), nonce=secrets.token_urlsafe(16))
        return await self._fetch(url, await to_thread.run_sync(self._keychain.sign, signed_text(url)))

    async def _password(self) -> str | None:
        return await to_thread.run_sync(self._keychain.password, place(self._base))

    async def _fetch(self, url: httpx2.URL, authorization: str | None = None) -> str:
        headers = {"Authorization": authorization} if authorization else {}
        with our_errors(url), anyio.fail_after(_TOKEN_S):
            response = await self._http.send(self._http.build_request("GET", url, headers=headers), stream=True)
            try:
                await check(response, is_own=True)
                return parse_token(await read_whole(response, MAX_TEXT))
            finally:
                await close(response)
