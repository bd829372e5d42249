"""What is Ollama's cloud's to do: accounts, web search, recommendations. Here it is off, whatever the settings.

Clients ask before they offer such things, so they get the answers of an Ollama whose operator has switched it off.
"""

from starlette.requests import Request
from starlette.responses import Response

from a3s_power.api.ollama.replies import json_reply
from a3s_power.errors import CloudDisabled, InvalidRequest
from a3s_power.wire import ollama as wire


async def status(_request: Request) -> Response:
    """GET /api/status.

    The source is `env`: Ollama's desktop app offers a switch for what `config` has turned off, and lets its tools
    go on; `env` is the operator's word, that clients do not try to change.
    """
    return json_reply(wire.ServerStatusReply(wire.CloudStatus(disabled=True, source="env")))


async def me(_request: Request) -> Response:
    """POST /api/me: nobody is signed in.

    Every client takes a 401 for that, and a 503 for a fault worth a retry; without a `signin_url` none opens a
    browser on a page that could not sign this server in.
    """
    return json_reply(wire.ErrorReply("unauthorized"), 401)


async def signout(_request: Request) -> Response:
    """POST /api/signout, and its older form DELETE /api/user/keys/:encodedKey."""
    return json_reply(wire.ErrorReply("you are not currently signed in"), 401)


async def web_search(request: Request) -> Response:
    """POST /api/experimental/web_search."""
    await _has_body(request)
    raise CloudDisabled("web search is unavailable")


async def web_fetch(request: Request) -> Response:
    """POST /api/experimental/web_fetch."""
    await _has_body(request)
    raise CloudDisabled("web fetch is unavailable")


async def recommendations(_request: Request) -> Response:
    """GET /api/experimental/model-recommendations: we recommend nothing."""
    return json_reply(wire.RecommendationsReply([]))


async def _has_body(request: Request) -> None:
    if not (await request.body()).strip():
        raise InvalidRequest("missing request body")
