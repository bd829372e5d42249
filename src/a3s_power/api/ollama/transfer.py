"""POST /api/pull and /api/push."""

import re
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.ollama import fields
from a3s_power.api.ollama.naming import checked_name
from a3s_power.api.ollama.progress import progress_reply
from a3s_power.errors import InvalidRequest
from a3s_power.service.places import file_url
from a3s_power.service.pulling import Pulls
from a3s_power.service.pushing import Pushes
from a3s_power.wire import ollama as wire

_HOST = r"([\w.-]+|\[[\da-f:.]+\])(:\d{1,5})?"
_REGISTRY = re.compile(rf"(?P<scheme>https?://)?(?P<host>{_HOST})/*", re.ASCII | re.IGNORECASE)


class TransferAPI:
    """The handlers; `pulls` and `pushes` do the work."""

    def __init__(self, pulls: Pulls, pushes: Pushes) -> None:
        self._pulls = pulls
        self._pushes = pushes

    async def pull(self, request: Request) -> Response:
        """POST /api/pull."""
        body = await fields.read(request, wire.PullRequest)
        source = body.model or body.name or ""
        insecure = bool(body.insecure)
        if url := file_url(source):
            return progress_reply(partial(self._pulls.pull_file, url, insecure=insecure), body.stream)
        name = checked_name(source, "pull")
        return progress_reply(partial(self._pulls.pull, name, insecure=insecure), body.stream)

    async def push(self, request: Request) -> Response:
        """POST /api/push."""
        body = await fields.read(request, wire.PushRequest)
        name = checked_name(body.model or body.name or "", "push")
        host, is_plain = _destination(body.destination)
        work = partial(self._pushes.push, name, insecure=bool(body.insecure) or is_plain, host=host)
        return progress_reply(work, body.stream)


def _destination(url: str | None) -> tuple[str | None, bool]:
    """The host of a registry's base URL, and whether it is asked over plain http."""
    if not url:
        return None, False
    found = _REGISTRY.fullmatch(url)
    if not found:
        raise InvalidRequest(f"destination {url!r} is no registry: expected https://host[:port]")
    return found["host"], found["scheme"] == "http://"
